"""What several modules of this folder share."""

from collections.abc import Iterator

import pytest

from tests.conftest import make_service
from tests.integration.gateways import Gateway, gateway
from tests.service import Service


@pytest.fixture(scope="module")
def private(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """One service for the tests that do it no harm; each uses ids of its own."""
    return make_service(servers, tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    with gateway(private) as web:
        yield web
