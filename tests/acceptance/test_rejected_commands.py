"""rejected list, show and resubmit, as typed by a person."""

import json
from collections.abc import Iterator

import pytest

from tests.acceptance.typed import NOBODY, Typed, complaint
from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.ledgers import event, execute, ledger_of
from tests.service import Service
from worker.db import rejected


@pytest.fixture(scope="module")
def typed(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    with Typed(make_service(servers, tmp_path_factory.mktemp("typed"))) as typed:
        yield typed


@pytest.fixture
def service(typed: Typed) -> Service:
    """Where to look, with nothing in it."""
    execute(typed.service, "DELETE FROM rejected_events", "DELETE FROM event_outbox")
    return typed.service


def keep(service: Service, body: object, code: str = "failed", error: str = "no") -> str:
    """The id."""
    values = rejected.row(body, code, error, "tests")
    rejected.keep(service.engine, body, code, error, "tests")
    return str(values["id"])


def words(line: str) -> list[str]:
    return line.split()


# list


def test_list_shows_the_newest_first_and_how_many_more(service: Service, typed: Typed) -> None:
    """One line each with id, time, code, source, the names of the event, and why; then what is not shown."""
    ids = [keep(service, event(f"e{n}", "cats", f"c{n}"), "unknown_destination", "should be ai") for n in range(3)]

    done = typed("rejected", "list", "--limit", "2")

    assert (done.returncode, done.stderr) == (0, "")
    header, newest, second, more = done.stdout.splitlines()
    assert words(header) == ["id", "received_at", "code", "source", "conversation/event", "error"]
    assert words(newest)[0] == ids[2][:13]
    assert words(newest)[3:] == ["unknown_destination", "tests", "c2/e2", "should", "be", "ai"]
    assert words(second)[0] == ids[1][:13]
    assert more == "1 more: see them with --limit"


def test_list_of_one_code(service: Service, typed: Typed) -> None:
    """The others are neither shown nor counted; none is a sentence."""
    keep(service, "a", "malformed")
    keep(service, "b", "failed")

    found = json.loads(typed("rejected", "list", "--code", "failed", "--json").stdout)

    assert [row["code"] for row in found["rejected"]] == ["failed"]
    assert found["more"] == 0
    assert typed("rejected", "list", "--code", "revoked").stdout == "nothing is rejected\n"


def test_list_is_cut_to_the_terminal_and_steers_it_nowhere(service: Service, typed: Typed) -> None:
    """No line is wider; a producer's escape sequences are shown, not obeyed."""
    keep(service, event("e1\x1b[2J", "cats", "c1"), "unknown_destination", "a long\n" * 40)

    lines = typed("rejected", "list", COLUMNS="90").stdout.splitlines()

    assert len(lines) == 2
    assert max(map(len, lines)) == 90
    assert lines[1].endswith("…")
    assert "c1/e1\\x1b[2J" in lines[1]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ([event("e1"), event("e2")], (None, None, 2)),
        (event("e1", reason="x" * 70_000), ("c1", "e1", 0)),
        ("x" * 300_000, (None, None, 0)),
        (5, (None, None, 0)),
        ({"headers": {}, "content_type": "", "content_encoding": "", "body": "[[], {}, {}]"}, (None, None, 0)),
    ],
    ids=["two", "too large", "huge", "none", "an empty call"],
)
def test_list_names_what_can_be_named(
    service: Service, typed: Typed, body: object, names: tuple[str | None, str | None, int]
) -> None:
    """One event by its ids, several by their number; a body of any size or kind breaks nothing."""
    keep(service, body)

    (row,) = json.loads(typed("rejected", "list", "--json").stdout)["rejected"]

    assert (row["conversation_id"], row["event_id"], row["events"]) == names
    assert typed("rejected", "list").returncode == 0


# show


def test_show_tells_all_of_one(service: Service, typed: Typed) -> None:
    """By the first characters of its id: every column, JSON on lines of its own; as JSON the body as kept."""
    body = event("e1", "cats", reason="بازپرداخت")
    identity = keep(service, body, "unknown_destination", "should be ai")

    done = typed("rejected", "show", identity[:13])

    lines = done.stdout.splitlines()
    assert words(lines[0]) == ["id", identity]
    assert [words(line)[0] for line in lines[:5]] == ["id", "received_at", "source", "code", "error"]
    assert json.loads(done.stdout.split("\n\n", 1)[1]) == body
    assert '  "reason": "بازپرداخت"' in lines
    found = json.loads(typed("rejected", "show", identity, "--json").stdout)
    assert (found["id"], json.loads(found["body"])) == (identity, body)


def test_show_says_that_bytes_are_bytes(service: Service, typed: Typed) -> None:
    """Their number, and the data: URL from which they can be had back; text that is no JSON is shown as text."""
    bytes_, text = keep(service, b"\xff\x00\x01"), keep(service, "redirect\tplease\x1b[2J")

    assert "3 bytes that are no text, as a data: URL:\ndata:application" in typed("rejected", "show", bytes_).stdout
    assert typed("rejected", "show", text).stdout.endswith("\n\nredirect\tplease\\x1b[2J\n")


def test_show_of_what_is_not_there_is_one_line(service: Service, typed: Typed) -> None:
    """Unknown, ambiguous, or no id at all."""
    assert "no rejected event has the id 'abc'" in complaint(typed("rejected", "show", "abc"))
    assert "should be the id" in complaint(typed("rejected", "show", "xyz"))


# resubmit


def test_resubmit_puts_it_into_the_outbox_and_says_so(service: Service, typed: Typed) -> None:
    """The row is gone from one table and in the other; mended by --set, whose value is JSON or text."""
    identity = keep(service, event("wf42-7f3c", "cats", "abc123", owner_id="7"), "unknown_destination")

    done = typed("rejected", "resubmit", identity[:13], "--set", "destination=billing", "--set", "owner_id=null")

    said = "resubmitted wf42-7f3c: abc123 -> billing (by the outbox; the intake passes it on)\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert service.rejected() == []
    (row,) = service.rows("SELECT body FROM event_outbox")
    assert (row["body"]["destination"], row["body"].get("owner_id")) == ("billing", None)


def test_resubmit_of_what_would_be_refused_again_is_one_line_and_stays(service: Service, typed: Typed) -> None:
    """With the reason and what to do, exit code 1; a neighbour goes all the same."""
    bad, none = keep(service, event("e1", "cats"), "unknown_destination"), keep(service, "no JSON")
    good = keep(service, event("e2"))

    line = complaint(typed("rejected", "resubmit", bad))
    assert line.startswith(f"{bad[:13]} stays: it would be refused again: destination 'cats' should be one of: ai")
    assert "--set" in line
    assert "`redirect-worker send`" in complaint(typed("rejected", "resubmit", none))

    done = typed("rejected", "resubmit", bad, good, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(row["id"], row["event_id"]) for row in report["resubmitted"]] == [(good, "e2")]
    assert [row["id"] for row in report["stays"]] == [bad]
    assert {str(row["id"]) for row in service.rejected()} == {bad, none}


def test_resubmit_all_of_a_code(service: Service, typed: Typed) -> None:
    """Those of the code, oldest first; the others stay."""
    for n in range(3):
        keep(service, event(f"e{n}", "cats"), "unknown_destination")
    keep(service, event("other"), "failed")

    done = typed("rejected", "resubmit", "--all", "--code", "unknown_destination", "--set", "destination=sales")

    assert done.returncode == 0
    assert [words(line)[1] for line in done.stdout.splitlines()] == ["e0:", "e1:", "e2:"]
    assert [row["code"] for row in service.rejected()] == ["failed"]


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("ID", "--all"),
        ("--code", "failed"),
        ("ID", "--code", "failed"),
        ("--all", "--set", "event_id=e1"),
        ("ID", "ID", "--set", "event_id=e1"),
        ("ID", "--set", "destinaton=ai"),
    ],
    ids=" ".join,
)
def test_resubmit_does_nothing_that_was_not_clearly_asked_for(
    service: Service, typed: Typed, wrong: tuple[str, ...]
) -> None:
    """Whom, and what is set: said wrong it is an error, and every row stays."""
    identity = keep(service, event("e1"))

    done = typed("rejected", "resubmit", *(identity if word == "ID" else word for word in wrong))

    assert done.returncode in {1, 2}
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert len(service.rejected()) == 1


def test_resubmitted_it_is_applied(service: Service, typed: Typed) -> None:
    """From the refusal of the ledger to its second decision, with the service's own processes in between."""
    ledger_of(service).accept([event("through", "cats", "through")])
    (row,) = service.rejected()
    assert typed("rejected", "resubmit", str(row["id"]), "--set", "destination=billing").returncode == 0

    with service.worker(), service.running("worker.intake"):
        eventually(lambda: service.state("through"), within=30)

    assert (service.state("through") or {})["destination"] == "billing"
    assert service.rejected() == service.rows("SELECT FROM event_outbox") == []


def test_a_lost_database_is_one_line(typed: Typed) -> None:
    """As of every command."""
    for command in (("list",), ("show", "abc"), ("resubmit", "abc"), ("resubmit", "--all")):
        assert "refused" in complaint(typed("rejected", *command, DATABASE_URL=f"postgresql://u:p@{NOBODY}/db"))
