"""Events for Flower that wait a minute: loaded into a worker by tests (`--include tests.late_events`)."""

from worker.guard import consumer

consumer.EVENTS_WITHIN = 60.0
