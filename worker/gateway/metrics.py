"""`/metrics`, for Prometheus."""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from config.settings import LOOPBACK, settings
from worker.app import app as celery
from worker.db.session import engine
from worker.gateway.bounded import ask
from worker.gateway.reads_openapi import problems
from worker.metrics import PREFIX, collect

# Seconds: whoever asks sooner gets the same answer. A scrape asks all that it asks only once.
FRESH = 1.0
PATIENCE = 8.0
KINDS = ("text/plain", "application/openmetrics-text")
_thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
_bearer = HTTPBearer(auto_error=False, scheme_name="metrics", description="One of REDIRECT_METRICS_TOKENS.")
_held: tuple[float, list[Metric]] = (0.0, [])

router = APIRouter()


async def _scraper(given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> None:
    """Raises 401 without one of REDIRECT_METRICS_TOKENS; where none is set, 403 but on this machine's own address."""
    tokens = settings().metrics_tokens
    if tokens is None:
        if settings().bind not in LOOPBACK:
            raise HTTPException(403, "set REDIRECT_METRICS_TOKENS first: strangers can call this address")
        return
    brought = (given.credentials if given else "").encode()
    if not any(secrets.compare_digest(brought, token.get_secret_value().encode()) for token in tokens):
        raise HTTPException(401, "a token of REDIRECT_METRICS_TOKENS is needed", {"WWW-Authenticate": "Bearer"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in KINDS}}, **problems(400, 401, 403, 503)},
    dependencies=[Security(_scraper)],
)
async def metrics(request: Request) -> Response:
    """Numbers for Prometheus: of all processes together, and of this one the open sockets."""
    sockets = GaugeMetricFamily(f"{PREFIX}sockets", "Open WebSockets of this process", request.app.state.places.open)
    families = [*await ask(_families, _thread, PATIENCE), sockets]
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(_registry(families)), headers={"Content-Type": content_type, "Cache-Control": "no-store"})


def _families() -> list[Metric]:
    global _held  # noqa: PLW0603 - of one thread
    if time.monotonic() - _held[0] > FRESH:
        _held = time.monotonic(), list(collect(engine(), celery))
    return _held[1]


def _registry(families: list[Metric]) -> CollectorRegistry:
    class Once:
        def collect(self) -> list[Metric]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return registry
