"""The AI flag in Django's cache, written beside a host that writes it too."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from tests.afresh import forget
from tests.hosts.host import Host, state
from tests.service import Service
from worker.errors import Permanent, Transient
from worker.hosts.pilito import cache, flag
from worker.redirects import FARTHEST, State
from worker.redis_client import client, mget

# Taken from a running host.
ON = bytes.fromhex("80059512000000000000007d948c0a61695f656e61626c65649488732e")
OFF = bytes.fromhex("80059512000000000000007d948c0a61695f656e61626c65649489732e")
PROMPT = bytes.fromhex(
    "80059528000000000000007d94288c0a61695f656e61626c656494888c0d637573746f6d5f70726f6d7074948c02686994752e"
)

pytestmark = pytest.mark.usefixtures("configured")


@pytest.fixture
def redis(service: Service) -> Redis:
    return Redis.from_url(service.redis_url)


def held(conversation_id: str = "c1") -> object:
    value = mget([f":1:ai_control_{conversation_id}"])[0]
    return None if value is None else pickle.loads(value)


def fence(conversation_id: str = "c1") -> object:
    return client().get(f"redirect_worker:ai_control_version:{conversation_id}")


def host_sets(value: bytes, conversation_id: str = "c1") -> None:
    client().set(f":1:ai_control_{conversation_id}", value, ex=86_400)


def written(*states: State) -> None:
    assert cache.write(states) == {}


@pytest.mark.parametrize(("destination", "golden"), [("ai", ON), ("support", OFF)], ids=["on", "off"])
def test_the_flag_is_the_bytes_that_the_host_writes(redis: Redis, destination: str, golden: bytes) -> None:
    """For a day, with its version beside it for at least as long."""
    written(state(destination=destination, version=4))
    assert redis.get(":1:ai_control_c1") == golden
    assert fence() == b"4"
    assert 86_390 < redis.ttl(":1:ai_control_c1") <= redis.ttl("redirect_worker:ai_control_version:c1") <= 86_400


def test_django_reads_ours_and_we_read_djangos(host: Host) -> None:
    """Through its own cache framework, in its own process."""
    written(state("c1"), state("c2", destination="ai"))
    code = """
from django.core.cache import cache
print(cache.get('ai_control_c1'), cache.get('ai_control_c2'))
cache.set('ai_control_c1', {'ai_enabled': True, 'custom_prompt': 'سلام', 'nested': {'n': None, 'i': -7}}, timeout=86400)
cache.set('ai_control_c2', 1, timeout=86400)
"""
    assert host.run(code) == "{'ai_enabled': False} {'ai_enabled': True}"
    assert cache.drifted([state("c1"), state("c2", destination="ai")]) == {"c1": 1, "c2": 1}
    written(state("c1"), state("c2", destination="ai"))
    assert held("c1") == {"ai_enabled": False, "custom_prompt": "سلام", "nested": {"n": None, "i": -7}}
    code = "from django.core.cache import cache; print(*[cache.get(f'ai_control_c{n}')['ai_enabled'] for n in (1, 2)])"
    assert host.run(code) == "False True"


def test_what_else_the_dict_holds_survives() -> None:
    """A custom prompt is the host's."""
    host_sets(PROMPT)
    written(state())
    assert held() == {"ai_enabled": False, "custom_prompt": "hi"}
    written(state(version=2, destination="ai"))
    assert client().get(":1:ai_control_c1") == PROMPT


ran: list[str] = []


def run() -> None:
    ran.append("the attack")


class Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return run, ()


def nested(depth: int) -> dict[str, object]:
    return {"ai_enabled": True} if depth == 0 else {"deeper": nested(depth - 1)}


UNREADABLE = {
    "a call": pickle.dumps({"ai_enabled": False, "x": Attack()}),
    "a class": pickle.dumps({"ai_enabled": False, "x": Attack}),
    "a persistent id": b"\x80\x05}\x8c\x0aai_enabledPx\ns.",
    "another type in the dict": pickle.dumps({"ai_enabled": False, "x": [1.5]}, 5),
    "no dict": pickle.dumps("ai_enabled", 5),
    "too large": pickle.dumps({"ai_enabled": False, "x": "x" * flag.LARGEST}, 5),
    "too deep": pickle.dumps(nested(300), 5),
    "a memo of gigabytes": b"\x80\x05}r\xff\xff\xff\x7f\x8c\x0aai_enabled\x89s.",
    "a text of gigabytes": b"\x80\x05}\x8d\xff\xff\xff\xff\x0f\x00\x00\x00x.",
    "an unhashable key": b"\x80\x05}}\x89s.",
    "cut off": OFF[:-3],
    "JSON": b'{"ai_enabled": false}',
    "nothing": b"",
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_drift_and_is_replaced(value: bytes) -> None:
    """And nothing in it is run."""
    ran.clear()
    written(state())
    host_sets(value)
    assert cache.drifted([state()]) == {"c1": 1}
    written(state())
    assert client().get(":1:ai_control_c1") == OFF
    assert not ran


def test_the_attack_would_run_elsewhere() -> None:
    """Else the test above proves nothing."""
    pickle.loads(UNREADABLE["a call"])
    assert ran


def test_an_older_version_changes_nothing() -> None:
    """A late writer is told that all is well: what it has to say is no longer true."""
    written(state(version=5, destination="ai"))
    written(state(version=4))
    assert (held(), fence()) == ({"ai_enabled": True}, b"5")
    written(state(version=6))
    assert (held(), fence()) == ({"ai_enabled": False}, b"6")


@pytest.mark.parametrize("said", [str(5 + FARTHEST), "9" * 400, "-1", "1e3", "nan", "", "five"])
def test_a_fence_that_is_not_ours_holds_nobody_back(said: str) -> None:
    """It is drift with no version, and is replaced."""
    written(state(version=5))
    client().set("redirect_worker:ai_control_version:c1", said)
    assert cache.drifted([state(version=5)]) == {"c1": None}
    written(state(version=5))
    assert fence() == b"5"
    assert cache.drifted([state(version=5)]) == {}


def test_a_flag_that_the_host_overwrites_is_drift_and_is_repaired() -> None:
    """The fence is still ours; the flag is not."""
    written(state(version=3))
    assert cache.drifted([state(version=3)]) == {}
    host_sets(ON)
    assert cache.drifted([state(version=3)]) == {"c1": 3}
    written(state(version=3))
    assert held() == {"ai_enabled": False}
    assert cache.drifted([state(version=3)]) == {}


def test_the_version_that_is_shown_is_the_fences() -> None:
    """Ahead of a truth that was restored, behind one that moved, or none where there is no fence."""
    written(state("ahead", 9), state("behind", 2), state("evicted", 3))
    client().delete("redirect_worker:ai_control_version:evicted")
    assert cache.drifted([state(each, 4) for each in ("ahead", "behind", "evicted")]) == {
        "ahead": 9,
        "behind": 2,
        "evicted": None,
    }


def test_a_missing_flag_is_drift_but_for_an_old_one_of_the_ais() -> None:
    """To the host, no flag means that the AI answers; so it may end with its time where that is true."""
    old = datetime.now(UTC) - timedelta(days=2)
    states = [
        state("people"),
        state("of old", occurred_at=old),
        state("young", destination="ai"),
        state("ended", destination="ai", occurred_at=old),
    ]
    assert cache.drifted(states) == {"people": None, "of old": None, "young": None}
    written(*states)
    client().delete(*[cache.keys(each)[0] for each in states])
    assert cache.drifted(states) == {"people": 1, "of old": 1, "young": 1}
    client().delete(cache.keys(states[3])[1])
    host_sets(ON, "ended")
    assert cache.drifted(states[3:]) == {}
    host_sets(OFF, "ended")  # its nodes switch the AI off for a while, in a conversation that is the AI's
    assert cache.drifted(states[3:]) == {}
    host_sets(b"no flag", "ended")
    assert cache.drifted(states[3:]) == {"ended": None}


def meanwhile(monkeypatch: pytest.MonkeyPatch, values: Sequence[bytes]) -> None:
    """The host writes these to c1, one after each time that we have read it."""
    left = list(values)

    def read(keys: Sequence[str]) -> list[bytes | None]:
        found = mget(keys)
        if left and ":1:ai_control_c1" in keys:
            host_sets(left.pop(0))
        return found

    monkeypatch.setattr(cache, "mget", read)


def test_what_the_host_writes_between_our_reading_and_writing_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its prompt survives, our flag holds, and the neighbours are written as ever."""
    meanwhile(monkeypatch, [PROMPT])
    written(state("c0"), state("c1"), state("c2"))
    assert held("c1") == {"ai_enabled": False, "custom_prompt": "hi"}
    assert held("c0") == held("c2") == {"ai_enabled": False}


def test_a_host_that_writes_all_the_time_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails alone, and the schedule comes back to it."""
    meanwhile(monkeypatch, [pickle.dumps({"ai_enabled": True, "n": n}, 5) for n in range(50)])
    errors = cache.write([state("c0"), state("c1")])
    assert list(errors) == ["c1"]
    assert isinstance(errors["c1"], Transient)
    assert (held("c0"), fence("c1")) == ({"ai_enabled": False}, None)


def test_hundreds_are_written_and_one_bad_key_fails_alone() -> None:
    """A key that holds another type needs a person."""
    client().rpush(":1:ai_control_n7", "a list")
    states = [state(f"n{number}") for number in range(1_200)]
    errors = cache.write(states)
    assert list(errors) == ["n7"]
    assert isinstance(errors["n7"], Permanent)
    assert cache.drifted(states) == {"n7": None}
    assert cache.drifted([replace(each, version=2) for each in states[:2]]) == {"n0": 1, "n1": 1}


def test_without_redis_all_wait(configured: pytest.MonkeyPatch) -> None:
    """As for any copy."""
    configured.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    forget()
    for ask in (cache.write, cache.drifted):
        with pytest.raises(Transient):
            ask([state()])
