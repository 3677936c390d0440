"""`redirect-worker demo`: the product in one minute, and an exit code that tells the truth."""

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from config.settings import DESTINATIONS
from tests.acceptance import ups
from tests.eventually import eventually
from tests.integration.ledgers import event, file_effect, ledger_of
from tests.service import Service
from worker import demo, stack
from worker.db.records import BundledRecords
from worker.redirects import State
from worker.redis_client import key
from worker.tasks.cache import value

# Under 60 s is promised for a machine that does nothing else.
WITHIN = 170.0


@contextmanager
def begun(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo whose processes and folders can be told from all others: they inherit a TMPDIR of its own."""
    with (folder / "said").open("w") as output:
        process = subprocess.Popen(
            [str(ups.BIN / "redirect-worker"), "demo"],
            env=ups.clean_environment() | {"TMPDIR": str(tmp(folder))},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
        for left in processes(folder):
            left.kill()


def tmp(folder: Path) -> Path:
    made = folder / "tmp"
    made.mkdir(exist_ok=True)
    return made


def said(folder: Path) -> str:
    return (folder / "said").read_text()


def processes(folder: Path) -> list[psutil.Process]:
    """Whatever runs with the TMPDIR of this demo."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(tmp(folder)) and ups.alive([process]):
                marked.append(process)
        except psutil.Error:  # gone, or of another account
            continue
    return marked


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """One demo, to its end: exit code, what it printed, and where it could have left something."""
    folder = tmp_path_factory.mktemp("demo")
    with begun(folder) as process:
        code = process.wait(timeout=WITHIN)
        assert processes(folder) == []
    return code, said(folder), tmp(folder)


def test_the_demo_plays_four_acts_and_all_copies_agree(played: tuple[int, str, Path]) -> None:
    """Events, conversations, the cut and the healing, the comparison: in this order, and exit code 0."""
    code, text, _ = played
    assert code == 0, text
    acts = re.findall(r"^(\d)\. (.*)$", text, re.MULTILINE)
    assert [number for number, _title in acts] == ["1", "2", "3", "4"]
    first, second, third, fourth = re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]

    # Which are applied and which superseded depends on the order of arrival; how many there are does not.
    counts = dict(re.findall(r"^ +(applied|noop|superseded|rejected) +(\d+) ", first, re.MULTILINE))
    assert int(counts.pop("rejected")) == 10
    assert sum(map(int, counts.values())) == 26
    for code_said in ("unknown_destination", "malformed", "conflict", "owner_mismatch", "clock_skew", "expired"):
        assert f"{code_said}: " in first
    assert len(re.findall(r"^ {6}cache +\{", second, re.MULTILINE)) == 10
    assert len(re.findall(r"^ {6}browser +received version \d", second, re.MULTILINE)) == 10
    assert "sent 3 times, done once" in second
    assert "مشتری می‌خواهد با یک انسان صحبت کند" in second
    assert re.findall(r"^ {3}(\w+) +(\S+) +state: version", third, re.MULTILINE) == [
        ("behind", "abc123"),
        ("behind", "multi-6"),
        ("behind", "sales-17"),
        ("agree", "abc123"),
        ("agree", "multi-6"),
        ("agree", "sales-17"),
    ]
    # A busy machine sees several conversations at once, or not each attempt.
    assert re.search(r"cache of .+: attempt [2-9] failed", third) and "healed" in third
    assert "10 conversations, 30 copies (cache, record, browser): all agree" in fourth


def test_the_demo_leaves_no_folder(played: tuple[int, str, Path]) -> None:
    """Its home, its logs and its databases go with it (its processes were looked for when it ended)."""
    assert list(played[2].iterdir()) == []


@pytest.mark.slow
def test_a_demo_that_is_ended_leaves_nothing_either(tmp_path: Path) -> None:
    """SIGTERM in the middle of its work: no process and no folder, no traceback, and an exit code that is not 0."""
    with begun(tmp_path) as process:
        eventually(lambda: "1. A workflow engine sends" in said(tmp_path), within=60)
        before = processes(tmp_path)
        assert len(before) > 5

        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=60) != 0
        assert ups.alive(before) == []
        assert processes(tmp_path) == []
    assert list(tmp(tmp_path).iterdir()) == []
    assert "Traceback" not in said(tmp_path)


def agreeing(service: Service) -> list[str]:
    """Given three conversations, all copies of which agree; their ids."""
    ids = ["c-1", "c-2", "c-3"]
    ledger_of(service).accept([event(f"e-{each}", "billing", each) for each in ids])
    states = [State(**{name: row[name] for name in State.__slots__}) for row in map(service.state, ids) if row]
    BundledRecords(service.engine).save(states)
    for state in states:
        service.cache.set(key(state.conversation_id), value(state))
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM side_effects")
    return ids


def change_cache(service: Service) -> None:
    held = json.loads(str(service.cache.get(key("c-2"))))
    service.cache.set(key("c-2"), json.dumps(held | {"ai_enabled": True}))


def lose_cache(service: Service) -> None:
    service.cache.delete(key("c-2"))


def change_record(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE conversations SET destination = 'sales' WHERE id = 'c-2'")


def lose_record(service: Service) -> None:
    with service.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM conversations WHERE id = 'c-2'")


def fall_behind(service: Service) -> None:
    file_effect(service, "c-2", kind="websocket")


@pytest.mark.parametrize("damage", [change_cache, lose_cache, change_record, lose_record, fall_behind])
def test_one_copy_that_disagrees_is_named_and_is_exit_code_1(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Service], None],
) -> None:
    """One of nine copies was changed by hand, or is behind: the comparison at the end names it, and only it."""
    ids = agreeing(service)
    frames = {each: [1] for each in ids}
    scene = SimpleNamespace(
        engine=service.engine, cache=service.cache, frames=frames, until=lambda fact, what: eventually(fact)
    )

    @contextmanager
    def stage(*_: object) -> Iterator[SimpleNamespace]:
        yield scene

    monkeypatch.setattr(demo, "stage", stage)
    for act in ("_workflow_sends", "_conversations", "_cache_breaks"):
        monkeypatch.setattr(demo, act, lambda *_: None)
    assert demo.run() == 0

    damage(service)

    assert demo.run() == 1
    text = capsys.readouterr().out
    assert "1 copies disagree with the truth" in text
    (sentence,) = [line for line in text.splitlines() if "c-2" in line]
    assert "c-1" not in text and "c-3" not in text
    assert ("is behind" in sentence) == (damage is fall_behind)


def test_the_example_events_are_what_a_workflow_engine_sends() -> None:
    """Thirty and more: the AI and all five teams, duplicates, late arrivals, unknown, broken, and Persian."""
    lines = (stack.ROOT / "examples/events.jsonl").read_text().splitlines()
    events, broken = [], []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            broken.append(line)
    assert len(lines) >= 30
    assert len(broken) >= 1
    destinations = {each["destination"] for each in events}
    assert destinations > set(DESTINATIONS), "every destination, and one that there is not"
    assert max(Counter(json.dumps(each, sort_keys=True) for each in events).values()) >= 2
    assert _late(events)
    assert any(re.search(r"[\u0600-\u06ff]", str(each.get("reason"))) for each in events)
    assert any(not isinstance(each.get("conversation_id"), str) for each in events)


def _late(events: list[dict[str, object]]) -> list[object]:
    """Events that arrive after one of the same conversation that was decided later."""
    decided: dict[object, str] = {}
    late = []
    for each in events:
        at, conversation_id = str(each.get("occurred_at") or ""), each.get("conversation_id")
        if re.match(r"2026-", at):
            if at < decided.get(conversation_id, ""):
                late.append(each["event_id"])
            decided[conversation_id] = max(at, decided.get(conversation_id, ""))
    return late
