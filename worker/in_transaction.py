"""Redirecting inside the transaction of an application: its next statement already sees who answers."""

import logging
from collections.abc import Mapping
from typing import Any

from worker.db.borrowed import Borrowed, inside
from worker.errors import Rejected
from worker.hosts import host, ledger
from worker.redirects import AI, status_of

# An application imports this: how it logs is its own business.
log = logging.getLogger(__name__)


def apply(where: Any, event: Mapping[str, Any]) -> dict[str, Any]:
    """As `worker.client.apply_in`; `event` has its event_id."""
    with inside(where) as connection:
        _leave_proof(connection)
        [outcome] = ledger(connection).accept([dict(event)]).outcomes
    if outcome.outcome == "rejected":
        raise Rejected(str(outcome.code), "it is kept in rejected_events, with the reason, once you commit")
    return {
        "redirected_to": outcome.destination,
        "old_status": outcome.previous_status or status_of(AI),  # of a conversation that was never redirected
        "new_status": outcome.status,
        "ai_enabled": outcome.ai_enabled,
    }


def _leave_proof(connection: Borrowed) -> None:
    """Whatever becomes of it, the redirect is made: without a proof, browsers are not told, and a person is."""
    try:
        with connection.begin():
            host().on_apply(connection)
    except Exception as error:  # noqa: BLE001 - a channel layer is anything that a host may have configured
        log.warning("no proof is left for the worker: %s", error)
