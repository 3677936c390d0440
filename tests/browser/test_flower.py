"""What an operator sees in Flower of a redirect whose cache is broken: it is done, tries again, fails, and heals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.eventually import eventually
from tests.integration.ledgers import make_due
from tests.service import Service
from worker import embedded, stack
from worker.embedded.processes import free_port

pytestmark = pytest.mark.timeout(240)


def rows(page: Page, task: str) -> list[str]:
    """The rows of a task, as they stand in the table, the newest first."""
    page.reload()
    page.wait_for_selector("#tasks-table tbody tr td")
    return [row for row in page.locator("#tasks-table tbody tr").all_inner_texts() if task in row]


def told(page: Page, port: int, task: str) -> list[dict[str, Any]]:
    """All that Flower knows of the tasks of a name."""
    known = page.request.get(f"http://127.0.0.1:{port}/api/tasks?taskname={task}").json()
    return list(known.values())


def test_a_broken_cache_is_retried_fails_and_succeeds_by_the_sweep(
    service: Service, browser: Browser, tmp_path: Path
) -> None:
    """SUCCESS of the redirect at once; the cache: RETRY, then FAILURE when the quick retries end, then a SUCCESS that
    the sweep has rung. Arguments are ids, and no word of the customer.
    """
    home, port = tmp_path / "home", free_port(None)
    own = replace(service, redis_url=embedded.start(home, ["cache"])["cache"])
    flower = ("celery", "-A", "worker.app", "flower", "--conf=config/flower.py")
    try:
        with own.worker(), own.beat(), own.running(*flower, REDIRECT_FLOWER_PORT=str(port)):
            eventually(lambda: stack.listens(port))
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/tasks")
            embedded.stop(home)
            own.send({"event_id": "e1", "conversation_id": "c1", "destination": "billing", "reason": "I was hacked"})

            eventually(lambda: "SUCCESS" in "".join(rows(page, "redirect_conversation")), every=0.2)
            eventually(lambda: "RETRY" in "".join(rows(page, "update_cache")), every=0.2)
            eventually(lambda: "FAILURE" in "".join(rows(page, "update_cache")), every=1)
            assert "SideEffectParked" in json.dumps(told(page, port, "update_cache"))

            embedded.start(home, ["cache"])
            make_due(own)
            eventually(lambda: "SUCCESS" in "".join(rows(page, "update_cache")), every=1)
            eventually(own.agrees)

            # Who wrote: the redirect's own task also succeeds when a sweep made its last quick try, and wrote nothing.
            healed = [task["args"] for task in told(page, port, "update_cache") if "written" in str(task["result"])]
            assert set(healed) == {"('sweep',)"}  # the next sweep may have come before the first was answered
            (redirected,) = told(page, port, "redirect_conversation")
            assert redirected["args"] == "(c1 -> billing [e1])"
            (rung,) = [task for task in told(page, port, "update_cache") if task["args"] == "('e1',)"]
            assert rung["parent_id"] == redirected["uuid"]
            assert "hacked" not in page.content() + json.dumps(told(page, port, ""))
            page.close()
    finally:
        embedded.stop(home)
