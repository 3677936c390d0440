"""Follow an inbox over `/ws`: one line of JSON for each change.

LIVE_URL=ws://127.0.0.1:8000/ws TOKEN="$(redirect-worker token)" python follow.py
"""

import json
import os
import random
import sys
import time
from typing import Any

from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

FINAL = {1008, 1009, 4400, 4401, 4403}  # close codes whose reason is still there the next time
BETWEEN_PAGES = 0.2  # seconds: the gateway takes five messages in each


class Inbox:
    """What is known, over all connections: the version and the owner of each conversation."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str | None]] = {}
        self._complete = False

    def take(self, message: dict[str, Any]) -> str | None:
        """Print what is new. Returns what asks for the next page, until a page has nothing new."""
        match message:
            case {"type": "snapshot" | "page", "conversations": list(listed)}:
                new = [self._accept(one) for one in listed]
                following: str | None = message.get("next")
                wanted = any(new) or not self._complete
                self._complete = self._complete or following is None
                return following if wanted else None
            case {"type": "conversation_updated"}:
                self._accept({name: value for name, value in message.items() if name != "type"})
        return None  # `paused` and `live` change nothing here, and other types are to be ignored

    def _accept(self, conversation: dict[str, Any]) -> bool:
        name, version, owner = (conversation[field] for field in ("conversation_id", "version", "owner_id"))
        last, known_owner = self._known.get(name, (0, None))
        if version < last or (version == last and (owner is None or known_owner is not None)):
            return False
        self._known[name] = (version, owner)
        print(json.dumps(conversation, ensure_ascii=False), flush=True)  # noqa: T201 - this is what it is for
        return True


def follow(url: str, token: str) -> None:
    inbox, failures = Inbox(), 0
    while True:
        try:
            with connect(url, subprotocols=[Subprotocol("redirect.v1"), Subprotocol(f"bearer.{token}")]) as socket:
                for text in socket:
                    failures = 0
                    if following := inbox.take(json.loads(text)):
                        time.sleep(BETWEEN_PAGES)
                        socket.send(json.dumps({"type": "page", "after": following}))
        except (OSError, WebSocketException) as error:
            if why := final(error):
                sys.exit(why)
        time.sleep(min(30.0, 2.0**failures) * random.uniform(0.5, 1))  # noqa: S311 - chance, not a secret
        failures += 1


def final(error: Exception) -> str | None:
    """Why it would end the same way the next time; None if it need not."""
    if isinstance(error, InvalidStatus) and error.response.status_code == 403:
        return "refused with 403: the address should have no query but owner_id"
    if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code in FINAL:
        return f"closed with {error.rcvd.code}: {error.rcvd.reason}"
    return None


if __name__ == "__main__":
    follow(os.environ["LIVE_URL"], os.environ["TOKEN"])
