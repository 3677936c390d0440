"""Celery messages as items of a Redis list, whole and damaged, and what must become of each."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
GONE: Any = object()
"""As a value: the field is not there."""


@dataclass(frozen=True)
class Case:
    """One list item and its fate. `says` is part of the reason it is refused with; None: its event is applied."""

    name: str
    item: bytes
    says: str | None = None
    queue: str = "redirects"
    code: str = "malformed"
    events: Sequence[object] = ()
    """What the rows hold, one each; empty: the message itself, whole, in one."""

    @property
    def kept(self) -> list[str]:
        """`identity` of each row that this message must leave."""
        if self.events:
            return [json.dumps(event) for event in self.events]
        if self.name.startswith("raw:"):
            return [readable(self.item)]
        sent = json.loads(self.item)
        return [_message(sent["headers"], sent["content-type"], readable(base64.b64decode(sent["body"])))]


def identity(body: str) -> str:
    """What a row of rejected_events holds, in a form that can be compared."""
    if not body.startswith('{"headers"'):
        return body
    row = json.loads(body)
    return _message(row["headers"], row["content_type"], row["body"])


def _message(headers: object, content_type: object, content: str) -> str:
    return json.dumps([headers, content_type, content], sort_keys=True)


def readable(content: bytes) -> str:
    """Bytes as rejected_events keeps them: text as it is, anything else as a data URL."""
    try:
        if b"\x00" not in content:
            return content.decode()
    except UnicodeDecodeError:
        pass
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()


def event(name: str, **fields: object) -> dict[str, Any]:
    """A healthy event for a conversation of its own."""
    return {"event_id": name, "conversation_id": name[:64], "destination": "billing", **fields}


def changed(fields: Mapping[str, Any], **changes: object) -> dict[str, Any]:
    """`fields` with these changes; GONE takes a field out."""
    return {name: value for name, value in {**fields, **changes}.items() if value is not GONE}


def body(*args: object, **kwargs: object) -> bytes:
    return json.dumps([args, kwargs, EMBED]).encode()


def headers(name: str, **changes: object) -> dict[str, Any]:
    """The headers that Celery's own producer writes; its task id is `name`."""
    healthy: dict[str, Any] = {"lang": "py", "task": "redirect_conversation", "id": name, "shadow": None, "eta": None}
    healthy |= {"expires": None, "group": None, "group_index": None, "retries": 0, "timelimit": [None, None]}
    healthy |= {"root_id": name, "parent_id": None, "argsrepr": "(...)", "kwargsrepr": "{}", "origin": f"from {name}"}
    healthy |= {"ignore_result": False, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {}}
    return changed(healthy, **changes)


def properties(**changes: object) -> dict[str, Any]:
    routed = {"exchange": "", "routing_key": "redirects"}
    healthy = {"correlation_id": str(uuid4()), "reply_to": str(uuid4()), "delivery_mode": 2, "priority": 0}
    return changed(
        healthy | {"delivery_info": routed, "delivery_tag": str(uuid4()), "body_encoding": "base64"}, **changes
    )


def envelope(headers: object, content: bytes, **changes: object) -> bytes:
    """The list item that kombu makes of a message."""
    healthy = {"body": base64.b64encode(content).decode(), "content-encoding": "utf-8", "headers": headers}
    healthy |= {"content-type": "application/json", "properties": properties()}
    return json.dumps(changed(healthy, **{name.replace("_", "-"): value for name, value in changes.items()})).encode()


def message(name: str, **changes: object) -> bytes:
    """A message with one healthy event, and these headers changed."""
    return envelope(headers(name, **changes), body(event(name)))


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def deepened(item: bytes) -> bytes:
    """`item` with "DEEP n" replaced by so many arrays in each other: more than json.dumps can write."""
    return re.sub(rb'"DEEP (\d+)"', lambda found: b"[" * int(found[1]) + b"]" * int(found[1]), item)
