"""How the gateway describes itself: `/openapi.json`, and `/docs` for people without a network."""

import json
import re

from tests.integration.gateways import HTTP, Gateway
from tests.integration.posting import post


def test_openapi_describes_each_answer_body_and_the_scheme(web: Gateway) -> None:
    """Every status above, every content type, and the bearer token."""
    told = web.get("/openapi.json").body
    operation = told["paths"]["/events"]["post"]
    assert set(operation["responses"]) == {"202", "400", "401", "403", "408", "413", "415", "422", "503"}
    assert set(operation["requestBody"]["content"]) == {
        "application/json",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    }
    (scheme,) = (told["components"]["securitySchemes"][name] for each in operation["security"] for name in each)
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_every_reference_of_openapi_resolves(web: Gateway) -> None:
    """A generator of clients finds all of it."""
    told = web.get("/openapi.json").body
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(told))):
        at = told
        for part in reference.split("/"):
            at = at[part]


def test_the_examples_of_openapi_are_accepted(web: Gateway) -> None:
    """Copied as they are."""
    content = web.get("/openapi.json").body["paths"]["/events"]["post"]["requestBody"]["content"]
    for content_type, media in content.items():
        assert post(web, media["example"], content_type).status == 202


def test_the_page_of_docs_needs_nothing_but_this_server(web: Gateway) -> None:
    """No script, style, font or image from anywhere else: it is readable without a network."""
    with HTTP.open(f"http://127.0.0.1:{web.port}/docs", timeout=10) as answer:
        page = answer.read().decode()
    assert "openapi.json" in page
    assert re.findall(r"https?://|//\w+\.|@import|<script src|<link rel=\"stylesheet", page) == []
