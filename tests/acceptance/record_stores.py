"""A host application's record store that can be told to fail: REDIRECT_RECORD_STORE points here."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from worker.db.records import BundledRecords
from worker.errors import Permanent
from worker.redirects import State

NAME = "tests.acceptance.record_stores:MoodyRecords"
VARIABLE = "REDIRECT_TEST_MOOD"
REASON = "the host application has no such conversation"


def mood(path: Path, **moods: str) -> None:
    """From now on: `everything="down"` fails all; `<conversation>="unknown"` fails one for good."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(moods))
    draft.replace(path)


class MoodyRecords(BundledRecords):
    """The bundled records, when it is in the mood."""

    def save(self, states: Sequence[State]) -> Mapping[str, Exception]:
        moods = json.loads(Path(os.environ[VARIABLE]).read_text())
        if moods.get("everything") == "down":
            raise ConnectionError("the host application is down")
        unknown = {state.conversation_id for state in states if moods.get(state.conversation_id) == "unknown"}
        errors = dict.fromkeys(unknown, Permanent(REASON))
        return {**super().save([state for state in states if state.conversation_id not in unknown]), **errors}
