"""The one door to the environment: what comes through it fits together, or says what would."""

import json
import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

import config
import worker
from config.settings import DESTINATIONS, JITTER, LONGEST_QUICK_RETRY, NotConfigured, Settings
from worker import failpoints

URLS = {"database_url": "postgres", "broker_url": "broker", "redis_url": "cache"}
SOURCES = [path for package in (config, worker) for path in Path(str(package.__file__)).parent.rglob("*.py")]
# Besides the door: a test's own door, and two that hand the environment on to a program without reading a setting.
OTHER_DOORS = {"worker/failpoints.py", "worker/stack.py", "config/flower.py"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set but a home of the test's own."""
    for name in list(os.environ):
        if name.startswith("REDIRECT_") or name in {"DATABASE_URL", "BROKER_URL", "REDIS_URL", "SENTRY_DSN", "PORT"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("REDIRECT_HOME", str(tmp_path))


def test_nothing_needs_to_be_set() -> None:
    """The defaults are those of the contract, and they nest."""
    settings = Settings()

    assert (settings.cache_ttl, settings.max_clock_skew, settings.history_days) == (86_400, 300, 90)
    assert settings.destinations == DESTINATIONS
    assert list(settings.destinations) == ["ai", "support", "sales", "technical", "billing", "general"]
    assert settings.record_store == "worker.db.records:BundledRecords"


def test_urls_and_port_keep_the_names_that_platforms_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """DATABASE_URL, BROKER_URL, REDIS_URL, SENTRY_DSN and PORT have no prefix; everything else has REDIRECT_."""
    for name in ("DATABASE_URL", "BROKER_URL", "REDIS_URL", "SENTRY_DSN"):
        monkeypatch.setenv(name, f"from {name}")
    monkeypatch.setenv("PORT", "8080")
    monkeypatch.setenv("REDIRECT_CACHE_TTL", "60")

    settings = Settings()

    assert [settings.url(field) for field in URLS] == ["from DATABASE_URL", "from BROKER_URL", "from REDIS_URL"]
    assert (settings.sentry_dsn, settings.port, settings.cache_ttl) == ("from SENTRY_DSN", 8080, 60)


@pytest.mark.parametrize("field", URLS)
@pytest.mark.parametrize("unset", [None, ""], ids=["unset", "empty"])
def test_an_unset_url_is_that_of_the_embedded_server(
    field: str, unset: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What `servers.json` in the home says of a server that runs."""
    if unset is not None:
        monkeypatch.setenv(field.upper(), unset)
    servers = {name: {"url": f"url of {name}", "pid": 42, "port": 1} for name in URLS.values()}
    (tmp_path / "servers.json").write_text(json.dumps(servers))

    assert Settings().url(field) == f"url of {URLS[field]}"


def test_a_url_that_is_set_wins_over_the_embedded_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server of the operator's own is never shadowed by one that happens to run."""
    (tmp_path / "servers.json").write_text(json.dumps({"postgres": {"url": "embedded", "pid": 42}}))
    monkeypatch.setenv("DATABASE_URL", "theirs")

    assert Settings().url("database_url") == "theirs"


@pytest.mark.parametrize(
    "noted",
    [
        None,
        "",
        "half a fi",
        "{}",
        '{"postgres": {"url": "x", "pid": null}}',
        '{"cache": {"url": "x", "pid": 1}}',
        "[]",
    ],
    ids=["no file", "empty", "broken", "no server", "stopped", "another server", "no object"],
)
def test_without_a_url_the_error_says_what_to_set(noted: str | None, tmp_path: Path) -> None:
    """It names the variable, the home that was searched, and the command that starts everything."""
    if noted is not None:
        (tmp_path / "servers.json").write_text(noted)

    with pytest.raises(NotConfigured) as error:
        Settings().url("database_url")

    assert str(error.value) == (
        f"DATABASE_URL is not set, and no embedded server runs under {tmp_path}: "
        "set DATABASE_URL, or start everything with `redirect-worker up`"
    )


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (
            {"REDIRECT_TASK_SOFT_TIME_LIMIT": "30", "REDIRECT_TASK_TIME_LIMIT": "30"},
            ["REDIRECT_TASK_SOFT_TIME_LIMIT", "REDIRECT_TASK_TIME_LIMIT"],
        ),
        (
            {"REDIRECT_VISIBILITY_TIMEOUT": "63", "REDIRECT_TASK_TIME_LIMIT": "30"},
            ["REDIRECT_VISIBILITY_TIMEOUT", "REDIRECT_TASK_TIME_LIMIT", "longest quick retry"],
        ),
        ({"REDIRECT_TASK_TIME_LIMIT": "3600"}, ["REDIRECT_VISIBILITY_TIMEOUT", "REDIRECT_TASK_TIME_LIMIT"]),
    ],
    ids=["soft below hard", "visibility above retry and run", "a long task"],
)
def test_times_must_nest(environment: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A time that would make the broker deliver twice is refused at the door, and both settings are named."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError) as error:
        Settings()

    assert [name for name in names if name not in str(error.value)] == []


def test_times_that_nest_by_a_hair_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The visibility timeout needs to exceed the longest retry, its jitter, and one run; no more."""
    least = LONGEST_QUICK_RETRY * (1 + JITTER) + 30
    monkeypatch.setenv("REDIRECT_VISIBILITY_TIMEOUT", str(least + 0.1))

    assert Settings().visibility_timeout > least


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIRECT_CACHE_TTL", "0"),
        ("REDIRECT_MAX_CLOCK_SKEW", "-1"),
        ("REDIRECT_MAX_CLOCK_SKEW", "nan"),
        ("REDIRECT_MAX_CLOCK_SKEW", "inf"),
        ("REDIRECT_SWEEP_INTERVAL", "0"),
        ("REDIRECT_CONCURRENCY", "0"),
        ("REDIRECT_HISTORY_DAYS", "0"),
        ("REDIRECT_TASK_TIME_LIMIT", "soon"),
        ("REDIRECT_LOG_FORMAT", "xml"),
        ("PORT", "70000"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the door, by its name, not hours later in a task."""
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError, match=name.removeprefix("REDIRECT_").lower() + "|" + name):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://u:p@db.internal/redirect"),
        ("BROKER_URL", "amqp://u:p@127.0.0.1;amqp://u:p@rabbit-2"),
        ("REDIS_URL", "redis://10.0.0.7:6379/0"),
        ("SENTRY_DSN", "https://key@sentry.internal/1"),
    ],
)
def test_a_failpoint_is_refused_away_from_home(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIRECT_FAILPOINT", "before_commit")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@localhost/redirect")
    assert Settings().failpoint == "before_commit"
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match="REDIRECT_FAILPOINT kills processes: unset it"):
        Settings()


def test_a_failpoint_that_is_no_place_is_refused_and_none_is_nothing() -> None:
    assert failpoints.reach is failpoints._nothing
    with pytest.raises(ValueError, match="one of before_commit, "):
        failpoints.armed("before_lunch")


def test_each_failpoint_is_a_place() -> None:
    """And each place is named."""
    reached = {name for path in SOURCES for name in re.findall(r'reach\("(\w+)"\)', path.read_text())}
    assert reached == set(failpoints.NAMES)


def test_the_catalogue_of_destinations_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON object of value to label, in any language, in the order given."""
    monkeypatch.setenv("REDIRECT_DESTINATIONS", '{"ai": "هوش مصنوعی", "vip": "VIP desk"}')

    assert list(Settings().destinations.items()) == [("ai", "هوش مصنوعی"), ("vip", "VIP desk")]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('["ai"]', "REDIRECT_DESTINATIONS should be a JSON object"),
        ('{"vip": "VIP desk"}', "REDIRECT_DESTINATIONS should be a JSON object"),
        ("{}", "REDIRECT_DESTINATIONS should be a JSON object"),
        ("ai,vip", "destinations"),
        ('{"ai": 5}', "destinations"),
    ],
)
def test_a_catalogue_that_is_none_is_refused(value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No object, no text, or nobody to give a conversation back to."""
    monkeypatch.setenv("REDIRECT_DESTINATIONS", value)

    with pytest.raises(ValidationError, match=says):
        Settings()


def test_what_is_set_to_nothing_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Platforms and compose files set empty variables: they mean the default."""
    for name in ("PORT", "REDIRECT_CACHE_TTL", "REDIRECT_DESTINATIONS"):
        monkeypatch.setenv(name, "")

    assert (Settings().port, Settings().cache_ttl, Settings().destinations) == (8000, 86_400, DESTINATIONS)


def test_an_error_shows_nothing_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that fails ends in logs and consoles: URLs hold passwords, and a check of two settings sees them all."""
    for name in ("DATABASE_URL", "BROKER_URL", "REDIS_URL", "SENTRY_DSN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("REDIRECT_VISIBILITY_TIMEOUT", "40")

    with pytest.raises(ValidationError) as error:
        Settings()

    assert "REDIRECT_VISIBILITY_TIMEOUT" in str(error.value)
    assert "secret" not in str(error.value) + repr(error.value)


def test_there_is_one_door() -> None:
    """Nothing but the settings reads the environment: what must fit together is seen in one place."""
    readers = {
        "/".join(path.parts[-2:])
        for path in SOURCES
        if re.search(r"\bos\.(environ|getenv|putenv)\b|from os import .*(environ|getenv)", path.read_text())
    }

    assert len(SOURCES) > 30
    assert readers <= OTHER_DOORS | {"config/settings.py"}
