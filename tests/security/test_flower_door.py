"""Flower without a password belongs to this machine, and to no page of the web that its browser happens to show."""

import json
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tests.conftest import make_service
from tests.eventually import eventually
from tests.service import Service
from worker import stack
from worker.embedded.processes import free_port

FLOWER = ("celery", "-A", "worker.app", "flower", "--conf=config/flower.py")
ELSEWHERE = "https://elsewhere.example"


@pytest.fixture(scope="module")
def service(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(servers, tmp_path_factory.mktemp("flower"))


@pytest.fixture(scope="module")
def port(service: Service) -> Iterator[int]:
    """A Flower as the Procfile starts it, beside a gateway called inbox.example."""
    port = free_port(None)
    with service.running(*FLOWER, REDIRECT_FLOWER_PORT=str(port), REDIRECT_HOSTS="inbox.example"):
        eventually(lambda: stack.listens(port))
        yield port


def asked(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    request = Request(f"http://127.0.0.1:{port}{path}", headers=headers, method=method)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


@pytest.mark.parametrize("path", ["/", "/tasks", "/api/tasks", "/metrics", "/healthcheck", "/static/js/flower.js"])
@pytest.mark.parametrize(
    "headers",
    [{"Origin": ELSEWHERE}, {"Origin": "null"}, {"Host": "rebound.example"}, {"Host": "rebound.example:5555"}],
    ids=str,
)
def test_a_page_from_elsewhere_reads_nothing(port: int, path: str, headers: dict[str, str]) -> None:
    """Neither by its own address, nor by a name of its own that resolves to this machine."""
    status, answered, _ = asked(port, path, **headers)
    assert status == 403
    assert "Access-Control-Allow-Origin" not in answered


@pytest.mark.slow
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
def test_a_page_from_elsewhere_stops_no_worker(port: int, service: Service, method: str) -> None:
    """Neither asks the browser leave for it (CORS), nor does it without."""
    with service.worker("--concurrency=1", "--hostname=w@here") as worker:
        eventually(lambda: "w@here" in json.loads(asked(port, "/api/workers?refresh=1")[2]))
        status, answered, _ = asked(port, "/api/worker/shutdown/w@here", method, Origin=ELSEWHERE)
        assert (status, "Access-Control-Allow-Origin" in answered) == (403, False)
        assert worker.running
        assert asked(port, "/api/worker/shutdown/w@here", "POST")[0] == 200
        eventually(lambda: not worker.running)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:5555"},
        {"Host": "localhost"},
        {"Host": "Inbox.example", "Origin": "https://inbox.example"},
    ],
    ids=str,
)
def test_our_own_pages_and_programs_are_let_in(port: int, headers: dict[str, str]) -> None:
    """From this machine, through a tunnel, and behind a proxy of a name in REDIRECT_HOSTS."""
    assert [asked(port, path, **headers)[0] for path in ("/tasks", "/api/tasks")] == [200, 200]


def test_with_a_password_any_name_will_do(service: Service) -> None:
    """It asks whoever comes, and reads no password from the command line, which every account sees."""
    port = free_port(None)
    with service.running(*FLOWER, REDIRECT_FLOWER_PORT=str(port), FLOWER_BASIC_AUTH="me:open-sesame"):
        eventually(lambda: stack.listens(port))
        assert asked(port, "/tasks", Host="flower.example")[0] == 401
        good = {"Authorization": "Basic bWU6b3Blbi1zZXNhbWU="}
        assert asked(port, "/tasks", Host="flower.example", **good)[0] == 200
        assert asked(port, "/api/worker/shutdown/x", "POST", Origin=ELSEWHERE, **good)[0] == 403
