"""Whether a known vulnerability is in what the service is made of: pip-audit over its part of requirements.lock.

Exits with 0: none is known. 1: some are, and are printed. 2: nobody could be asked, so nothing is known.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NONE_KNOWN, VULNERABLE, UNKNOWN = 0, 1, 2
OPTIONS = ("--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off", "--timeout=30")


def runtime() -> str:
    """The locked packages that run, with their hashes; no tool of a developer's."""
    from docker import subset

    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return "\n".join(subset.subset((ROOT / "requirements.lock").read_text(), set(map(subset.normal, asked)))) + "\n"


def found(program: str, lock: str) -> list[dict[str, Any]]:
    """The packages as `program` (pip-audit) judges them. Raises OSError where it could not ask."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(lock)
        file.flush()
        command = [program, *OPTIONS, "--requirement", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the Makefile's own
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError):
        said = (done.stderr.strip() or f"{program} ended with {done.returncode}").splitlines()
        raise OSError(said[-1]) from None
    return packages


def sentences(packages: list[dict[str, Any]]) -> Iterator[str]:
    for package in packages:
        for one in package.get("vulns", ()):
            mended = ", ".join(one.get("fix_versions", ())) or "no version yet"
            yield f"{package['name']} {package['version']}: {one['id']}, mended in {mended}"


def main(program: str) -> int:
    try:
        packages = found(program, runtime())
    except OSError as error:
        print(f"NOT AUDITED, nobody could be asked: {error}", file=sys.stderr)  # noqa: T201 - a command
        return UNKNOWN
    skipped = [f"{one['name']} ({one['skip_reason']})" for one in packages if "skip_reason" in one]
    known = list(sentences(packages))
    told = f"{len(packages) - len(skipped)} packages were judged: {len(known)} vulnerabilities"
    missing = [f"NOT AUDITED: {len(skipped)} of {len(packages)} packages, such as {one}" for one in skipped[:1]]
    print("\n".join([*known, *missing, told]))  # noqa: T201 - a command
    return VULNERABLE if known else UNKNOWN if skipped else NONE_KNOWN


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
