"""A record store whose errors tell all they know, as an application may: REDIRECT_RECORD_STORE points here."""

from collections.abc import Mapping, Sequence

from config.settings import settings
from worker.db.records import BundledRecords
from worker.errors import Permanent
from worker.redirects import State

NAME = "tests.security.telling_store:TellingRecords"


def everything() -> str:
    told = settings()
    key = told.jwt_secret and told.jwt_secret.get_secret_value()
    return f"cannot reach {told.database_url}, {told.broker_url!r} or {told.redis_url} ({told.sentry_dsn}) with {key}"


class TellingRecords(BundledRecords):
    """The bundled records, but for conversations whose names begin with `telling` (for now) and `dead` (for good)."""

    def save(self, states: Sequence[State]) -> Mapping[str, Exception]:
        names = [state.conversation_id for state in states]
        errors: dict[str, Exception] = {
            name: RuntimeError(everything()) for name in names if name.startswith("telling")
        }
        errors |= {name: Permanent(everything()) for name in names if name.startswith("dead")}
        return {**super().save([state for state in states if state.conversation_id not in errors]), **errors}
