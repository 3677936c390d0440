"""A real gateway, asked what its own description says, and then with bytes that are no HTTP."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.eventually import eventually
from tests.fuzz.http_wire import request
from tests.fuzz.rounds import Rounds, numbered, trying
from tests.fuzz.watch import Watched, watched
from tests.integration.gateways import Gateway, redirect
from tests.integration.tokens import asking, bearer, token
from tests.service import Service

EXAMPLES, REQUESTS = 8, 150
# Bytes by which the gateway may grow between an early round and the last: what it keeps for each kind of request.
GROWTH = 40_000_000
# Seconds for an answer to what may deserve none.
ANSWERED_WITHIN = 0.2


@contextmanager
def fed(service: Service) -> Iterator[tuple[Gateway, Watched]]:
    redirect(service, "c1", "billing")
    with asking(service) as web:
        yield web, watched(web.process)


@pytest.mark.slow
def test_openapi(rounds: Rounds, service: Service) -> None:
    """Every operation answers as `/openapi.json` says, whatever it is asked."""
    with fed(service) as (web, gateway):
        api = schemathesis.openapi.from_url(f"http://127.0.0.1:{web.port}/openapi.json")
        operations = [api[path][method] for path in api for method in api[path]]
        rounds.run(lambda random: sum(asked(web, gateway, one, random) for one in operations), most=1)


def asked(web: Gateway, gateway: Watched, operation: Any, random: Random) -> int:
    tried = []
    # A well-formed request may be refused; by the contract a bad event among good ones is refused alone.
    excluded = [positive_data_acceptance, *([negative_data_rejection] if operation.path == "/events" else [])]
    strategy = operation.as_strategy(random.choice([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))

    @seeded(random.getrandbits(60))
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def generated(case: Any) -> None:
        tried.append(case)
        shown = bearer(token("*", scope="send operate"))
        case.call_and_validate(base_url=f"http://127.0.0.1:{web.port}", headers=shown, excluded_checks=excluded)

    with suppress(Unsatisfiable):  # an operation without parameters has no wrong request
        generated()
    gateway.is_as_before("Traceback")
    return len(tried)


@pytest.mark.slow
def test_raw_http(rounds: Rounds, service: Service) -> None:
    """Broken, half and endless requests: never a 5xx, no error in the log, and all others are answered."""
    with fed(service) as (web, gateway):
        sizes: list[int] = []
        rounds.run(lambda random: broken(web, gateway, sizes, random), most=2)
        assert sizes[-1] < sizes[min(3, len(sizes) - 1)] + GROWTH, sizes


def broken(web: Gateway, gateway: Watched, sizes: list[int], random: Random) -> int:
    files = gateway.files()
    with open_sockets() as held:
        for told in numbered(random, REQUESTS):
            with trying(raw := request(random, told)):
                answer = answered(web, raw, random, held)
                assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:500]
                assert answer[9:10] != b"5", answer[:500]
                gateway.is_as_before("Traceback")
        assert web.get("/healthz").status == 200  # with all the half requests still open
    eventually(lambda: gateway.files() <= files + 5, within=60)
    sizes.append(gateway.memory())
    return REQUESTS


def answered(web: Gateway, raw: bytes, random: Random, held: list[socket.socket]) -> bytes:
    """What came back at once. Of the sockets some are closed, some reset, and some stay open, with a half request."""
    one = socket.create_connection(("127.0.0.1", web.port), timeout=10)
    held.append(one)
    answer = b""
    with suppress(OSError):
        one.sendall(raw)
        if random.random() < 0.3:
            one.shutdown(socket.SHUT_WR)
        one.settimeout(ANSWERED_WITHIN)
        answer = one.recv(65536)
    if random.random() < 0.5:
        if random.random() < 0.5:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset
        one.close()
    return answer


@contextmanager
def open_sockets() -> Iterator[list[socket.socket]]:
    held: list[socket.socket] = []
    try:
        yield held
    finally:
        for one in held:
            one.close()
