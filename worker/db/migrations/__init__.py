"""`migrate` and `revision`: the schema, as Alembic's command line would do it, without an alembic.ini.

Alembic is imported by whom it serves: the gateway, which only asks for a revision now and then, starts without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

from worker.errors import Permanent

if TYPE_CHECKING:
    from alembic.config import Config


def _config(database_url: str | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str | None = None, to: str = "head") -> None:
    """Bring the schema up to revision `to`; data stays."""
    from alembic import command

    command.upgrade(_config(database_url), to)


def downgrade(database_url: str | None = None, to: str = "-1") -> None:
    """Bring the schema down to revision `to`; the data of the tables that stay, stays."""
    from alembic import command

    command.downgrade(_config(database_url), to)


def move(there: str | None, to: str) -> None:
    """Bring the schema from revision `there` to `to`, up or down. Raises Permanent for one that is not known."""
    known = ["base", *revisions()]
    missing = [name for name in (there or "base", to) if name not in known]
    if missing:
        raise Permanent(f"this version does not know the revision {missing[0]!r}: it knows {', '.join(known)}")
    (upgrade if known.index(to) > known.index(there or "base") else downgrade)(to=to)


def before(there: str | None) -> str:
    """The revision before `there`. Raises Permanent where there is none, or none that this version knows."""
    known = ["base", *revisions()]
    if there not in known[1:]:
        raise Permanent(f"there is no way back from revision {there}: this version knows {', '.join(known)}")
    return known[known.index(there) - 1]


def revisions() -> list[str]:
    """All revisions that this code knows, oldest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def fits(there: str | None) -> bool:
    """Whether this code works on the schema `there`: its own, or a newer one, which has everything that ours has."""
    known = revisions()
    return there is not None and (there == known[-1] or there not in known)


def head() -> str | None:
    """The newest revision this code knows."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head()


def current(engine: Engine) -> str | None:
    """The revision that the database has; None before the first `migrate`."""
    with engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            return None
        version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return version
