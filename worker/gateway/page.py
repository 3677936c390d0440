"""`/` and `/docs`: the pages people look at, one file each; and the token that `up` gives the first."""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse

from config.settings import settings
from worker.gateway.tokens import issue
from worker.gateway.views import EVERYBODY, OPERATE, SEND

PAGE, DOCS = Path(__file__).with_name("page.html"), Path(__file__).with_name("docs.html")

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> HTMLResponse:
    return _answer(PAGE)


@router.get("/docs")
async def docs() -> HTMLResponse:
    return _answer(DOCS)


def _answer(file: Path) -> HTMLResponse:
    text, policy = _read(file)
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


@lru_cache(maxsize=2)
def _read(file: Path) -> tuple[str, str]:
    """A page, and what it may do: run its own script, wear its own style, talk to this server, and nothing else."""
    text = file.read_text()
    rules = {
        "default-src": "'none'",
        "script-src": _hash(text, "script"),
        "style-src": _hash(text, "style"),
        # Older browsers do not take 'self' for WebSockets.
        "connect-src": "'self' ws: wss:",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, "; ".join(f"{rule} {value}" for rule, value in rules.items())


def _hash(text: str, tag: str) -> str:
    inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert inside
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()}'"


@router.get("/development-token")
async def development_token() -> dict[str, Any]:
    """For the page, where `up` runs: this machine's own browser, as the Host header says."""
    secret = settings().jwt_secret
    if not settings().development or secret is None:
        raise HTTPException(404, "only `redirect-worker up` gives tokens to the page")
    lifetime = min(3600.0, settings().jwt_lifetime)
    token = issue(secret.get_secret_value(), lifetime, [EVERYBODY], f"{SEND} {OPERATE}", sub="page")
    return {"token": token, "expires_in": lifetime}
