"""Times sweeps with nothing due: `python -m benchmarks.sweep_calls ROUNDS URL...` prints JSON, an object per URL."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from config.settings import settings
from worker.app import app
from worker.db import side_effects
from worker.db.session import engine
from worker.policy import POLICIES
from worker.tasks.maintenance import retry_side_effects

CALLS = 300
KINDS = list(POLICIES)


def use(url: str) -> None:
    """Make `url` this process's database."""
    if engine.cache_info().currsize:
        engine().dispose()
    os.environ["DATABASE_URL"] = url
    settings.cache_clear()
    engine.cache_clear()


def milliseconds(call: Callable[[], object]) -> float:
    """The median of CALLS calls, after a few that warm up."""
    times = []
    for _ in range(CALLS + 20):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[20:])


def plan() -> Any:
    with engine().connect() as connection:
        side_effects._DUE.run(connection, kinds=KINDS)
        explained = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE due_0 (%(kinds)s)"
        return connection.exec_driver_sql(explained, {"kinds": KINDS}).scalar()


def main() -> None:
    rounds, urls = int(sys.argv[1]), sys.argv[2:]
    app.finalize()
    found: list[dict[str, Any]] = [{"due_ms": [], "sweep_ms": []} for _ in urls]
    for _ in range(rounds):
        for url, figures in zip(urls, found, strict=True):
            use(url)
            assert retry_side_effects() == {}, "something is due"
            figures["due_ms"].append(milliseconds(lambda: side_effects.due(engine(), KINDS)))
            figures["sweep_ms"].append(milliseconds(retry_side_effects))
            figures["plan"] = plan()
    print(json.dumps(found))  # noqa: T201 - read by the benchmark


if __name__ == "__main__":
    main()
