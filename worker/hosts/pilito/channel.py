"""Telling the agents' browsers: each message makes every open list of its owner load again, so few are sent.

One message tells an owner all that has moved by then. What was told is noted for a minute, so that the rounds that
come for the rest of a burst find nothing left to say.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import orjson
from redis.exceptions import RedisError
from sqlalchemy import text

from worker.db.session import engine, translated
from worker.errors import Permanent, Transient
from worker.failpoints import reach
from worker.hosts.pilito import layer
from worker.redirects import State
from worker.redis_client import CHUNK, client, judged

# Seconds. Waited before each look, it gathers a burst, and keeps messages that far apart: one process writes a kind.
WINDOW = 0.4
# Seconds that a note of what was told lives, and that the look goes back.
MINUTE = 60
# Seconds for all messages of a round. A thousand take 1.1 s; who is not told by then is told in a later round.
PATIENCE = 4.0
# Connections at once.
LANES = 8
# Seconds after which the host no longer counts a browser (its group_expiry).
GROUP_EXPIRY = 86_400

MOVED = """
SELECT owner_id, conversation_id, version FROM conversation_states
WHERE owner_id = ANY(:owners) AND updated_at > now() - make_interval(secs => :seconds) ORDER BY updated_at
"""

Versions = dict[str, int]
"""Conversation -> version; the one that moved last is the last."""


def group(owner_id: str) -> str:
    return f"user_{owner_id}_conversations"


def message(conversation_id: str) -> dict[str, str]:
    """Exactly what the host's consumers know: an unknown type ends their connections."""
    return {"type": "conversation_updated", "conversation_id": conversation_id}


def notify(states: Sequence[State], proof_of_host: Callable[[], bytes | None]) -> Mapping[str, Exception]:
    """Tell the owners of `states` after WINDOW seconds; the error of each conversation whose owner could not be told.

    Where the key is not proved to be the host's, nothing is sent and the errors are Permanent. An owner whose browsers
    are all closed needs no message: one that opens loads its list. Raises Transient when Redis or the database is away.
    `proof_of_host` is asked only where something is to be sent; what it raises is raised.
    """
    reach("mid_effect_websocket")
    owners = sorted({state.owner_id for state in states if state.owner_id})
    if not owners:
        return {}
    time.sleep(WINDOW)
    moved = _moved(owners, states)
    untold = _untold(moved)
    errors = _tell(untold, proof_of_host) if untold else {}
    _note({owner: moved[owner] for owner in untold if owner not in errors})
    return {s.conversation_id: errors[s.owner_id] for s in states if s.owner_id and s.owner_id in errors}


def _moved(owners: Sequence[str], states: Sequence[State]) -> dict[str, Versions]:
    """Owner -> all that has moved lately, and what of `states` was moved before: it may have waited in its row."""
    found: dict[str, Versions] = {owner: {} for owner in owners}
    for state in states:
        if state.owner_id:
            found[state.owner_id][state.conversation_id] = state.version
    with translated(), engine().connect() as connection:
        rows = connection.execute(text(MOVED), {"owners": list(owners), "seconds": MINUTE}).all()
    for owner_id, conversation_id, version in rows:
        there = found[owner_id].pop(conversation_id, version)
        found[owner_id][conversation_id] = max(there, version)
    return found


def _note_key(owner_id: str) -> str:
    return f"redirect_worker:told:{owner_id}"


def _untold(moved: Mapping[str, Versions]) -> dict[str, str]:
    """Owner -> the conversation that a message names, of owners who have something to learn and a browser open.

    Where the group cannot be counted, a message is tried: its error says why.
    """
    since = f"({time.time() - GROUP_EXPIRY}"
    notes = _pipelined(("GET", _note_key(owner)) for owner in moved)
    browsers = _pipelined(("ZCOUNT", f"asgi:group:{group(owner)}", since, "+inf") for owner in moved)
    new = {owner: _new(moved[owner], note) for owner, note in zip(moved, notes, strict=True)}
    return {owner: new[owner][-1] for owner, there in zip(moved, browsers, strict=True) if there and new[owner]}


def _new(versions: Versions, note: object) -> list[str]:
    """What the note does not hold as told. One that cannot be read holds nothing: a message more, and a new note."""
    try:
        told = orjson.loads(note) if isinstance(note, bytes) else {}
    except ValueError:
        told = {}
    told = told if isinstance(told, dict) else {}
    return [id_ for id_, version in versions.items() if told.get(id_) != version]


def _note(told: Mapping[str, Versions]) -> None:
    """After the messages: a crash between the two costs a message more, never one less. Raises Transient."""
    answers = _pipelined(("SET", _note_key(owner), orjson.dumps(told[owner]), "EX", MINUTE) for owner in told)
    for error in answers:
        if isinstance(error, RedisError):
            raise judged(error) from error


def _pipelined(commands: Iterable[tuple[Any, ...]]) -> list[object]:
    """The answers; an error where one command failed. Raises Transient or Permanent when all did."""
    listed, answers = list(commands), list[object]()
    connected: Any = client()  # its pipeline has no types
    try:
        for start in range(0, len(listed), CHUNK):
            with connected.pipeline(transaction=False) as pipeline:
                for command in listed[start : start + CHUNK]:
                    pipeline.execute_command(*command)
                answers += pipeline.execute(raise_on_error=False)
    except RedisError as error:
        raise judged(error) from error
    return answers


def _tell(untold: Mapping[str, str], proof_of_host: Callable[[], bytes | None]) -> dict[str, Exception]:
    """Send; the errors by owner. A key that is not proved is the error of each, not raised: nobody tries one by one."""
    try:
        layer.check(proof_of_host())
    except Permanent as error:
        return dict.fromkeys(untold, error)
    return asyncio.run(_send_all(untold))


async def _send_all(untold: Mapping[str, str]) -> dict[str, Exception]:
    host, lanes = layer.layer(), asyncio.Semaphore(LANES)
    deadline = asyncio.get_running_loop().time() + PATIENCE

    async def send(owner: str) -> None:
        async with asyncio.timeout_at(deadline), lanes:
            await host.group_send(group(owner), message(untold[owner]))

    try:
        outcomes = await asyncio.gather(*map(send, untold), return_exceptions=True)
    finally:
        await host.close_pools()  # closing waits for no answer
    return {owner: _error(outcome) for owner, outcome in zip(untold, outcomes, strict=True) if outcome}


def _error(outcome: BaseException) -> Exception:
    if isinstance(outcome, TimeoutError):
        return Transient(f"not sent within {PATIENCE:g} s")
    return judged(outcome) if isinstance(outcome, RedisError) else cast("Exception", outcome)
