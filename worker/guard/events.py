"""What a worker tells Flower of its tasks: without the secrets that an error may quote, and without waiting for it."""

from typing import Any

from celery.app import events
from celery.events.dispatcher import EventDispatcher

from config.hiding import hide

# Fields of an event that are text of errors and answers. (Arguments are what a producer has written.)
TOLD = ("exception", "traceback", "result")


class Dispatcher(EventDispatcher):
    """Celery's, which looks at what it sends, sends it once, and keeps what it cannot send for the next connection.

    The heartbeat asks for a retry without an end, in the event loop: a worker whose broker was gone at that moment
    stood still, enforced no time limit and ignored SIGTERM until it was back.
    """

    def send(self, type: str, *args: Any, **fields: Any) -> None:  # noqa: A002 - Celery's name
        told = {name: hide(fields[name]) for name in TOLD if isinstance(fields.get(name), str)}
        super().send(type, *args, **(fields | told | {"retry": False}))


class Events(events.Events):
    """`app.events`, with that dispatcher."""

    dispatcher_cls = "worker.guard.events:Dispatcher"
