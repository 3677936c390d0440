# Every target first builds .venv from the hash-locked requirements, so a fresh checkout needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export REDIRECT_HOME ?= $(CURDIR)/.redirect-worker

.DEFAULT_GOAL := help
.PHONY: help setup demo up test slow check bench screenshots lock sbom clean

help:  ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.done  ## build the virtual environment from requirements.lock

$(VENV)/.done: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Building $(VENV) from requirements.lock (once, about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## everything from nothing: process the example events, break the cache, watch it heal
	@$(BIN)/redirect-worker demo

up: setup  ## stay up: worker, beat, gateway and Flower (Ctrl-C stops everything)
	@$(BIN)/redirect-worker up

PYTEST := $(BIN)/python -m pytest --numprocesses 4 --dist loadfile

test: setup  ## the test suite, on real servers that it starts itself
	@$(PYTEST) -m "not slow"

slow: setup  ## the rest of the tests: faults under load, the page in Chromium, whole starts and stops
	@$(PYTEST) -m slow

check: setup  ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

# The peers that we are compared with, and plots, in an environment of their own on our library versions.
bench: .venv-bench/.done  ## measure beside plain Celery, Dramatiq, Procrastinate and DBOS (20 to 40 minutes; ARGS=--quick tries it)
	@.venv-bench/bin/python -m benchmarks $(ARGS)

.venv-bench/.done: requirements-bench.lock
	@echo "Building .venv-bench from requirements-bench.lock (once, about a minute)"
	@$(PYTHON) -m venv .venv-bench
	@echo '*' > .venv-bench/.gitignore
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

screenshots: setup  ## take the pictures of the page in docs/page again (needs chromium)
	@$(BIN)/python -m tests.browser.screenshots

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml

lock: setup  ## renew both locks from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/$(LOCK) --extra dev -o requirements.lock
	@$(BIN)/$(LOCK) --extra bench --constraint requirements.lock -o requirements-bench.lock

sbom: setup  ## write sbom.cdx.json: what the service is made of (CycloneDX), from the lock
	@$(BIN)/python ops/sbom.py > sbom.cdx.json

clean:  ## remove .venv and caches (never your data in .redirect-worker)
	@rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
