"""JSON Web Tokens (RFC 7519): who the bearer is, or why the token is none of ours."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from time import time
from typing import Any

import jwt

from config.settings import Settings
from worker.gateway.jwks import KeySet
from worker.gateway.views import EVERYBODY, Reader, View

# Seconds that our clock and the issuer's may differ.
LEEWAY = 5.0
# What a header carries with ease, and thousands of conversation ids do not fit into: those belong into `owner_ids`.
LARGEST = 8192


class NoToken(Exception):
    """A token is needed, and this is none; says what would be right."""


class Tokens:
    """Verifies tokens as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._keys = KeySet(settings.jwt_jwks) if settings.jwt_jwks else None

    def reader(self, token: str) -> Reader:
        """The bearer of `token`. Raises NoToken, and Transient when the keys cannot be had. May wait for them."""
        if len(token) > LARGEST or not token.isascii():
            raise NoToken(f"a token should be ASCII of at most {LARGEST} characters")
        try:
            claims = self._claims(token)
        except jwt.InvalidTokenError as error:
            raise NoToken(f"the token is not valid: {error}") from None
        if not isinstance(claims["exp"], int | float):  # text of digits passes PyJWT
            raise NoToken('"exp" in the token should be a number (RFC 7519, section 4.1.4)')
        if claims["exp"] - time() > self._settings.jwt_lifetime + LEEWAY:
            raise NoToken(f"the token should end within {self._settings.jwt_lifetime:g} s (REDIRECT_JWT_LIFETIME)")
        digest = hashlib.sha256(token.encode()).hexdigest()[:16]
        return Reader(_view(claims), _scope(claims), claims["exp"] + LEEWAY, digest)

    def _claims(self, token: str) -> dict[str, Any]:
        # The one algorithm that our key is for: what the token says of itself must not choose it (RFC 8725, 3.1).
        key: Any
        key, algorithm = (self._keys.of(token), "RS256") if self._keys else (self._secret, "HS256")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._settings.jwt_audience,
            issuer=self._settings.jwt_issuer,
            leeway=LEEWAY,
            options={"require": ["exp"], "verify_aud": self._settings.jwt_audience is not None},
        )
        return claims


def issue(secret: str, lifetime: float, owner_ids: Sequence[str], scope: str = "", **claims: Any) -> str:
    """A token of our own secret (HS256), good for `lifetime` seconds."""
    now = int(time())
    told = {"iat": now, "exp": now + int(lifetime), "owner_ids": list(owner_ids), "scope": scope}
    return jwt.encode(told | claims, secret, algorithm="HS256")


def _view(claims: Mapping[str, Any]) -> View:
    owners, conversations = _texts(claims, "owner_ids"), _texts(claims, "conversation_ids")
    if owners is None:
        raise NoToken('the token should say "owner_ids", an array of text; ["*"] is everybody')
    return View(None if EVERYBODY in owners else owners, conversations)


def _texts(claims: Mapping[str, Any], name: str) -> frozenset[str] | None:
    listed = claims.get(name)
    if listed is not None and not (isinstance(listed, list) and all(isinstance(one, str) for one in listed)):
        raise NoToken(f'"{name}" in the token should be an array of text')
    return None if listed is None else frozenset(listed)


def _scope(claims: Mapping[str, Any]) -> frozenset[str]:
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise NoToken('"scope" in the token should be words with spaces between')
    return frozenset(scope.split())


@lru_cache(maxsize=1)
def tokens() -> Tokens:
    """Those of this process's settings."""
    from config.settings import settings

    return Tokens(settings())
