"""A pytest plugin: while scenarios run, a line for each that ends; then the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

HEAD = (
    "#",
    "fault",
    "broker",
    "events",
    "faults",
    "lost",
    "recovered",
    "unexpected",
    "duplicated",
    "agreed in",
    "seed",
)


def rows(reports: Sequence[pytest.TestReport]) -> list[tuple[str, ...]]:
    """The table's rows, in the order of the scenarios; of one that failed, in place of the numbers, that it did."""
    found = []
    for report in reports:
        told: dict[str, Any] = dict(report.user_properties)
        if report.when != "call" or "scenario" not in told:
            continue
        number, title, broker = told["scenario"]
        found.append(((number, title, broker), _row(number, title, broker, told.get("verdict"), passed=report.passed)))
    return [row for _, row in sorted(found)]


def _row(number: int, title: str, broker: str, verdict: Any, *, passed: bool) -> tuple[str, ...]:
    if verdict is None or not passed:
        return (str(number), title, broker, *["-"] * 7, "failed")
    counters = (verdict[name] for name in ("events", "faults", "lost", "recovered", "unexpected", "duplicated"))
    return (str(number), title, broker, *map(str, counters), f"{verdict['agreed_in']:.1f} s", str(verdict["seed"]))


def markdown(table: Sequence[Sequence[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


class Reporter:
    """Registered by tests/chaos/conftest.py in the process that prints."""

    def __init__(self, write_to: str | None) -> None:
        self._write_to = write_to
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and "scenario" in dict(report.user_properties):
            self._reports.append(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._reports:
            return
        table = rows(self._reports)
        terminalreporter.section("scenarios")
        widths = [max(len(line[column]) for line in [HEAD, *table]) for column in range(len(HEAD))]
        for line in [HEAD, *table]:
            terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        if self._write_to:
            Path(self._write_to).write_text(markdown(table))
