"""The inbox: conversations, the newest first, in pages."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from worker.db.session import translated


class Place(NamedTuple):
    """Where a page ended, in the order of the inbox."""

    updated_at: datetime
    conversation_id: str


@dataclass(frozen=True)
class Wanted:
    """What narrows the inbox; None does not.

    `behind`: only those that a side effect still names. `within`: only what moved in the last so many seconds.
    """

    owner_ids: Collection[str] | None = None
    conversation_ids: Collection[str] | None = None
    destination: str | None = None
    status: str | None = None
    behind: bool = False
    within: float | None = None


# psycopg2 writes the values into the text, so that PostgreSQL plans without what is NULL here.
_FITS = """version > 0
    AND (CAST(:owner_ids AS text[]) IS NULL OR owner_id = ANY(:owner_ids))
    AND (CAST(:destination AS text) IS NULL OR destination = :destination)
    AND (CAST(:status AS text) IS NULL OR status = :status)
    AND (CAST(:within AS float8) IS NULL OR updated_at > now() - make_interval(secs => :within))
    AND (CAST(:updated_at AS timestamptz) IS NULL OR (updated_at, conversation_id) < (:updated_at, :conversation_id))"""
_NEWEST_FIRST = "ORDER BY updated_at DESC, conversation_id DESC LIMIT :limit"
# Each is merged from what an index has in order already, so that a page costs the same among a thousand conversations
# and among millions. The destinations are few; what there are of them is skipped through, not counted.
_OF_EVERYBODY = f"""
    WITH RECURSIVE there (destination) AS (
        (SELECT min(destination) FROM conversation_states)
        UNION ALL
        SELECT (SELECT min(s.destination) FROM conversation_states s WHERE s.destination > there.destination)
        FROM there WHERE destination IS NOT NULL
    )
    SELECT page.* FROM there, LATERAL (
        SELECT * FROM conversation_states s WHERE s.destination = there.destination AND {_FITS} {_NEWEST_FIRST}) AS page
    {_NEWEST_FIRST}
"""
_OF_OWNERS = f"""
    SELECT page.* FROM unnest(CAST(:owner_ids AS text[])) AS mine, LATERAL (
        SELECT * FROM conversation_states s WHERE s.owner_id = mine AND {_FITS} {_NEWEST_FIRST}) AS page
    {_NEWEST_FIRST}
"""
_NAMED = f"""
    SELECT * FROM conversation_states WHERE conversation_id = ANY(:conversation_ids) AND {_FITS} {_NEWEST_FIRST}
"""
_BEHIND = f"""
    SELECT * FROM conversation_states
    WHERE conversation_id IN (SELECT unnest(conversation_ids) FROM side_effects)
    AND (CAST(:conversation_ids AS text[]) IS NULL OR conversation_id = ANY(:conversation_ids)) AND {_FITS}
    {_NEWEST_FIRST}
"""
# What put each where it is, and what is not there yet.
_WHY = text("""
    SELECT id AS conversation_id, why.* FROM unnest(CAST(:ids AS text[])) AS id, LATERAL (
        SELECT occurred_at AS since, reason, source, actor FROM redirects r
        WHERE r.conversation_id = id AND r.outcome = 'applied' ORDER BY received_at DESC LIMIT 1) AS why
""")
_EFFECTS = text("""
    SELECT DISTINCT conversation_id, kind, state FROM side_effects, unnest(conversation_ids) AS conversation_id
    WHERE conversation_id = ANY(:ids) ORDER BY kind
""")


def newest(engine: Engine, wanted: Wanted, after: Place | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """The states of one page."""
    with translated(), engine.connect() as connection:
        return _newest(connection, wanted, after, limit)


def page(engine: Engine, wanted: Wanted, after: Place | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """The same, each with `since`, `reason`, `source` and `actor` of the redirect that put it there, and the kinds of
    its copies that are `behind` and `dead`.
    """
    with translated(), engine.connect() as connection:
        rows = _newest(connection, wanted, after, limit)
        ids = {"ids": [row["conversation_id"] for row in rows]}
        why = {row["conversation_id"]: dict(row) for row in connection.execute(_WHY, ids).mappings()}
        effects = connection.execute(_EFFECTS, ids).all()
    unknown = dict.fromkeys(("since", "reason", "source", "actor"))
    return [row | why.get(row["conversation_id"], unknown) | _standing(row["conversation_id"], effects) for row in rows]


def _standing(conversation_id: str, effects: Iterable[Any]) -> dict[str, list[str]]:
    mine = [effect for effect in effects if effect.conversation_id == conversation_id]
    return {
        "behind": [effect.kind for effect in mine if effect.state == "waiting"],
        "dead": [effect.kind for effect in mine if effect.state == "dead"],
    }


def _newest(connection: Connection, wanted: Wanted, after: Place | None, limit: int) -> list[dict[str, Any]]:
    found = connection.execute(text(_statement(wanted)), _values(wanted, after, limit))
    return [dict(row) for row in found.mappings()]


def _statement(wanted: Wanted) -> str:
    if wanted.behind:
        return _BEHIND
    if wanted.conversation_ids is not None:
        return _NAMED
    return _OF_EVERYBODY if wanted.owner_ids is None else _OF_OWNERS


def _values(wanted: Wanted, after: Place | None, limit: int) -> Mapping[str, Any]:
    return {
        "owner_ids": None if wanted.owner_ids is None else list(wanted.owner_ids),
        "conversation_ids": None if wanted.conversation_ids is None else list(wanted.conversation_ids),
        "destination": wanted.destination,
        "status": wanted.status,
        "within": wanted.within,
        "updated_at": after and after.updated_at,
        "conversation_id": after and after.conversation_id,
        "limit": limit,
    }
