"""Debian's Chromium, driven by Playwright, and a gateway with everything behind it."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.integration.gateways import Gateway, gateway
from tests.service import Service

SECRET = "a-secret-for-tests-of-more-than-32-characters"
# What the page is given in `make up`.
DEVELOPMENT = {"REDIRECT_JWT_SECRET": SECRET, "REDIRECT_DEVELOPMENT": "true"}
# Milliseconds that Playwright waits for a fact.
SOON = 15_000

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ended with its module: as long as it runs, Playwright's event loop counts as running in this thread, and no other
    test of the process could start one.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("chromium is not installed")
    sandbox = os.geteuid() != 0  # it refuses to run as root with one
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, chromium_sandbox=sandbox)
        yield browser
        browser.close()


@dataclass
class Inbox:
    """An open page."""

    page: Page
    errors: list[str]

    def part(self, name: str) -> Locator:
        return self.page.get_by_test_id(name)

    def row(self, conversation_id: str) -> Locator:
        return self.page.locator(f'[data-testid="row"][data-conversation-id="{conversation_id}"]')


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Inbox]]:
    """Opens the page of a gateway. Whatever happens there, its script must not fail."""
    opened: list[Inbox] = []

    def open_page(web: Gateway, path: str = "/", **options: object) -> Inbox:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)  # type: ignore[arg-type]
        context.set_default_timeout(SOON)
        page = context.new_page()
        inbox = Inbox(page, [])
        page.on("pageerror", lambda error: inbox.errors.append(str(error)))
        opened.append(inbox)
        page.goto(f"http://127.0.0.1:{web.port}{path}")
        return inbox

    yield open_page
    for inbox in opened:
        inbox.page.context.close()
        assert inbox.errors == []


@pytest.fixture
def web(service: Service) -> Iterator[Gateway]:
    """A gateway as `make up` runs it, with no worker: nothing moves by itself."""
    with gateway(service, **DEVELOPMENT) as web:
        yield web


@pytest.fixture
def whole(service: Service) -> Iterator[Gateway]:
    """The same with a worker and an intake."""
    with (
        service.worker(),
        service.running("worker.intake", ready="reading the JSON queue"),
        gateway(service, **DEVELOPMENT) as web,
    ):
        yield web
