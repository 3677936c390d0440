"""Tokens that somebody else signs (RS256), checked with the public keys of REDIRECT_JWT_JWKS."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.eventually import eventually
from tests.integration.gateways import Gateway
from tests.integration.tokens import MADE, SECRET, asking, by_hand, get, is_refused, is_taken
from tests.service import Service
from worker.embedded.processes import free_port
from worker.gateway import jwks
from worker.gateway.tokens import issue


@cache
def key(name: str) -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def public(name: str, **more: Any) -> dict[str, Any]:
    return RSAAlgorithm.to_jwk(key(name).public_key(), as_dict=True) | {"kid": name} | more


def elliptic() -> dict[str, Any]:
    """A key that is there for other tokens than ours."""
    return ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True) | {"kid": "elliptic"}


def write(keys: Path, *published: Mapping[str, Any]) -> None:
    """As an issuer would: the file is whole at any moment."""
    fresh = keys.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": published}))
    fresh.replace(keys)


def signed(name: str, kid: str | None = None) -> str:
    claims = jwt.decode(issue(SECRET, 600, ["*"]), options={"verify_signature": False})
    made = jwt.encode(claims, key(name), algorithm="RS256", headers={"kid": kid or name})
    MADE.add(made)
    return made


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys for signatures, one for encryption, and two of other kinds."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    shared = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}
    write(path, public("first"), public("second", use="sig"), public("third", use="enc"), elliptic(), shared)
    return path


@pytest.fixture(scope="module")
def web(private: Service, keys: Path) -> Iterator[Gateway]:
    """A gateway that knows its issuer's public keys and has no secret."""
    with asking(private, REDIRECT_JWT_JWKS=str(keys)) as web:
        yield web


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_token_of_any_of_the_keys_is_taken(web: Gateway, name: str) -> None:
    """Of each that may sign, by its `kid`."""
    assert is_taken(web, signed(name))


def test_a_token_of_a_key_that_is_not_there_is_refused(web: Gateway) -> None:
    """By a `kid` that nobody knows, by that of another key, and without one."""
    assert is_refused(web, signed("stranger"))
    assert is_refused(web, signed("stranger", kid="first"))
    assert is_refused(web, by_hand({"alg": "RS256"}, b"any"))


def test_a_key_for_encryption_signs_nothing(web: Gateway) -> None:
    """`use` says `enc`."""
    assert is_refused(web, signed("third"))


def test_the_public_key_is_no_secret(web: Gateway) -> None:
    """With the text of the public key as an HS256 secret, a token is refused: it must not choose the algorithm."""
    shown = key("first").public_key()
    for form in (Encoding.PEM, Encoding.DER):
        text = shown.public_bytes(form, PublicFormat.SubjectPublicKeyInfo)
        assert is_refused(web, by_hand({"alg": "HS256", "kid": "first"}, text))
    assert is_refused(web, by_hand({"alg": "none", "kid": "first"}, None))


@pytest.mark.parametrize("kid", ["elliptic", "shared"])
@pytest.mark.parametrize("algorithm", ["RS256", "HS256", "ES256"])
def test_a_key_of_another_kind_is_none_for_us(web: Gateway, kid: str, algorithm: str) -> None:
    """It may be in the set; a token that names it is refused, and is no error of ours."""
    secret = b"secret-secret-secret-secret-secret"
    assert is_refused(web, by_hand({"alg": algorithm, "kid": kid}, secret))


@pytest.mark.parametrize("kid", [5, ["first"], {"first": 1}, "\ud800"], ids=ascii)
def test_a_key_that_is_named_by_no_text_is_none(web: Gateway, kid: Any) -> None:
    """A header that nobody could have written is no error of ours."""
    assert is_refused(web, by_hand({"alg": "RS256", "kid": kid}, b"any"))


def test_the_keys_are_read_again_at_most_every_half_minute(private: Service, keys: Path, tmp_path: Path) -> None:
    """A key that was just added is not looked for at once: anybody can send tokens that name keys nobody has."""
    own = tmp_path / "keys.json"
    write(own, public("first"))
    with asking(private, REDIRECT_JWT_JWKS=str(own)) as web:
        assert is_taken(web, signed("first"))
        write(own, public("first"), public("second"))
        assert is_refused(web, signed("second"))
    assert (jwks.AT_MOST_EVERY, jwks.BELIEVED) == (30, 600)


@pytest.mark.slow
def test_a_rotation_is_noticed(private: Service, tmp_path: Path) -> None:
    """A new key when a token names it, one that was withdrawn after a while; with the times made short."""
    own = tmp_path / "keys.json"
    write(own, public("first"))
    with asking(private, "tests.integration.hurried", REDIRECT_JWT_JWKS=own.as_uri()) as web:
        assert is_taken(web, signed("first"))
        write(own, public("first"), public("second"))
        eventually(lambda: is_taken(web, signed("second")), every=0.3)
        assert is_taken(web, signed("first"))
        write(own, public("second"))
        eventually(lambda: is_refused(web, signed("first")), every=0.3)
        assert is_taken(web, signed("second"))


def test_keys_that_cannot_be_read_are_an_outage(private: Service, tmp_path: Path) -> None:
    """503 with Retry-After, which does not blame the database, until they are there; nobody comes in meanwhile."""
    own = tmp_path / "keys.json"
    with asking(private, "tests.integration.hurried", REDIRECT_JWT_JWKS=str(own)) as web:
        answer = get(web, "/conversations", signed("first"))
        assert (answer.status, answer.headers.get("retry-after") is not None) == (503, True)
        assert "database" not in answer.body
        write(own, public("first"))
        eventually(lambda: is_taken(web, signed("first")), every=0.3)


def test_keys_over_http_are_refused_at_the_start(private: Service) -> None:
    """Whoever sits between could set them: the gateway says so and ends, before it answers anybody."""
    environment = {"PORT": str(free_port(None)), "REDIRECT_JWT_JWKS": "http://keys.example/keys.json"}
    process = private.spawn("worker.gateway", environment=environment)
    try:
        eventually(lambda: not process.running or process.says("gateway ready"))
        assert process.popen.poll() not in (None, 0), "it has started"
        assert process.says("REDIRECT_JWT_JWKS")
    finally:
        process.kill()
