"""The safeguards, how each is removed, and the test that goes red without it."""

from dataclasses import dataclass

SCENARIOS = "tests/chaos/scenarios"


@dataclass(frozen=True)
class Edit:
    """In the file `path`, `old`, which stands there once, becomes `new`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """`removes` in words, the edits, and the test (a node id of pytest's)."""

    removes: str
    edits: tuple[Edit, ...]
    test: str


MUTATIONS = (
    Mutation(
        "the version fence of the cache",
        (
            Edit(
                "worker/hosts/bundled.py",
                "return there < version or (there == version and held ~= value)",
                "return true",
            ),
        ),
        f"{SCENARIOS}/test_late_writes.py::test_no_key_goes_back_to_an_older_version[redis]",
    ),
    Mutation(
        "the version fence of the record",
        (Edit("worker/db/records.py", "conversations.version <= excluded.version OR", "TRUE OR"),),
        "tests/integration/test_records.py",
    ),
    Mutation(
        "the split of failed items in settle",
        (Edit("worker/db/side_effects.py", '"others": _json(others)', '"others": "[]"'),),
        "tests/integration/test_side_effects.py",
    ),
    Mutation(
        "the sweep",
        (Edit("worker/tasks/maintenance.py", 'return {"rung": ring(kinds, "sweep")} if kinds else {}', "return {}"),),
        f"{SCENARIOS}/test_redis.py::test_it_is_consumed_from_again_and_the_sweep_completes[redis]",
    ),
    Mutation(
        "the guard before Celery's consumer",
        (Edit("config/celery.py", '"worker.guard.consumer:GuardedConsumer"', '"celery.worker.consumer:Consumer"'),),
        f"{SCENARIOS}/test_poison.py::test_the_worker_goes_on_and_the_poison_is_kept[redis]",
    ),
    Mutation(
        "the order of the locks",
        (
            Edit(
                "worker/db/ledger.py",
                "WHERE conversation_id = ANY(:ids) ORDER BY conversation_id FOR UPDATE",
                "WHERE conversation_id = ANY(:ids) ORDER BY random() FOR UPDATE",
            ),
            Edit("worker/db/ledger.py", "FROM unnest(:ids) AS id\n", "FROM unnest(:ids) AS id ORDER BY random()\n"),
        ),
        f"{SCENARIOS}/test_events.py::test_those_before_it_are_locked_and_none_after[rabbitmq]",
    ),
    Mutation(
        "the dedupe by event_id",
        (
            Edit(
                "worker/db/ledger.py",
                "if (known := self.known.get(event.event_id)) is not None:",
                "if (known := self.known.get(event.event_id)) is not None and False:",
            ),
        ),
        f"{SCENARIOS}/test_events.py::test_it_is_applied_once[redis]",
    ),
    Mutation(
        "the late acknowledgement",
        (Edit("config/celery.py", '"task_acks_late": True', '"task_acks_late": False'),),
        f"{SCENARIOS}/test_workers.py::test_it_is_delivered_again_and_applied_once[rabbitmq]",
    ),
    Mutation(
        "RabbitMQ's confirm",
        (Edit("config/celery.py", '"confirm_publish": True', '"confirm_publish": False'),),
        f"{SCENARIOS}/test_rabbitmq.py::test_what_is_refused_is_tried_again[rabbitmq]",
    ),
    Mutation(
        "the list of what was taken from a Redis broker",
        (Edit("worker/guard/taking.py", "if self._refused:", "if True:"),),
        "tests/integration/test_taking.py",
    ),
    Mutation(
        "the wait of a signal for the event loop",
        (Edit("worker/guard/signals.py", "if self._wait and", "if False and"),),
        "tests/chaos/test_given.py::test_told_to_go_in_the_middle_of_something_it_ends[an event for Flower]",
    ),
)
