"""Print what the service is made of, as CycloneDX: each locked runtime package with its version, hashes and licence.

From requirements.lock and what is installed; nothing is asked over the network. https://cyclonedx.org/docs/1.6/json/
"""

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def bill(lock: list[str], project: dict[str, Any]) -> dict[str, Any]:
    """Of the blocks of a lock (ops/docker/subset.py). No time and no serial number: the same lock, the same bill."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _named("application", project["name"], project["version"])},
        "components": [_component(block) for block in lock],
    }


def _component(block: str) -> dict[str, Any]:
    found = re.match(r"([\w.-]+)==(\S+)", block)
    if found is None:
        raise ValueError(f"not locked to one version: {block.splitlines()[0]}")
    name, version = found.groups()
    hashes = [{"alg": "SHA-256", "content": told} for told in re.findall(r"--hash=sha256:([0-9a-f]{64})", block)]
    # The hashes are those of the files that may be installed: a wheel for each platform, and the source.
    files = {"type": "distribution", "url": f"https://pypi.org/project/{name}/{version}/", "hashes": hashes}
    purl = f"pkg:pypi/{name}@{version}"
    return _named("library", name, version) | {"purl": purl, "externalReferences": [files]} | _licence(name)


def _named(kind: str, name: str, version: str) -> dict[str, Any]:
    return {"type": kind, "bom-ref": f"{name}=={version}", "name": name, "version": version}


def _licence(name: str) -> dict[str, Any]:
    """As the installed package tells it. Nothing for one that is not installed here (for another platform)."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return {}
    if expression := told.get("License-Expression"):
        return {"licenses": [{"expression": expression}]}
    named = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or () if each.startswith("License ::")]
    free = told.get("License", "").strip()
    if not named and free and "\n" not in free:  # some put the whole text there
        named = [free]
    return {"licenses": [{"license": {"name": each}} for each in named]} if named else {}


def main() -> None:
    """The runtime's."""
    from docker import subset

    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = subset.subset(lock, {subset.normal(each) for each in project["dependencies"]})
    print(json.dumps(bill(wanted, project), indent=2))  # noqa: T201 - a command


if __name__ == "__main__":
    main()
