"""python -m tests.chaos.mutations [number ...]: the table of docs/reliability.md; exit 1 where a removal is unseen."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.mutations.table import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("worker", "config", "tests", "ops", "docs", "examples", "pyproject.toml", "README.md", "Procfile", "Makefile")
# pytest's exit codes when tests have run. Any other says nothing about the safeguard.
PASSED, FAILED = 0, 1
TOLD = {PASSED: "green", FAILED: "red"}
WITHIN = 900


def main(chosen: Sequence[str]) -> int:
    unseen = []
    print("| removed | test | with it | without it |\n|---|---|---|---|", flush=True)  # noqa: T201 - what it is for
    for number, mutation in enumerate(MUTATIONS, start=1):
        if chosen and str(number) not in chosen:
            continue
        with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
            copy = copied(Path(folder))
            codes = [tested(mutation.test, copy)]
            apply(mutation, copy)
            codes.append(tested(mutation.test, copy))
        if codes != [PASSED, FAILED]:
            unseen.append(mutation.removes)
        with_it, without = (TOLD.get(code, f"no answer (pytest's exit code {code})") for code in codes)
        print(f"| {mutation.removes} | `{mutation.test}` | {with_it} | {without} |", flush=True)  # noqa: T201
    return 1 if unseen else 0


def copied(folder: Path) -> Path:
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


def apply(mutation: Mutation, folder: Path) -> None:
    for edit in mutation.edits:
        path = folder / edit.path
        text = path.read_text()
        assert text.count(edit.old) == 1, f"{edit.path} should have this once: {edit.old}"
        path.write_text(text.replace(edit.old, edit.new))


def tested(test: str, folder: Path) -> int:
    """The exit code of pytest in `folder`, whose code the processes of the test run too."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    with (folder / "output.txt").open("wb") as output:
        return subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=output, timeout=WITHIN, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
