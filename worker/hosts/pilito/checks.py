"""What must be so at Pilito's: its table is ours to read and write, and its channel layer has our key."""

from collections.abc import Iterator

from sqlalchemy import Engine, text

from worker.db.session import translated
from worker.errors import Permanent
from worker.hosts.pilito import layer
from worker.hosts.pilito.proof import left

_TABLE = text("SELECT to_regclass('message_conversation') IS NOT NULL")
_MAY = text("""
    SELECT has_table_privilege('message_conversation', 'SELECT')
        AND has_table_privilege('message_conversation', 'UPDATE')
""")


def checks(engine: Engine) -> Iterator[tuple[str, bool, str]]:
    with translated(), engine.connect() as connection:
        there = bool(connection.scalar(_TABLE))
        may = there and bool(connection.scalar(_MAY))
    missing = "there is no message_conversation in DATABASE_URL: it should be the host's own database"
    says = "SELECT and UPDATE on message_conversation are needed" if there else missing
    yield "the host's rows", may, "message_conversation may be read and written" if may else says
    try:
        layer.check(left())
    except Permanent as error:
        yield "the host's channel layer", False, str(error)
    else:
        yield "the host's channel layer", True, "its key is ours"
