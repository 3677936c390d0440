"""One conversation, for a person: what holds, which copies show it, what is behind, and how it came to be."""

from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError, ResponseError

from worker.hosts import conversation, host
from worker.redis_client import client

SHOWN = ("version", "ai_enabled", "status", "destination")
UNREACHABLE, UNREADABLE = "unreachable", "unreadable"


def look(conversation_id: str) -> dict[str, Any] | None:
    """State, cache, record, side effects that are behind, newest redirects; None if the conversation is unknown."""
    found = conversation(conversation_id)
    return found and {**found, "cache": cached(conversation_id)}


def cached(conversation_id: str) -> Any:
    """What the AI would read: the object, None if there is no key, UNREACHABLE, or why it is UNREADABLE."""
    try:
        value: Any = client().get(host().cache_key(conversation_id))
        held = host().cache_value(value) if value is not None else None
    except ResponseError as error:  # it answers: the key holds another type
        return {UNREADABLE: str(error)}
    except RedisError:
        return UNREACHABLE
    except ValueError:
        return {UNREADABLE: repr(value)}
    return held if held is None or isinstance(held, dict) else {UNREADABLE: repr(value)}


def page(found: Mapping[str, Any]) -> str:
    state = found["state"]
    lines = [
        f"{state['conversation_id']}  ->  {state['destination']}  ({state['status']}, AI {_on(state['ai_enabled'])})",
        f"version {state['version']}, owner {state['owner_id'] or '-'}, since {state['updated_at']:%F %T %Z}",
        "",
        "copies",
        f"  cache      {_copy(found['cache'], state)}",
        f"  record     {_copy(found['record'], state)}",
        *_sent(found),
        *[f"  {_effect(effect)}" for effect in found["side_effects"]],
        "",
        "redirects, newest first",
        *[f"  {_redirect(redirect)}" for redirect in found["redirects"]],
    ]
    return "\n".join(lines)


def _on(enabled: bool) -> str:
    return "on" if enabled else "off"


def _copy(copy: Any, state: Mapping[str, Any]) -> str:
    if not isinstance(copy, Mapping):
        return "cannot be reached" if copy == UNREACHABLE else "not there"
    if UNREADABLE in copy:
        return f"cannot be read: {copy[UNREADABLE]}"
    shown = {name: copy[name] for name in SHOWN if name in copy}
    agrees = all(value == state[name] for name, value in shown.items())
    told = f"version {copy['version']}" if "version" in copy else ", ".join(f"{n} {v}" for n, v in shown.items())
    return f"{told}, {'up to date' if agrees else 'BEHIND'}"


def _sent(found: Mapping[str, Any]) -> list[str]:
    """Of the browsers' copy nothing can be read back; what is still to be sent is told with the side effects."""
    up_to_date = found["copies"]["websocket"]["status"] == "up_to_date"
    return ["  websocket  nothing left to send to the browsers"] if up_to_date else []


def _effect(effect: Mapping[str, Any]) -> str:
    if effect["state"] == "dead":
        return f"{effect['kind']:10} DEAD after {effect['failures']} attempts: {effect['last_error']}"
    tried = f"{effect['failures']} attempts, next at {effect['due_at']:%H:%M:%S}"
    return f"{effect['kind']:10} waiting, {tried}: {effect['last_error'] or 'not tried yet'}"


def _redirect(redirect: Mapping[str, Any]) -> str:
    said = f": {redirect['reason']}" if redirect["reason"] else ""
    code = f" ({redirect['code']})" if redirect["code"] else ""
    return (
        f"{redirect['occurred_at']:%Y-%m-%d %H:%M:%S}  {redirect['outcome'] + code:24} -> {redirect['destination']:10}"
        f" version {redirect['version']:<3} {redirect['event_id']}{said}"
    )
