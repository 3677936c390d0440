"""`demo`: the product in one minute. Real servers, real workers, real events; ends by comparing all copies."""

import json
import time
from collections import Counter
from typing import Any

from sqlalchemy import text

from worker import copies, stack
from worker.demo import report
from worker.demo.stage import Stage, stage

EVENTS = "examples/events.jsonl"
# Conversation -> where it goes while the cache is cut off: to another team, back to the AI, and from the AI to people.
WHILE_CUT_OFF = {"abc123": "support", "sales-17": "ai", "multi-6": "billing"}
# Attempts that must have failed before the cache comes back, so that a scheduled retry is what heals it.
FAILURES = 3


def run(keep: bool = False) -> int:
    """Play the demo; returns the exit code: 0 only if all copies agree with the truth at the end."""
    began = time.monotonic()
    report.title("The redirect worker, from nothing")
    with stage(keep, report.note) as scene:
        report.note("worker, beat, gateway: running; a browser listens on /ws")
        events = [_decoded(line) for line in (stack.ROOT / EVENTS).read_text().splitlines()]
        _workflow_sends(scene, events)
        _conversations(scene, events)
        _cache_breaks(scene)
        wrong = _compare(scene)
        report.verdict(len(copies.read(scene.engine, scene.cache)), wrong, time.monotonic() - began)
    return 1 if wrong else 0


def _decoded(line: str) -> Any:
    """The line's JSON; a broken line as it is, which is how it would arrive."""
    try:
        return json.loads(line)
    except ValueError:
        return line


def _workflow_sends(scene: Stage, events: list[Any]) -> None:
    report.title(f"1. A workflow engine sends {len(events)} messages ({EVENTS})")
    report.note("to the AI and all five teams; some twice, some late, some broken; each a Celery task, sent by name")
    started = time.monotonic()
    for event in events:
        scene.send(event)
    distinct = len({json.dumps(event, sort_keys=True) for event in events})
    scene.until(lambda: _accounted_for(scene) == distinct, "every event to be in redirects or rejected_events")
    scene.until(lambda: not copies.behind(scene.engine), "every copy to be written")
    report.note(f"all decided and every copy written {time.monotonic() - started:.1f} s after the first was sent")
    report.outcomes(_rows(scene, "SELECT outcome, count(*) AS events FROM redirects GROUP BY 1 ORDER BY 1"))
    report.rejected(_rows(scene, "SELECT code, error, body FROM rejected_events ORDER BY received_at, id"))


def _accounted_for(scene: Stage) -> int:
    counted = "SELECT (SELECT count(*) FROM redirects) + (SELECT count(*) FROM rejected_events) AS total"
    return int(_rows(scene, counted)[0]["total"])


def _conversations(scene: Stage, events: list[Any]) -> None:
    report.title("2. Each conversation: the truth, its three copies, and how it came to be")
    scene.until(lambda: not _unseen(scene), "the browser to show every conversation")
    sent = Counter(json.dumps(event, sort_keys=True) for event in events)
    again = {json.loads(event)["event_id"]: times for event, times in sent.items() if times > 1}
    redirects = _rows(scene, "SELECT * FROM redirects ORDER BY received_at, event_id")
    for each in copies.read(scene.engine, scene.cache):
        conversation_id = each.state["conversation_id"]
        history = [row for row in redirects if row["conversation_id"] == conversation_id]
        report.conversation(each, scene.frames[conversation_id], history, again)


def _cache_breaks(scene: Stage) -> None:
    report.title("3. The cache is cut off from the worker; the broker and the database stay")
    scene.cut_cache()
    before, started = _versions(scene), time.monotonic()
    for conversation_id, destination in WHILE_CUT_OFF.items():
        event_id = f"cut-off-{conversation_id}"
        scene.send({"event_id": event_id, "conversation_id": conversation_id, "destination": destination})
    scene.until(lambda: all(_versions(scene)[c] > before[c] for c in WHILE_CUT_OFF), "three redirects to be applied")
    report.note(
        f"three redirects, applied {time.monotonic() - started:.1f} s after they were sent: nothing waits for a copy"
    )
    report.stale([each for each in copies.read(scene.engine, scene.cache) if _is_cut_off(each)])
    _watch(scene)
    scene.mend_cache()
    mended = time.monotonic()
    report.note("the cache answers again")
    scene.until(lambda: not copies.behind(scene.engine), "the scheduled retries to heal every copy")
    report.note(f"healed {time.monotonic() - mended:.1f} s later by the retries already scheduled; nobody did anything")
    report.stale([each for each in copies.read(scene.engine, scene.cache) if _is_cut_off(each)])


def _is_cut_off(each: copies.Copies) -> bool:
    return each.state["conversation_id"] in WHILE_CUT_OFF


def _watch(scene: Stage) -> None:
    """Tell of each failed attempt, until enough have failed."""
    told: set[str] = set()

    def tried_enough() -> bool:
        waiting = copies.behind(scene.engine)
        report.attempts(waiting, told)
        return max((row["failures"] for row in waiting if row["kind"] == "cache"), default=0) >= FAILURES

    scene.until(tried_enough, f"{FAILURES} attempts to fail")


def _compare(scene: Stage) -> list[str]:
    report.title("4. Every copy against the truth")
    scene.until(lambda: not _unseen(scene), "the browser to show every conversation")
    wrong = [sentence for each in copies.read(scene.engine, scene.cache) for sentence in copies.disagreements(each)]
    return wrong + [f"{row['kind']} of {row['conversation_ids']} is behind" for row in copies.behind(scene.engine)]


def _unseen(scene: Stage) -> list[str]:
    """The conversations whose newest version the browser has not received."""
    return [c for c, version in _versions(scene).items() if scene.frames[c][-1:] != [version]]


def _versions(scene: Stage) -> dict[str, int]:
    rows = _rows(scene, "SELECT conversation_id, version FROM conversation_states")
    return {row["conversation_id"]: row["version"] for row in rows}


def _rows(scene: Stage, sql: str) -> list[dict[str, Any]]:
    with scene.engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(sql)).mappings()]
