"""A JSON Web Key Set (RFC 7517), from a file or an https:// address, read again when a key is not in it."""

import json
import time
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import jwt

from worker.errors import Transient

# Seconds between two readings: keys are changed rarely, and anybody can send a token that names a key nobody has.
AT_MOST_EVERY = 30.0
# Seconds after which keys that were withdrawn are no longer believed.
BELIEVED = 600.0
TIMEOUT = 2.0
LARGEST = 1024 * 1024


class KeysAway(Transient):
    """The keys of REDIRECT_JWT_JWKS cannot be read now: try again soon."""


class KeySet:
    """The public keys at `address`. Opens nothing before the first question."""

    def __init__(self, address: str) -> None:
        self._address, self._remote = address, urlsplit(address).scheme in ("http", "https")
        self._lock = Lock()
        self._keys: dict[str | None, Any] = {}
        self._read_at = self._tried_at = float("-inf")

    def of(self, token: str) -> Any:
        """The key that `token` names. Raises jwt.InvalidTokenError, or KeysAway."""
        kid = jwt.get_unverified_header(token).get("kid")
        with self._lock:
            now = time.monotonic()
            missing = kid not in self._keys or now - self._read_at > BELIEVED
            if missing and now - self._tried_at > AT_MOST_EVERY:
                self._tried_at = now
                self._keys = {key.key_id: key.key for key in self._fetch() if _signs(key)}
                self._read_at = time.monotonic()
            if not self._keys or time.monotonic() - self._read_at > BELIEVED:
                raise KeysAway("nothing there, or not read for too long")
            if kid not in self._keys:
                raise jwt.InvalidTokenError(f"there is no key {kid!r}")
            return self._keys[kid]

    def _fetch(self) -> list[jwt.PyJWK]:
        try:
            document = json.loads(self._text())
            return jwt.PyJWKSet.from_dict(document).keys
        except (OSError, URLError, ValueError, jwt.PyJWTError) as error:
            raise KeysAway(str(error)) from error

    def _text(self) -> bytes:
        if not self._remote:
            return Path(self._address.removeprefix("file://")).read_bytes()
        # https, or this machine: config/settings.py sees to it.
        with urlopen(Request(self._address), timeout=TIMEOUT) as answer:  # noqa: S310
            return bytes(answer.read(LARGEST))


def _signs(key: jwt.PyJWK) -> bool:
    """Whether it is for RS256. A set may hold others, for other ends."""
    return key.key_type == "RSA" and key.public_key_use in (None, "sig")
