"""Print the part of requirements.lock that an image needs: `run`, what the service needs; `build`, what installs it.

The lock also has what developers need. Each package of it says who wanted it ("# via"), which is followed here from
pyproject.toml down. pip's --require-hashes fails when anything is missing.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Hatchling asks for it when a project is installed editable.
EDITABLE = "editables"


def normal(name: str) -> str:
    """A package's one spelling (PEP 503), without extras, versions and markers."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0]).lower()


def blocks(lock: str) -> list[str]:
    """Each requirement with its hashes and comments; several may have one name, with different markers."""
    return re.findall(r"^\S.*(?:\n[ \t].*)*", lock, re.MULTILINE)


def wanted_by(block: str) -> set[str]:
    """The packages that its "via" comment names."""
    said = block.partition("# via")[2]
    return {normal(line.strip(" #")) for line in said.splitlines() if line.strip(" #")}


def subset(lock: str, roots: set[str]) -> list[str]:
    """The blocks of `roots` and of all that they want, in the order of the lock."""
    found = blocks(lock)
    needed, before = set(roots), set[str]()
    while needed != before:
        before = set(needed)
        needed |= {normal(block) for block in found if wanted_by(block) & needed}
    return [block for block in found if normal(block) in needed]


def main(purpose: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wants = {
        "run": project["project"]["dependencies"],
        "build": [*project["build-system"]["requires"], EDITABLE],
    }[purpose]
    sys.stdout.write("\n".join(subset((ROOT / "requirements.lock").read_text(), set(map(normal, wants)))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
