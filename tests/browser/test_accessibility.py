"""axe-core finds nothing serious: https://github.com/dequelabs/axe-core, served from this machine."""

import shutil
import subprocess
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Inbox
from tests.integration.gateways import Gateway, redirect
from tests.integration.ledgers import file_effect
from tests.service import Service

AXE = "axe-core@4.14.1"
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its script."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--no-update-notifier", "--cache", str(folder / "cache"))
    subprocess.run(
        ["npm", "install", *quiet, "--prefix", str(folder), AXE], check=True, capture_output=True, timeout=120
    )
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_serious(
    service: Service, web: Gateway, look: Callable[..., Inbox], axe: str, scheme: str, width: int
) -> None:
    """The inbox and an open conversation with a dead copy, in both schemes, on a phone and on a wide screen."""
    redirect(service, "c1", "billing"), redirect(service, "گفتگو", "ai")
    file_effect(service, "c1", kind="record", state="dead", failures=9, last_error="no such conversation")
    inbox = look(web, color_scheme=scheme, viewport={"width": width, "height": 800})
    expect(inbox.row("c1")).to_be_visible()
    assert violations(inbox, axe) == []
    inbox.row("c1").click()
    expect(inbox.part("copy-record")).to_have_attribute("data-status", "dead")
    assert violations(inbox, axe) == []


def violations(inbox: Inbox, axe: str) -> list[str]:
    inbox.page.evaluate(axe)
    found = inbox.page.evaluate("axe.run()")
    return [
        f"{one['id']}: {one['help']} {[node['html'] for node in one['nodes']]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
