"""Questions to the database that have an end, whatever the database does."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from worker.errors import Transient

T = TypeVar("T")

# Seconds: what the database does not answer by then is answered with 503. A frozen server gives no error at all.
PATIENCE = 2.0


async def ask(question: Callable[[], T], threads: Executor, patience: float = PATIENCE) -> T:
    """The database's answer. Raises Transient after `patience` at the latest; `question` may still be at work then.

    Not Starlette's run_in_threadpool: it cannot let go of a thread that hangs.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience):
            try:
                return await loop.run_in_executor(threads, question)
            except Transient:  # at once again: a pooled connection may have died while it was idle
                return await loop.run_in_executor(threads, question)
    except TimeoutError:
        raise Transient(f"no answer within {patience:g} s") from None
