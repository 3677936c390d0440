"""This process as a worker beside a host, and the host."""

from collections.abc import Iterator

import pytest

from tests.afresh import forget
from tests.hosts.host import SECRET, Host
from tests.service import Service


@pytest.fixture
def configured(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of this process: the servers and the key of the host. Change it, then `forget()`."""
    for name, value in {"DATABASE_URL": service.database_url, "REDIS_URL": service.redis_url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DJANGO_SECRET_KEY", SECRET)
    forget()
    yield monkeypatch
    forget()


@pytest.fixture
def host(service: Service, configured: pytest.MonkeyPatch) -> Host:
    return Host(service)
