"""Text without the secrets of the settings: for whatever leaves a process, such as logs, Sentry, Flower and rows.

The libraries' own errors quote none that we know of. What a host's code raises may quote anything.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr, ValidationError

from config.settings import EMBEDDED, NotConfigured, Settings, settings

HIDDEN = "**"
# Characters. A shorter secret may be a word of ours (`redirect`, `guest`): it is hidden where it stands in an address.
SHORTEST = 12
_PASSWORD = re.compile(r"(?<=://)([^\s/@:'\"]*):[^\s'\"@]+@")


def hide(text: str) -> str:
    """`text` with `**` for every secret that is set, and for every password in an address."""
    for form in _forms():
        text = text.replace(form, HIDDEN)
    return _PASSWORD.sub(rf"\1:{HIDDEN}@", text) if "://" in text else text


@lru_cache(maxsize=1)
def _forms() -> tuple[str, ...]:
    """Each secret of this process as it is, in an address, in JSON and in Python; the longest first."""
    try:
        found = {secret for secret in secrets(settings()) if len(secret) >= SHORTEST}
    except ValidationError:  # whoever tells of that must still be able to
        return ()
    forms = {form for one in found for form in (one, quote(one, safe=""), json.dumps(one)[1:-1], repr(one)[1:-1])}
    return tuple(sorted(forms, key=len, reverse=True))


def secrets(settings: Settings) -> Iterator[str]:
    """Every secret in `settings`: what is declared as one, and what addresses hold of them."""
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name in EMBEDDED:
            with suppress(NotConfigured):
                value = settings.url(name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, SecretStr):
                yield one.get_secret_value()
            elif isinstance(one, str) and "://" in one:
                yield from (secret for address in one.split(";") for secret in _held(address, name == "sentry_dsn"))


def _held(address: str, key: bool) -> Iterator[str]:
    """The passwords in an address; and where its user is a `key`, that."""
    with suppress(ValueError):
        parts = urlsplit(address)
        told = [parts.password, parts.username if key else None]
        told += [value for name, value in parse_qsl(parts.query) if "password" in name]
        yield from (form for one in told if one for form in (one, unquote(one)))
