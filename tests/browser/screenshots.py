"""`make screenshots`: the pictures of the page in docs/, of a service that has just processed the example events."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import DEVELOPMENT
from tests.eventually import eventually
from tests.integration.gateways import Gateway, gateway
from tests.integration.ledgers import file_effect
from tests.service import Service
from worker import embedded
from worker.db import migrations

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "page"
EVENTS = ROOT / "examples" / "events.jsonl"
# Name: the conversation that is open, and the browser.
PICTURES = {
    "light": ("tech-5", {"color_scheme": "light", "viewport": {"width": 1360, "height": 860}}),
    "dark": ("demo-1", {"color_scheme": "dark", "viewport": {"width": 1360, "height": 860}}),
    "phone": (None, {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}),
}


@contextmanager
def filled() -> Iterator[Gateway]:
    """A gateway, with a worker and an intake, that has seen the example events; one copy is dead."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        urls = embedded.start(home)
        try:
            migrations.upgrade(urls["postgres"])
            service = Service(urls["postgres"], urls["broker"], urls["cache"], Path(folder))
            with (
                service.worker(),
                service.running("worker.intake", ready="reading the JSON queue"),
                gateway(service, **DEVELOPMENT) as web,
            ):
                _play(service)
                yield web
        finally:
            embedded.stop(home)


def _play(service: Service) -> None:
    for line in EVENTS.read_text().splitlines():
        try:
            service.send(json.loads(line))
        except ValueError:
            service.send(line)
    eventually(lambda: service.rows("SELECT 1 FROM conversation_states") and service.agrees())
    file_effect(
        service, "tech-5", kind="record", state="dead", failures=12, last_error="Permanent: no such conversation"
    )


def _talk(page: Page) -> None:
    """A customer asks for a human, and the AI falls silent."""
    chat = page.get_by_test_id("chat")
    for text in ("What are your opening hours?", "I want a human"):
        chat.get_by_role("textbox").fill(text)
        chat.get_by_role("textbox").press("Enter")
        page.wait_for_timeout(4500)


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed"
    with filled() as web, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=os.geteuid() != 0)
        for name, (conversation_id, options) in PICTURES.items():
            page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
            page.goto(f"http://127.0.0.1:{web.port}/" + (f"#c={conversation_id}" if conversation_id else ""))
            page.get_by_test_id("row").first.wait_for()
            if name == "dark":
                _talk(page)
            page.wait_for_timeout(1500)
            page.screenshot(path=DOCS / f"{name}.png")
            sys.stdout.write(f"{DOCS / name}.png\n")
        browser.close()


if __name__ == "__main__":
    main()
