# Every target first builds .venv from the hash-locked requirements, so a fresh checkout needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export REDIRECT_HOME ?= $(CURDIR)/.redirect-worker

.DEFAULT_GOAL := help
.PHONY: help setup demo up test slow chaos soak mutations fuzz check bench screenshots lock sbom audit clean

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
	@$(PYTEST) -m "slow and not scenario"

chaos: setup  ## the fault scenarios of docs/reliability.md on both brokers, and their table (30 minutes)
	@$(PYTEST) --numprocesses 3 --dist load -v tests/chaos/scenarios

soak: setup  ## all faults at random under half of peak (MINUTES=30; ARGS="--seed N --broker redis")
	@$(BIN)/python -m tests.chaos.soak --minutes $(or $(MINUTES),30) $(ARGS)

mutations: setup  ## remove each safeguard once, from a copy: a test must see it (20 minutes)
	@$(BIN)/python -m tests.chaos.mutations

fuzz: setup  ## feed everything that reads with what nobody should send (MINUTES=10; SEED, ONLY and ROUND as a crash says)
	@$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) --only '$(ONLY)' --round $(or $(ROUND),0)

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

audit: .venv-audit/.done  ## ask whether a known vulnerability is in what the service is made of (1: yes, 2: nobody could be asked)
	@.venv-audit/bin/python ops/audit.py .venv-audit/bin/pip-audit

# In an environment of its own: the service is not made of it. Without its package nothing is audited either.
.venv-audit/.done:
	@$(PYTHON) -m venv .venv-audit
	@echo '*' > .venv-audit/.gitignore
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3' || { echo "NOT AUDITED: pip-audit cannot be installed" >&2; exit 2; }
	@touch $@

clean:  ## remove .venv and caches (never your data in .redirect-worker)
	@rm -rf $(VENV) .venv-bench .venv-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
