"""Rejected events: kept whole, with the reason, once each."""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Connection, Engine, Row, text

from config.hiding import hide
from worker.db.session import translated

# Bytes of a body that a list still looks into: one event, also one that is too large. A body may be 16 MiB.
GLANCE = 128 * 1024
# Characters of a conversation_id, by the contract.
LONGEST_ID = 64
# Rows that are counted beyond those shown: counting millions takes seconds, and says nothing more.
COUNTED = 10_000

_KEEP = text("""
    INSERT INTO rejected_events (id, source, code, error, body, conversation_id)
    VALUES (:id, :source, :code, :error, :body, :conversation_id)
    ON CONFLICT (id) DO NOTHING
""")
_NEWEST = text("""
    SELECT id, received_at, source, code, error, CASE WHEN octet_length(body) <= :glance THEN body END AS body
    FROM rejected_events WHERE (CAST(:code AS text) IS NULL OR code = :code)
    ORDER BY received_at DESC, id LIMIT :limit
""")
_COUNT = text("""
    SELECT count(*) FROM (
        SELECT FROM rejected_events WHERE (CAST(:code AS text) IS NULL OR code = :code) LIMIT :limit) AS counted
""")
# A range of the primary key: a prefix of the text would read every row.
_BETWEEN = text("SELECT id FROM rejected_events WHERE id BETWEEN :first AND :last ORDER BY id LIMIT 3")
_ONE = text("SELECT * FROM rejected_events WHERE id = :id")
_AFTER = text("""
    SELECT id, received_at FROM rejected_events
    WHERE (CAST(:code AS text) IS NULL OR code = :code)
        AND received_at <= :until AND (received_at, id) > (:received_at, :id)
    ORDER BY received_at, id LIMIT 500
""")
_TAKE = text("DELETE FROM rejected_events WHERE id = :id RETURNING body, received_at, clock_timestamp() AS clock")


def row(body: object, code: str, error: str, source: str) -> dict[str, str | None]:
    """The row for `body` (any JSON value, or raw bytes). Its id follows from them: a redelivery adds nothing."""
    kept = storable(body)
    digest = hashlib.sha256(f"{code}\n{kept}".encode()).digest()
    return {
        "id": str(uuid.UUID(bytes=digest[:16])),
        "source": _text(source),
        "code": code,
        "error": hide(_text(error)),
        "body": kept,
        "conversation_id": _conversation(body),
    }


def _conversation(body: object) -> str | None:
    """The conversation that `body` is about, if it is an event that can be read so far."""
    named = fields(body).get("conversation_id")
    return named if named and len(named) <= LONGEST_ID else None


def fields(body: object) -> dict[str, str]:
    """The text fields of an event, or of a CloudEvent by our names, as far as `body` can be read; {} if it is none."""
    read = body
    if isinstance(body, str | bytes):
        try:
            read = json.loads(body) if len(body) <= GLANCE else None
        except (ValueError, RecursionError):
            return {}
    if not isinstance(read, dict):
        return {}
    if "specversion" in read:
        data = read.get("data")
        cloud = {"event_id": read.get("id"), "conversation_id": read.get("subject")}
        read = (data if isinstance(data, dict) else {}) | cloud
    return {name: said for name, said in read.items() if isinstance(said, str) and holdable(said)}


def holdable(said: str) -> bool:
    """Whether PostgreSQL can hold it."""
    return "\x00" not in said and not any("\ud800" <= character <= "\udfff" for character in said)


def storable(body: object) -> str:
    """`body` as text that PostgreSQL can hold and from which every byte can be had back.

    Text stays as it is, bytes stay the text they are (what is not text becomes a data URL, RFC 2397), and any other
    JSON value becomes JSON.
    """
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    if isinstance(body, bytes | bytearray | memoryview):
        try:
            decoded = bytes(body).decode()
        except UnicodeDecodeError:
            decoded = "\x00"
        if "\x00" not in decoded:
            return decoded
        return "data:application/octet-stream;base64," + base64.b64encode(body).decode()
    try:
        readable = json.dumps(body, ensure_ascii=False)
        return readable if _text(readable) == readable else json.dumps(body)
    except (TypeError, ValueError, RecursionError):
        return _text(_shallow(body))


def keep(engine: Engine, body: object, code: str, error: str, source: str) -> None:
    """Store one rejected event in a transaction of its own. Raises Transient when the database is away."""
    with translated(), engine.begin() as connection:
        insert(connection, row(body, code, error, source))


def keep_all(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store `rows` (of `row`) in one transaction of their own. Raises Transient when the database is away."""
    with translated(), engine.begin() as connection:
        for values in rows:
            insert(connection, values)


def insert(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(_KEEP, dict(values))


def _text(value: str) -> str:
    """Without what PostgreSQL's text cannot hold: NUL and lone surrogates, each written out as an escape."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def _shallow(body: object) -> str:
    try:
        return repr(body)
    except RecursionError:
        return f"a {type(body).__name__} that is nested too deeply to print"


def newest(engine: Engine, code: str | None, limit: int) -> tuple[list[dict[str, Any]], int]:
    """The newest `limit` rows, and how many more there are (at most COUNTED). A `body` over GLANCE is None."""
    with translated(), engine.connect() as connection:
        values = {"code": code, "limit": limit, "glance": GLANCE}
        rows = [dict(row) for row in connection.execute(_NEWEST, values).mappings()]
        counted: int = connection.scalar(_COUNT, {"code": code, "limit": limit + COUNTED})
        return rows, counted - len(rows)


def between(engine: Engine, first: uuid.UUID, last: uuid.UUID) -> list[uuid.UUID]:
    """The ids from `first` to `last`, three at most."""
    with translated(), engine.connect() as connection:
        return list(connection.scalars(_BETWEEN, {"first": first, "last": last}))


def one(engine: Engine, identity: uuid.UUID) -> dict[str, Any] | None:
    with translated(), engine.connect() as connection:
        found = connection.execute(_ONE, {"id": identity}).mappings().first()
        return dict(found) if found else None


def all_until_now(engine: Engine, code: str | None) -> Iterator[uuid.UUID]:
    """Every id, oldest first; not what comes meanwhile, which may be the same events refused again."""
    with translated(), engine.connect() as connection:
        values = {"code": code, "until": connection.scalar(text("SELECT now()"))}
    identity, received_at = uuid.UUID(int=0), cast("object", "-infinity")
    while True:
        with translated(), engine.connect() as connection:
            page = connection.execute(_AFTER, values | {"id": identity, "received_at": received_at}).all()
        if not page:
            return
        yield from (row.id for row in page)
        identity, received_at = page[-1]


def take(connection: Connection, identity: uuid.UUID) -> Row[Any] | None:
    """Delete one row in the caller's transaction: its body, received_at, and the database's clock. None: it is gone."""
    return connection.execute(_TAKE, {"id": identity}).one_or_none()
