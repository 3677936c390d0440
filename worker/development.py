"""What `up` makes for itself where nothing is set: a secret to sign tokens with, kept in its home."""

import json
import secrets
from pathlib import Path

from config.settings import LOOPBACK, Settings
from worker.embedded.home import write_private
from worker.errors import Permanent

FILE = "secrets.json"


def environment(settings: Settings) -> dict[str, str]:
    """What the processes of `up` need besides: nothing where keys are set, or strangers can call."""
    if settings.asks_for_tokens or settings.bind not in LOOPBACK:
        return {}
    return {"REDIRECT_JWT_SECRET": _made(settings.home), "REDIRECT_DEVELOPMENT": "true"}


def secret(settings: Settings) -> str:
    """The secret that tokens are signed with here. Raises Permanent where there is none."""
    if settings.jwt_secret is not None:
        return settings.jwt_secret.get_secret_value()
    if (kept := _kept(settings.home)) is None:
        raise Permanent(
            "no secret to sign with: set REDIRECT_JWT_SECRET, or start `redirect-worker up`, which makes one "
            f"under {settings.home} (tokens for REDIRECT_JWT_JWKS are signed by whoever has the private key)"
        )
    return kept


def _made(home: Path) -> str:
    if (kept := _kept(home)) is not None:
        return kept
    made = secrets.token_urlsafe(48)
    write_private(home / FILE, json.dumps({"jwt_secret": made}).encode())
    return made


def _kept(home: Path) -> str | None:
    try:
        kept: str = json.loads((home / FILE).read_text())["jwt_secret"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Permanent(f"{home / FILE} cannot be read ({error}): remove it, and `up` makes a new one") from error
    return kept
