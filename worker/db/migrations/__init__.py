"""`migrate` and `revision`: the schema, as Alembic's command line would do it, without an alembic.ini."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text


def _config(database_url: str | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str | None = None, to: str = "head") -> None:
    """Bring the schema up to revision `to`; data stays."""
    command.upgrade(_config(database_url), to)


def downgrade(database_url: str | None = None, to: str = "-1") -> None:
    """Bring the schema down to revision `to`; the data of the tables that stay, stays."""
    command.downgrade(_config(database_url), to)


def head() -> str | None:
    """The newest revision this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def current(engine: Engine) -> str | None:
    """The revision that the database has; None before the first `migrate`."""
    with engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            return None
        version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return version
