"""`make sbom`: what the service is made of, as it is locked."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    """Name -> component."""
    command = [sys.executable, "-W", "error", str(ROOT / "ops/sbom.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    bill = json.loads(done.stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "redirect-worker"
    found = bill["components"]
    assert len({each["bom-ref"] for each in found}) == len(found)
    return {each["name"]: each for each in found}


def test_each_package_has_its_locked_version_and_hashes(components: dict[str, Any]) -> None:
    """As requirements.lock says them, letter by letter."""
    for name, component in components.items():
        version = component["version"]
        lines = re.search(rf"^{re.escape(name)}=={re.escape(version)} .*\n((?:    --hash=.*\n)+)", LOCK, re.MULTILINE)
        assert lines, name
        (files,) = component["externalReferences"]
        assert [each["content"] for each in files["hashes"]] == re.findall(r"sha256:(\w+)", lines[1])
        assert component["purl"] == f"pkg:pypi/{name}@{version}"


def test_it_is_what_runs_and_nothing_else(components: dict[str, Any]) -> None:
    """All that pyproject.toml asks for, and what that asks for in turn; no tool of a developer's."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[^\w-]", each)[0] for each in asked["dependencies"]} <= components.keys()
    assert {"amqp", "billiard", "starlette", "tornado"} <= components.keys()
    assert not {"pytest", "ruff", "mypy", "django", "hypothesis"} & components.keys()
    assert components["celery"]["licenses"]
