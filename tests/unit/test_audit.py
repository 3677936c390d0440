"""`make audit`: what it says and exits with, whatever pip-audit finds or cannot ask."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FINE = {"name": "celery", "version": "5.7.0", "vulns": []}
BAD = {"name": "kombu", "version": "5.7.0", "vulns": [{"id": "PYSEC-2030-1", "fix_versions": ["5.7.1"]}]}


def audited(tmp_path: Path, script: str) -> tuple[int, str, str]:
    """With a pip-audit that prints this; the requirements that it was given, and all that was said."""
    program, given = tmp_path / "pip-audit", tmp_path / "given"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncp "$last" {given}\n{script}\n')
    program.chmod(0o700)
    command = [sys.executable, str(ROOT / "ops/audit.py"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr, given.read_text()


def printing(*packages: object) -> str:
    return f"echo '{json.dumps({'dependencies': packages})}'"


def test_what_runs_is_judged_and_nothing_else(tmp_path: Path) -> None:
    """Each package with its hashes; none of a developer's."""
    code, said, given = audited(tmp_path, printing(FINE))
    assert (code, said) == (0, "1 packages were judged: 0 vulnerabilities\n")
    assert "celery==" in given and "--hash=sha256:" in given and "pytest==" not in given


def test_a_vulnerability_is_named_with_what_mends_it(tmp_path: Path) -> None:
    """Exit code 1."""
    code, said, _ = audited(tmp_path, printing(FINE, BAD) + "\nexit 1")
    assert code == 1
    assert "kombu 5.7.0: PYSEC-2030-1, mended in 5.7.1" in said and "2 packages were judged: 1 vulnerabilities" in said


@pytest.mark.parametrize("script", ["echo 'no route to host' >&2; exit 1", "exit 0", "echo '<html>'"])
def test_what_was_not_asked_is_not_called_clean(tmp_path: Path, script: str) -> None:
    """Exit code 2, and it says so."""
    code, said, _ = audited(tmp_path, script)
    assert code == 2 and "NOT AUDITED" in said


def test_a_package_that_was_left_out_is_not_called_clean(tmp_path: Path) -> None:
    """Exit code 2, with its name."""
    code, said, _ = audited(tmp_path, printing(FINE, {"name": "amqp", "skip_reason": "not found"}))
    assert code == 2 and "NOT AUDITED: 1 of 2 packages, such as amqp (not found)" in said
