"""`/openapi.json` against the gateway: however it is asked, it answers as it is described."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from schemathesis.checks import CheckFunction
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from sqlalchemy import text

from config.settings import DESTINATIONS
from tests.integration.gateways import Gateway
from tests.integration.posting import post
from tests.integration.tokens import asking, bearer, token
from tests.service import Service
from worker.db.ledger import Ledger
from worker.gateway.app import app

CONFIG = {"seed": 1, "generation": {"max-examples": 20, "deterministic": True}}
api = schemathesis.openapi.from_dict(app.openapi(), config=SchemathesisConfig.from_dict(CONFIG))
OPERATIONS = [(path, method) for path in api for method in api[path]]
READS = [
    "/conversations",
    "/conversations/{conversation_id}",
    "/conversations/{conversation_id}/redirects",
    "/activity",
]

# What is well formed may still be refused: a destination that is not in the catalogue, an `after` that was no `next`.
WELL_FORMED: list[CheckFunction] = [positive_data_acceptance]
# By the contract a bad event among good ones is refused alone, and the request is accepted.
IN_PARTS: list[CheckFunction] = [*WELL_FORMED, negative_data_rejection]


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    """With something of everything in it: all fields and none, copies in each state, what was refused, no owner."""
    accept(private, "full", "e1", owner_id="7", reason="why", source="test", actor={"type": "user", "id": "42"})
    accept(
        private, "full", "e2", owner_id="7", destination="ai", actor={"type": "system"}, metadata={"n": 1.5, "b": None}
    )
    accept(private, "full", "e3", owner_id="8")
    accept(private, "full", "e4", owner_id="7", destination="ai")
    accept(private, "bare", "e5")
    accept(private, "refused", "e6", destination="nowhere")
    with private.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO conversations (id, owner_id, status, ai_enabled, destination, version)"
                " VALUES ('full', '7', 'active', true, 'ai', 2)"
            )
        )
        connection.execute(text("UPDATE side_effects SET state = 'dead', last_error = 'x' WHERE kind = 'cache'"))
        connection.execute(text("UPDATE side_effects SET failures = 3, last_error = 'x' WHERE kind = 'record'"))
    with asking(private) as web:
        yield web


def accept(
    service: Service, conversation_id: str, event_id: str, destination: str = "billing", **fields: object
) -> None:
    event = {"event_id": event_id, "conversation_id": conversation_id, "destination": destination} | fields
    Ledger(service.engine, DESTINATIONS, ("cache", "websocket", "record"), max_clock_skew=300).accept([event])


def url(web: Gateway) -> str:
    return f"http://127.0.0.1:{web.port}"


@pytest.mark.slow
@api.parametrize()
def test_whatever_is_asked_it_answers_as_described(web: Gateway, case: schemathesis.Case[Any]) -> None:
    """No 5xx; no status, content type or body that is not described; what is wrong or brings no token is refused."""
    excluded = IN_PARTS if case.path == "/events" else WELL_FORMED
    shown = bearer(token("*", scope="send operate"))
    case.call_and_validate(base_url=url(web), headers=shown, excluded_checks=excluded)


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("name", ["full", "bare", "refused"])
def test_what_there_is_is_as_described(web: Gateway, name: str, path: str) -> None:
    """Every field of real conversations. Generated ids would hardly ever be theirs."""
    named = {"conversation_id": name} if "{" in path else {}
    answer = (
        api[path]["GET"]
        .Case(path_parameters=named)
        .call_and_validate(base_url=url(web), headers=bearer(token("*", scope="operate")))
    )
    assert answer.status_code == (404 if (name, path) == ("refused", READS[1]) else 200)


def test_a_retry_is_as_described(web: Gateway) -> None:
    """202, and the kinds that were rung."""
    case = api["/conversations/{conversation_id}/retry"]["POST"].Case(path_parameters={"conversation_id": "bare"})
    answer = case.call_and_validate(base_url=url(web), headers=bearer(token("*", scope="operate")))
    assert (answer.status_code, set(answer.json()["rung"])) == (202, {"cache", "record", "websocket"})


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no token"),
        pytest.param(bearer("x"), id="no valid token"),
        pytest.param(bearer(token("7", lifetime=3600)), id="one that may do little"),
        pytest.param(
            bearer(token("*", scope="send operate")) | {"Host": "rebound.example"}, id="another name than ours"
        ),
    ],
)
def test_a_refusal_is_as_described(web: Gateway, path: str, method: str, headers: dict[str, str]) -> None:
    """Of each operation, by each thing that stands before it."""
    operation = api[path][method]
    body = {"event_id": "e", "conversation_id": "c", "destination": "ai", "owner_id": "8"}
    more: dict[str, Any] = {"body": body, "media_type": "application/json"} if operation.body else {}
    case = operation.Case(path_parameters={"conversation_id": "full"} if "{" in path else {}, **more)
    case.call_and_validate(base_url=url(web), headers=headers, excluded_checks=IN_PARTS)


@pytest.mark.parametrize("field", ["specversion", "id", "type"])
def test_what_a_cloudevent_must_have_it_must_have(web: Gateway, field: str) -> None:
    """As described. `source` is forgiven, whatever CloudEvents 1.0 says."""
    kind = "application/cloudevents+json"
    described = app.openapi()["paths"]["/events"]["post"]["requestBody"]["content"][kind]
    assert field in described["schema"]["required"]
    sent = {name: value for name, value in described["example"].items() if name != field}
    assert post(web, sent, kind, **bearer(token("*", scope="send"))).status == 422
