"""Whether the process lives, and whether it can do its work."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError

from worker.db import migrations
from worker.db.session import engine, translated
from worker.errors import Transient
from worker.gateway.bounded import ask
from worker.gateway.reads_openapi import problems

# Of its own: readiness is asked for just when all other threads wait.
_thread = ThreadPoolExecutor(1, thread_name_prefix="ready")
OK = "ok"


class Alive(BaseModel):
    status: str


class Ready(BaseModel):
    """`checks` says `ok`, or what is wrong, for the `database`, its `schema`, `redis`, and the `live` channel."""

    status: str
    checks: dict[str, str]


router = APIRouter(responses=problems(400))


@router.get("/healthz", response_model=Alive)
async def healthz() -> dict[str, str]:
    """The process lives; whatever it depends on."""
    return {"status": OK}


@router.get("/readyz", response_model=Ready, responses={503: {"model": Ready, "description": "Something is wrong"}})
async def readyz(request: Request) -> JSONResponse:
    """Whether reads and live updates work, and what is wrong if not."""
    checks = await _database() | await _redis(request.app.state)
    ready = all(says == OK for says in checks.values())
    answer = {"status": "ready" if ready else "not ready", "checks": checks}
    return JSONResponse(answer, 200 if ready else 503)


async def _database() -> dict[str, str]:
    try:
        return {"database": OK, "schema": await ask(_schema, _thread)}
    except Transient:
        return {"database": "does not answer", "schema": "not known"}


def _schema() -> str:
    with translated():
        there = migrations.current(engine())
    return OK if migrations.fits(there) else f"is {there}, should be {migrations.head()}: run `redirect-worker migrate`"


async def _redis(state: Any) -> dict[str, str]:
    try:
        await state.redis.ping()
        answers = OK
    except RedisError:
        answers = "does not answer"
    return {"redis": answers, "live": OK if state.live.subscribed.is_set() else "not subscribed"}
