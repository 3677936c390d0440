"""What every answer of the gateway tells a browser, and what no answer ever does."""

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.conftest import make_service
from tests.eventually import eventually
from tests.integration.gateways import SOON, Gateway
from tests.integration.tokens import asking
from tests.security.broken_gateway import INSIDE
from tests.service import Service
from worker.embedded.processes import free_port
from worker.gateway.__main__ import HEADERS

ANSWERS = [
    ("GET", "/", 200),
    ("GET", "/docs", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("GET", "/metrics", 401),
    ("GET", "/conversations", 401),
    ("GET", "/nowhere", 404),
    ("DELETE", "/events", 405),
    ("POST", "/events", 401),
    ("GET", "/development-token", 404),
    ("OPTIONS", "/events", 405),
]
ESCAPES = [
    "/../worker/db/ledger.py",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "//etc/passwd",
    "/page.html",
]


@pytest.fixture(scope="module")
def service(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(servers, tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def web(service: Service) -> Iterator[Gateway]:
    with asking(service) as web:
        yield web


def asked(web: Gateway, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """As it is written: urllib would tidy the path."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=SOON)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_no_answer_is_guessed_at_framed_or_handed_on(web: Gateway, method: str, path: str, status: int) -> None:
    """Good or bad. No page of another site may read it (no CORS header), and no server names itself."""
    answered, headers, _ = asked(web, method, path, Origin="https://elsewhere.example")
    assert answered == status
    assert {name.lower(): value for name, value in HEADERS}.items() <= headers.items()
    assert not {name for name in headers if name.startswith("access-control-") or name in ("server", "x-powered-by")}


def test_a_name_that_is_not_ours_gets_the_same(web: Gateway) -> None:
    """400, before anything else looks at it."""
    answered, headers, _ = asked(web, "GET", "/", Host="rebound.example")
    assert answered == 400 and headers["x-content-type-options"] == "nosniff"


def test_an_error_of_ours_says_nothing_of_the_inside(service: Service) -> None:
    """500: two words and no traceback; the headers all the same."""
    port = str(free_port(None))
    with service.running("tests.security.broken_gateway", ready="gateway ready", PORT=port) as process:
        answered, headers, body = asked(Gateway(int(port), process), "GET", "/readyz")
        eventually(lambda: process.says(INSIDE))  # the log has it
    assert (answered, body) == (500, "Internal Server Error")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_may_run_its_own_script_alone(web: Gateway, path: str) -> None:
    """By the hash of it: no other script, no style, picture or form, no frame around it."""
    policy = dict(rule.split(" ", 1) for rule in asked(web, "GET", path)[1]["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"].startswith("'sha256-") and "unsafe" not in json.dumps(policy)


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_to_a_file(web: Gateway, path: str) -> None:
    """The gateway serves two pages by their names, and no folder."""
    assert asked(web, "GET", path)[0] == 404
