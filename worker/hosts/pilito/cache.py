"""The AI flag in Django's cache: a pickled dict that the host reads before its AI answers, and writes too.

The host knows no versions, so ours is a key beside the flag. Whoever holds the flag's dict may have put more into it
than `ai_enabled` (`custom_prompt`): that survives, so a flag is read, changed, and written only where it was not
touched meanwhile.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from config.settings import settings
from worker.errors import Transient
from worker.failpoints import reach
from worker.hosts.pilito import flag
from worker.redirects import FARTHEST, State
from worker.redis_client import CHUNK, mget, run

# Rounds for flags that the host writes while we do. Each round is one more read and write, within milliseconds.
TRIES = 5
CHANGED = "the host changed the AI flag meanwhile"
"""The error of a flag that was touched between its reading and its writing."""

# The fence first: if only one of the two can be written, it keeps older versions out, and the error brings us back.
# A fence that is no number, or too far ahead of the truth, was not written by us. Sent whole (EVAL): nothing to reload
# after SCRIPT FLUSH.
WRITE_IF_UNTOUCHED = """
local function is_ahead(fence, version)
  local there = fence and string.match(fence, '^%d+$') and tonumber(fence)
  return there and there > version and there - version < FARTHEST
end
local function write(flag, fence, seen, value, version, ttl)
  local there = redis.pcall('GET', fence)
  if type(there) == 'table' or is_ahead(there, tonumber(version)) then return there end
  local held = redis.pcall('GET', flag)
  if type(held) == 'table' then return held end
  if (held and '=' .. held or '') ~= seen then return {err = 'CHANGED'} end
  local answer = redis.pcall('SET', fence, version, 'EX', ttl)
  return answer.err and answer or redis.pcall('SET', flag, value, 'EX', ttl)
end
local failed = {}
for at = 1, #KEYS / 2 do
  local answer = write(KEYS[2 * at - 1], KEYS[2 * at], unpack(ARGV, 4 * at - 3, 4 * at))
  if type(answer) == 'table' and answer.err then failed[#failed + 1] = {at, answer.err} end
end
return failed
""".replace("FARTHEST", str(FARTHEST)).replace("CHANGED", CHANGED)


def flag_key(conversation_id: str) -> str:
    """As Django makes it: no prefix, version 1."""
    return f":1:ai_control_{conversation_id}"


def keys(state: State) -> tuple[str, str]:
    """The flag's key, and that of its fence."""
    return flag_key(state.conversation_id), f"redirect_worker:ai_control_version:{state.conversation_id}"


def write(states: Sequence[State]) -> Mapping[str, Exception]:
    """Write the flags; the error of each that failed. Raises Transient when Redis cannot be reached."""
    reach("mid_effect_cache")
    errors: dict[str, Exception] = {}
    for start in range(0, len(states), CHUNK):  # so that little time lies between reading a flag and writing it
        errors |= _write(states[start : start + CHUNK])
    return errors


def _write(states: Sequence[State]) -> dict[str, Exception]:
    errors = _try(states)
    for _ in range(TRIES - 1):
        again = [state for state in states if _is_changed(errors.get(state.conversation_id))]
        if not again:
            break
        retried = _try(again)
        errors = {id_: error for id_, error in errors.items() if not _is_changed(error)} | retried
    return errors


def _try(states: Sequence[State]) -> dict[str, Exception]:
    ttl = str(settings().cache_ttl)
    held = dict(zip([s.conversation_id for s in states], mget([keys(s)[0] for s in states]), strict=True))

    def values(state: State) -> tuple[bytes, bytes, str, str]:
        there = held[state.conversation_id]
        seen = b"" if there is None else b"=" + there
        return seen, flag.changed(there, state.ai_enabled), str(state.version), ttl

    return run(WRITE_IF_UNTOUCHED, states, values, keys)


def _is_changed(error: Exception | None) -> bool:
    return isinstance(error, Transient) and str(error) == CHANGED


def drifted(states: Sequence[State]) -> dict[str, int | None]:
    """Whose flag says otherwise or cannot be read, whose fence shows another version, or where one of them is gone
    before its time; with the fence's version, None if there is none that could be ours. Raises Transient.

    They may end with their TTL, but not while people have the conversation: to this host no flag means "the AI's". In a
    conversation of the AI's, a flag that stops it is the host's own doing: its nodes may switch the AI off for a while.
    """
    oldest = datetime.now(UTC) - timedelta(seconds=settings().cache_ttl)
    held = mget([key for state in states for key in keys(state)])
    found: dict[str, int | None] = {}
    for state, there, fence in zip(states, held[::2], held[1::2], strict=True):
        version = _version(fence, state)
        may_be_gone = state.ai_enabled and state.occurred_at < oldest
        fenced = version == state.version or (fence is None and may_be_gone)
        agreeing = {True, False} if state.ai_enabled else {False}
        shows = may_be_gone if there is None else flag.enabled(there) in agreeing
        if not (fenced and shows):
            found[state.conversation_id] = version
    return found


def _version(fence: bytes | None, state: State) -> int | None:
    version = int(fence) if fence is not None and fence.isdigit() and len(fence) < 20 else None
    return version if version is not None and abs(version - state.version) < FARTHEST else None
