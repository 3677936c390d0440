"""The one door to the environment; what must fit together is checked here."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Jitter adds up to this share to every retry wait, so that what failed together does not return together.
JITTER = 0.1
LONGEST_QUICK_RETRY = 30.0
"""Seconds: the longest wait that worker/policy.py hands to the broker; a test keeps the two equal."""
SHORTEST_TOKEN = 16
"""Characters: what nobody guesses, if chance made it."""
SHORTEST_SECRET = 32
"""Characters: HS256 wants a key as long as its hash (RFC 7518, section 3.2)."""
LOOPBACK = ("127.0.0.1", "localhost")

DESTINATIONS = {
    "ai": "AI Assistant",
    "support": "Support",
    "sales": "Sales",
    "technical": "Technical",
    "billing": "Billing",
    "general": "General",
}
EMBEDDED = {"database_url": "postgres", "broker_url": "broker", "redis_url": "cache"}


class NotConfigured(Exception):
    """No URL is set and no embedded server is running."""


class Settings(BaseSettings):
    """Times are seconds. `REDIRECT_*` unless an alias says otherwise; an unset URL means the embedded server."""

    # An error must not print what was set: URLs hold passwords, and tokens are nothing else.
    model_config = SettingsConfigDict(
        env_prefix="REDIRECT_", populate_by_name=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    database_url: str | None = Field(None, validation_alias="DATABASE_URL")
    broker_url: str | None = Field(None, validation_alias="BROKER_URL")
    redis_url: str | None = Field(None, validation_alias="REDIS_URL")
    sentry_dsn: str | None = Field(None, validation_alias="SENTRY_DSN")
    otlp_endpoint: str | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    # The host's, by its name there: what its channel layer encrypts with.
    django_secret_key: SecretStr | None = Field(None, validation_alias="DJANGO_SECRET_KEY")
    port: int = Field(8000, validation_alias="PORT", ge=0, le=65535)
    flower_port: int = Field(5555, ge=0, le=65535)
    home: Path = Path(".redirect-worker")

    bind: str = "127.0.0.1"
    # The names by which browsers call us: the Host header of a request and the Origin of a WebSocket.
    hosts: Annotated[tuple[str, ...] | None, NoDecode] = None
    http_tokens: Annotated[tuple[SecretStr, ...] | None, NoDecode] = None
    metrics_tokens: Annotated[tuple[SecretStr, ...] | None, NoDecode] = None
    jwt_secret: SecretStr | None = Field(None, min_length=SHORTEST_SECRET)
    jwt_jwks: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    jwt_lifetime: float = Field(3600, gt=0)
    sockets: int = Field(10_000, gt=0)
    sockets_per_token: int = Field(20, gt=0)
    # `up` sets it: the page is given a token, and a demo plays with customers who are typed.
    development: bool = False

    # The application whose conversations these are: a file of worker/hosts/.
    host: str = "bundled"
    # After a redirect to people, what a host's stale save has undone is set right once.
    guard: bool = True
    destinations: Annotated[dict[str, str], NoDecode] = DESTINATIONS
    record_store: str = "worker.db.records:BundledRecords"
    cache_ttl: int = Field(86_400, gt=0)
    max_clock_skew: float = Field(300, ge=0, allow_inf_nan=False)
    history_days: int = Field(90, gt=0)

    # RabbitMQ's x-queue-type of `redirects`: unset, it is the virtual host's default, as for a default Celery producer.
    # Set, it must be what every producer declares too: `task_create_missing_queue_type` there.
    queue_type: str | None = Field(None, pattern="^(classic|quorum)$")
    # RabbitMQ's management API, which only `doctor` asks: http(s)://[user:password@]host:port. Else port
    # 15672 there, or 15671 where the broker is amqps://.
    rabbitmq_api: str | None = None
    # Events in one task: what one transaction and one pipeline carry with ease.
    batch: int = Field(200, ge=1, le=10_000)
    sweep_interval: float = Field(2, gt=0)
    reconcile_interval: float = Field(30, gt=0)
    # One process for each of the three kinds, and one that no broken copy can keep from new redirects.
    concurrency: int = Field(4, ge=1)
    task_time_limit: float = Field(30, gt=0)
    task_soft_time_limit: float = Field(20, gt=0)
    visibility_timeout: float = Field(120, gt=0)
    log_format: str = Field("auto", pattern="^(auto|text|json)$")
    # A place of worker/failpoints.py where the process is killed.
    failpoint: str | None = None

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, value: str) -> str:
        if not value.isidentifier():
            raise ValueError(
                f"REDIRECT_HOST should be the name of a host profile, such as bundled or pilito, not {value!r}; "
                "the address to listen on is REDIRECT_BIND"
            )
        return value

    @field_validator("destinations", mode="before")
    @classmethod
    def _catalogue(cls, value: object) -> object:
        catalogue = json.loads(value) if isinstance(value, str) else value
        if not isinstance(catalogue, dict) or "ai" not in catalogue:
            raise ValueError('REDIRECT_DESTINATIONS should be a JSON object of value to label that has "ai"')
        return catalogue

    @field_validator("http_tokens", "metrics_tokens", mode="before")
    @classmethod
    def _listed(cls, value: object, field: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        variable = f"REDIRECT_{str(field.field_name).upper()}"
        try:
            listed = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
            tokens = [token.strip() for token in listed]
        except (ValueError, AttributeError):
            raise ValueError(f"{variable} should be tokens with commas between, or a JSON array") from None
        if not any(tokens):  # nobody would be asked for a token, by an accident of writing
            raise ValueError(f"{variable} should be left out where there is no token in it")
        return [token for token in tokens if token]

    @field_validator("http_tokens", "metrics_tokens")
    @classmethod
    def _long_enough(cls, tokens: tuple[SecretStr, ...] | None, field: ValidationInfo) -> tuple[SecretStr, ...] | None:
        if any(len(token) < SHORTEST_TOKEN for token in tokens or ()):
            variable = f"REDIRECT_{str(field.field_name).upper()}"
            raise ValueError(f"each token of {variable} should have at least {SHORTEST_TOKEN} characters")
        return tokens

    @field_validator("hosts", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return [name.strip().lower() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @property
    def asks_for_tokens(self) -> bool:
        """Whether readers have to bring one. Without a key there is nothing to check one with."""
        return self.jwt_secret is not None or self.jwt_jwks is not None

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> Self:
        if self.jwt_secret is not None and self.jwt_jwks is not None:
            raise ValueError("REDIRECT_JWT_SECRET and REDIRECT_JWT_JWKS exclude each other: set one")
        return self

    @field_validator("database_url", "broker_url", "redis_url", "rabbitmq_api", "otlp_endpoint", "jwt_jwks")
    @classmethod
    def _can_be_read(cls, value: str | None, field: ValidationInfo) -> str | None:
        """Else a library says what it took for the port: the rest of a password that has a slash in it."""
        try:
            for address in (value or "").split(";"):
                _ = urlsplit(address).port
        except ValueError:
            variable = (
                cls.model_fields[str(field.field_name)].validation_alias or f"REDIRECT_{field.field_name}".upper()
            )
            raise ValueError(
                f"{variable} is no address: percent-encode the password in it (of @ make %40, of / make %2F)"
            ) from None
        return value

    @field_validator("jwt_jwks")
    @classmethod
    def _nobody_in_between(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if parts.username is not None:
            raise ValueError("REDIRECT_JWT_JWKS should have no user and no password in it: the keys are public")
        if parts.scheme not in ("", "file", "https") and parts.hostname not in LOOPBACK:
            raise ValueError("REDIRECT_JWT_JWKS should be a file or an https:// address: others could set the keys")
        return value

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        if self.bind in LOOPBACK:
            return self
        needed = {
            "REDIRECT_JWT_SECRET or REDIRECT_JWT_JWKS": self.asks_for_tokens,
            "REDIRECT_HTTP_TOKENS": self.http_tokens,
            "REDIRECT_HOSTS": self.hosts,
        }
        if missing := [name for name, there in needed.items() if not there]:
            raise ValueError(f"on the address {self.bind} strangers can call: set {', '.join(missing)} first")
        if self.development:
            raise ValueError(f"REDIRECT_DEVELOPMENT gives a token to everybody: not on the address {self.bind}")
        return self

    @model_validator(mode="after")
    def _kills_only_at_home(self) -> Self:
        servers = (self.database_url, self.broker_url, self.redis_url, self.sentry_dsn)
        addresses = [address for url in servers if url for address in url.split(";")]
        far = [where for where in map(_machine, addresses) if where not in LOOPBACK]
        if self.failpoint and (far or self.bind not in LOOPBACK):
            raise ValueError(
                f"REDIRECT_FAILPOINT kills processes: unset it where {', '.join(far) or self.bind} is used"
            )
        return self

    @model_validator(mode="after")
    def _times_nest(self) -> Self:
        if self.task_soft_time_limit >= self.task_time_limit:
            raise ValueError("REDIRECT_TASK_SOFT_TIME_LIMIT must be less than REDIRECT_TASK_TIME_LIMIT")
        # celery#3270, kombu#337: Redis delivers again what is unacknowledged for longer than the visibility timeout.
        if LONGEST_QUICK_RETRY * (1 + JITTER) + self.task_time_limit >= self.visibility_timeout:
            raise ValueError(
                "REDIRECT_VISIBILITY_TIMEOUT must exceed the longest quick retry "
                f"({LONGEST_QUICK_RETRY * (1 + JITTER):g} s) plus REDIRECT_TASK_TIME_LIMIT"
            )
        return self

    def url(self, field: str) -> str:
        """The URL in `field` (`database_url`, `broker_url`, `redis_url`), or that of the running embedded server.

        Raises NotConfigured with what to set.
        """
        url = getattr(self, field) or self._embedded_url(field)
        if url is None:
            raise NotConfigured(
                f"{field.upper()} is not set, and no embedded server runs under {self.home}: "
                f"set {field.upper()}, or start everything with `redirect-worker up`"
            )
        return str(url)

    def _embedded_url(self, field: str) -> str | None:
        """What worker/embedded.py noted when it started the servers."""
        try:
            server = json.loads((self.home / "servers.json").read_text())[EMBEDDED[field]]
            return str(server["url"]) if server["pid"] else None
        except (OSError, ValueError, LookupError, TypeError):
            return None


def _machine(url: str) -> str:
    """The host of a URL, which may have no other part that can be read; of a socket in a folder, this machine."""
    return urlsplit(url).hostname or LOOPBACK[0]


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read on first use."""
    return Settings()
