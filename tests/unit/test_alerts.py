"""Alerts: well formed, each with a page that says what to do; and they fire when they should, by promtool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "ops/prometheus/alerts.yaml"
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
STEPS = ("**It means**", "**Look**", "**Do**", "**It is over**")


def sections() -> dict[str, str]:
    parts = re.split(r"^## (\w+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    """Its page: what it means, how to look, what to do, how to know that it is over."""
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
    page = sections()[alert["alert"]]
    places = [page.index(step) for step in STEPS]
    assert places == sorted(places)


def test_each_page_has_its_alert() -> None:
    """In the order of the rules."""
    assert list(sections()) == [alert["alert"] for alert in ALERTS]


@pytest.mark.parametrize("words", [("check", "rules", RULES.name), ("test", "rules", "alerts_test.yaml")])
def test_promtool_finds_nothing_wrong(words: tuple[str, ...]) -> None:
    """The rules are Prometheus's, and fire on what they are for, and on nothing before."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not on this machine")
    done = subprocess.run([promtool, *words], cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
