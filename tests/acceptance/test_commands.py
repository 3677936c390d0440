"""send, show and migrate, as typed by a person; what a person can act on is one line, never a traceback."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from tests.acceptance.typed import NOBODY, Typed, complaint
from tests.conftest import make_service
from tests.integration.ledgers import event, execute, file_effect, ledger_of
from tests.service import Service
from worker.db import migrations
from worker.db.records import BundledRecords
from worker.db.session import psycopg2_url
from worker.redirects import State
from worker.redis_client import key
from worker.tasks.cache import value

QUEUES = ["redirects", "effects.websocket", "effects.cache", "effects.record", "maintenance", "workflow.redirects"]


@pytest.fixture(scope="module")
def typed(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Types commands against servers of somebody, where no process of ours runs."""
    with Typed(make_service(servers, tmp_path_factory.mktemp("typed"))) as typed:
        yield typed


@pytest.fixture(scope="module")
def service(typed: Typed) -> Service:
    """Where to look."""
    return typed.service


@pytest.fixture(scope="module")
def empty_database(service: Service) -> str:
    """A database in which nothing was ever made."""
    url = service.database_url + "_empty"
    admin = create_engine(psycopg2_url(service.database_url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        name = url.rpartition("/")[2]
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy"))
    return url


# send


def test_send_puts_one_celery_message_on_the_queue(service: Service, typed: Typed) -> None:
    """What it prints as sent is what lies on the queue `redirects`, for the task that the contract names."""
    service.broker.delete("redirects")
    done = typed("send", "s-1", "billing", "--owner", "7", "--reason", "بازپرداخت", "--event-id", "e-1", "--json")

    sent = json.loads(done.stdout)["sent"]
    assert (sent["event_id"], sent["conversation_id"], sent["destination"]) == ("e-1", "s-1", "billing")
    assert (sent["owner_id"], sent["reason"]) == ("7", "بازپرداخت")
    (message,) = [json.loads(raw) for raw in service.broker.lrange("redirects", 0, -1)]
    service.broker.delete("redirects")
    assert message["headers"]["task"] == "redirect_conversation"
    assert message["content-type"] == "application/json"
    # An event with these fields is what the ledger takes.
    (outcome,) = ledger_of(service).accept([sent]).outcomes
    assert outcome.outcome == "applied"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("send", "s-2", "cats"), "destination 'cats' should be one of: ai, support"),
        (("send", "s-2", "billing", "--at", "yesterday"), "occurred_at"),
        (("send", "s" * 65, "billing"), "conversation_id"),
    ],
)
def test_send_refuses_what_could_never_be_applied(
    service: Service, typed: Typed, words: tuple[str, ...], named: str
) -> None:
    """One line that says what would be right, exit code 1, and nothing was sent."""
    assert named in complaint(typed(*words))
    assert service.broker.llen("redirects") == 0


@pytest.mark.parametrize("broker", [f"redis://{NOBODY}/0", f"amqp://{NOBODY}//", "nonsense://broker"])
def test_invariant_7_send_fails_soon_when_there_is_no_broker(typed: Typed, broker: str) -> None:
    """A closed port, of either kind of broker, or no broker at all: one line, exit code 1, within 30 s."""
    assert "nothing was sent" in complaint(typed("send", "s-3", "billing", BROKER_URL=broker))


# show


@pytest.fixture(scope="module")
def shown(service: Service) -> str:
    """A conversation whose record and cache are up to date, and whose browsers are not told yet."""
    ledger_of(service).accept(
        [
            event("shown-1", "ai", "shown", owner_id="7", occurred_at="2026-01-15T10:00:00Z"),
            event("shown-2", "billing", "shown", owner_id="7", occurred_at="2026-01-15T10:01:00Z", reason="استرداد"),
            event("shown-0", "sales", "shown", owner_id="7", occurred_at="2026-01-15T09:00:00Z"),
        ]
    )
    row = service.state("shown")
    assert row is not None
    state = State(**{name: row[name] for name in State.__slots__})
    BundledRecords(service.engine).save([state])
    service.cache.set(key("shown"), value(state))
    execute(service, "DELETE FROM side_effects")
    file_effect(service, "shown", kind="websocket")
    return "shown"


def test_show_says_what_holds_what_is_behind_and_why(typed: Typed, shown: str) -> None:
    """The state, each copy, each side effect, and every redirect with its outcome and reason."""
    done = typed("show", shown)

    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "shown -> billing (support_active, AI off)"
    assert lines[1].startswith("version 2, owner 7, since ")
    assert "cache version 2, up to date" in lines
    assert "record version 2, up to date" in lines
    (websocket,) = (line for line in lines if line.startswith("websocket"))
    assert websocket.startswith("websocket waiting, 0 attempts")
    story = "\n".join(lines[lines.index("redirects, newest first") + 1 :])
    assert "applied -> billing version 2 shown-2: استرداد" in story
    assert "superseded (stale) -> sales" in story


def test_show_names_the_three_copies_of_one_that_is_nowhere_behind(service: Service, typed: Typed, shown: str) -> None:
    """The browsers keep nothing that can be read back: that nothing waits is all there is to say."""
    execute(service, "DELETE FROM side_effects")
    try:
        copies = typed("show", shown).stdout.partition("copies\n")[2].partition("\n\n")[0].splitlines()
    finally:
        file_effect(service, shown, kind="websocket")
    assert [line.split(maxsplit=1) for line in copies] == [
        ["cache", "version 2, up to date"],
        ["record", "version 2, up to date"],
        ["websocket", "nothing left to send to the browsers"],
    ]


def test_show_prints_the_same_as_json(typed: Typed, shown: str) -> None:
    """State, cache, record, side effects and redirects under their names."""
    found = json.loads(typed("show", shown, "--json").stdout)

    assert set(found) == {"state", "copies", "cache", "record", "side_effects", "redirects"}
    assert found["state"]["version"] == found["cache"]["version"] == found["record"]["version"] == 2
    assert [effect["kind"] for effect in found["side_effects"]] == ["websocket"]
    assert {redirect["event_id"] for redirect in found["redirects"]} == {"shown-0", "shown-1", "shown-2"}


def test_show_says_what_is_wrong_with_the_cache(service: Service, typed: Typed, shown: str) -> None:
    """Behind, gone, away, of another type, no JSON: each in words, and the rest of the page is there all the same."""

    def cache(**environment: str) -> str:
        done = typed("show", shown, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return next(line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  cache"))

    held = str(service.cache.get(key(shown)))
    assert cache(REDIS_URL=f"redis://{NOBODY}/0") == "cannot be reached"
    service.cache.set(key(shown), held.replace('"version":2', '"version":1'))
    assert cache() == "version 1, BEHIND"
    service.cache.set(key(shown), "nonsense")
    assert cache() == "cannot be read: b'nonsense'"
    service.cache.delete(key(shown))
    assert cache() == "not there"
    service.cache.rpush(key(shown), "another type")
    assert cache().startswith("cannot be read: WRONGTYPE")
    service.cache.delete(key(shown))
    service.cache.set(key(shown), held)


def test_show_of_an_unknown_conversation_is_one_line(typed: Typed) -> None:
    """And exit code 1."""
    assert complaint(typed("show", "never-seen")).startswith("conversation 'never-seen' is not known")


# migrate


def test_migrate_makes_the_schema_declares_the_queues_and_may_run_again(
    service: Service, typed: Typed, empty_database: str
) -> None:
    """From nothing to the newest revision; the second run changes nothing; the queues are there for every producer."""
    service.broker.flushall()
    first = json.loads(typed("migrate", "--json", DATABASE_URL=empty_database).stdout)
    exchanges = [name.removesuffix(".redirects") for name in QUEUES]
    bound = [name for name, of in zip(QUEUES, exchanges, strict=True) if service.broker.exists(f"_kombu.binding.{of}")]
    second = json.loads(typed("migrate", "--json", DATABASE_URL=empty_database).stdout)

    assert first == {"from": None, "to": migrations.head(), "queues": QUEUES}
    assert second == {"from": migrations.head(), "to": migrations.head(), "queues": QUEUES}
    assert bound == QUEUES


@pytest.mark.parametrize(
    "away", [{"DATABASE_URL": f"postgresql://u:p@{NOBODY}/db"}, {"BROKER_URL": f"redis://{NOBODY}/0"}]
)
def test_migrate_without_a_database_or_a_broker_is_one_line(typed: Typed, away: dict[str, str]) -> None:
    """And exit code 1: a deployment stops there."""
    assert "refused" in complaint(typed("migrate", **away))


# errors of every command


@pytest.mark.parametrize("words", [("send", "a", "billing"), ("show", "a"), ("migrate",)])
def test_without_any_url_a_command_says_which_one_to_set(typed: Typed, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Nothing is set and nothing runs: one line that names the variable, the folder, and `redirect-worker up`."""
    unset = dict.fromkeys(("DATABASE_URL", "BROKER_URL", "REDIS_URL"), "")
    line = complaint(typed(*words, **unset, REDIRECT_HOME=str(tmp_path / "none")))
    assert "_URL is not set" in line and str(tmp_path / "none") in line and "redirect-worker up" in line


def test_a_lost_database_is_one_line(typed: Typed) -> None:
    """As of a command that only reads."""
    assert "refused" in complaint(typed("show", "a", DATABASE_URL=f"postgresql://u:p@{NOBODY}/db"))


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (
            {"REDIRECT_TASK_TIME_LIMIT": "10", "REDIRECT_TASK_SOFT_TIME_LIMIT": "20"},
            ["REDIRECT_TASK_TIME_LIMIT", "REDIRECT_TASK_SOFT_TIME_LIMIT"],
        ),
        ({"REDIRECT_VISIBILITY_TIMEOUT": "40"}, ["REDIRECT_VISIBILITY_TIMEOUT", "REDIRECT_TASK_TIME_LIMIT"]),
        ({"REDIRECT_SWEEP_INTERVAL": "often", "PORT": "70000"}, ["REDIRECT_SWEEP_INTERVAL", "PORT"]),
    ],
)
def test_settings_that_do_not_fit_are_one_line_that_names_both(
    typed: Typed, environment: dict[str, str], named: list[str]
) -> None:
    """By the names that they have in the environment."""
    line = complaint(typed("send", "a", "billing", **environment))
    assert [name for name in named if name in line] == named
    assert "Value error" not in line
