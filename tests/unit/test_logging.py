"""A log line is bounded, whoever wrote its words; what is wrong with our code is told to its end."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from config.logging import LONGEST, configure

HUGE = "x" * 1024 * 1024
Told = Callable[[], str]


@pytest.fixture(params=["json", "text"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What this process logs, in either format."""
    root, stderr = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", stderr)
    configure(request.param)
    yield stderr.getvalue
    root.handlers[:], root.level = before
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "value",
    [HUGE, [HUGE], {"a": {HUGE: 1}}, HUGE.encode(), [1] * 100_000],
    ids=["text", "list", "object", "bytes", "many"],
)
def test_a_value_of_any_size_makes_a_line_of_bounded_size(told: Told, value: object) -> None:
    """Its beginning is there, and how long it was; the other keys are whole."""
    structlog.get_logger("a").info("redirect received", event_id=value, conversation_id="c1")

    line = told()
    assert LONGEST < len(line) < 2 * LONGEST
    assert " characters)" in line and "c1" in line and "redirect received" in line


def test_the_sentence_is_bounded_too(told: Told) -> None:
    """Also of the libraries, which log what they cannot read."""
    logging.getLogger("a.library").warning("cannot read %s", HUGE)

    line = told()
    assert "cannot read xxx" in line and len(line) < 2 * LONGEST


def test_what_is_short_enough_stays_as_it_is(told: Told, request: pytest.FixtureRequest) -> None:
    """To the last character, and JSON stays JSON."""
    reason = "y" * LONGEST
    structlog.get_logger("a").info("failed", error=reason, conversation_ids=["c1", "c2"], version=3, due_in=None)

    line = told()
    assert reason in line and "characters)" not in line
    if line.startswith("{"):
        found: dict[str, Any] = json.loads(line)
        assert (found["conversation_ids"], found["version"], found["due_in"]) == (["c1", "c2"], 3, None)


def test_a_traceback_is_not_cut(told: Told) -> None:
    """Its last line is the end of the error."""
    structlog.get_logger("a").error("it broke", exc_info=ValueError("x" * 2 * LONGEST + " the very end"))

    line = told()
    assert "the very end" in line and "characters)" not in line
