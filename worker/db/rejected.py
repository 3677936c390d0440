"""Rejected events: kept whole, with the reason, once each."""

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text

from worker.db.session import translated

_KEEP = text("""
    INSERT INTO rejected_events (id, source, code, error, body)
    VALUES (:id, :source, :code, :error, :body)
    ON CONFLICT (id) DO NOTHING
""")


def row(body: object, code: str, error: str, source: str) -> dict[str, str]:
    """The row for `body` (any JSON value, or raw bytes). Its id follows from them: a redelivery adds nothing."""
    kept = storable(body)
    digest = hashlib.sha256(f"{code}\n{kept}".encode()).digest()
    return {
        "id": str(uuid.UUID(bytes=digest[:16])),
        "source": _text(source),
        "code": code,
        "error": _text(error),
        "body": kept,
    }


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
