"""A recognisable secret in every setting that can hold one, and whether any of them is in a text."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from config.settings import Settings

# Settings that are text and hold no secret. What is in neither list makes a test fail: decide where it belongs.
NO_SECRET = {
    "home": "a folder",
    "bind": "an address",
    "hosts": "names that browsers show",
    "jwt_jwks": "where public keys are: a user or a password in it is refused",
    "jwt_audience": "a name that every token tells",
    "jwt_issuer": "likewise",
    "host": "the name of a profile",
    "destinations": "names that pages show",
    "record_store": "the name of a class",
    "queue_type": "one of two words",
    "log_format": "one of three words",
    "failpoint": "a name of ours",
}
# With all that has to be written in another way somewhere: in addresses, in JSON, in Python, in HTML.
AWKWARD = "/:@#?%&=+\"' é"


def secret(name: str) -> str:
    """Of this setting alone, and long enough for any."""
    return f"hunter2-of-{name}-{AWKWARD}-0123456789abcdef"


def plain(name: str) -> str:
    return f"hunter2-of-{name}-0123456789abcdef"


@dataclass(frozen=True)
class Planted:
    """The settings, by their names in the environment, and the secrets in them, by those of the class."""

    variables: Mapping[str, str]
    secrets: Mapping[str, tuple[str, ...]]
    # What customers wrote, which Sentry, Flower and logs must not hold either.
    words: tuple[str, ...] = ("my account was hacked-hunter2", "iban-hunter2-DE89370400440532013000")
    more: list[str] = field(default_factory=list)

    def all(self) -> Iterator[str]:
        yield from (one for listed in self.secrets.values() for one in listed)
        yield from self.more


def plant(database: str, broker: str, cache: str, sentry: int) -> Planted:
    """`database`, `broker` and `cache` are addresses with `{user}` in place of who logs in; `sentry` is a port."""

    def user(name: str) -> str:
        return f"planted:{quote(secret(name), safe='')}"

    lists = {name: tuple(f"{plain(name)}-{number}" for number in (1, 2)) for name in ("http_tokens", "metrics_tokens")}
    variables = {
        "DATABASE_URL": database.format(user=user("database_url")),
        "BROKER_URL": broker.format(user=user("broker_url")),
        "REDIS_URL": cache.format(user=user("redis_url")),
        "SENTRY_DSN": f"http://{plain('sentry_key')}:{plain('sentry_dsn')}@127.0.0.1:{sentry}/1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{user('otlp_endpoint')}@127.0.0.1:1",
        "REDIRECT_RABBITMQ_API": f"http://{user('rabbitmq_api')}@127.0.0.1:1",
        "DJANGO_SECRET_KEY": secret("django_secret_key"),
        "REDIRECT_JWT_SECRET": secret("jwt_secret"),
        "REDIRECT_HTTP_TOKENS": ",".join(lists["http_tokens"]),
        "REDIRECT_METRICS_TOKENS": json.dumps(lists["metrics_tokens"]),
        "FLOWER_BASIC_AUTH": f"me:{plain('flower')}",
    }
    named = (
        "database_url",
        "broker_url",
        "redis_url",
        "otlp_endpoint",
        "rabbitmq_api",
        "django_secret_key",
        "jwt_secret",
    )
    secrets = {name: (secret(name),) for name in named} | lists
    secrets |= {"sentry_dsn": (plain("sentry_dsn"),), "flower": (plain("flower"),)}
    return Planted(variables, secrets)


def of_text() -> set[str]:
    """The settings that text can be in."""
    return {name for name, one in Settings.model_fields.items() if any(word in str(one.annotation) for word in TEXT)}


TEXT = ("str", "Secret", "Path", "Url", "Dsn", "bytes", "Any", "dict", "object")


def found(text: str, secrets: Iterator[str]) -> list[str]:
    """Those of `secrets` that are in `text`: as they are, in an address, in JSON, Python or HTML, or in base64."""
    return sorted({one for one in secrets if any(form in text for form in _forms(one))})


def _forms(one: str) -> set[str]:
    escaped = {json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1], repr(one)[1:-1]}
    html = one.replace("&", "&amp;").replace('"', "&quot;").replace("'", "&#39;")
    return {one, quote(one), quote(one, safe=""), html, *escaped, *_in_base64(one)}


def _in_base64(one: str) -> Iterator[str]:
    """Wherever it begins within the three bytes that base64 takes at once; without what its neighbours decide."""
    raw = one.encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        yield encoded[(before * 8 + 5) // 6 + 1 : -2]
