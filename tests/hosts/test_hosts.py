"""The choice of a host, and what it costs those who do not make it."""

import subprocess
import sys

import pytest

from config.settings import Settings
from tests.service import Service
from worker import hosts
from worker.errors import Permanent

LOADED = """
import sys
import worker.app, worker.client, worker.hosts, worker.tasks.maintenance, worker.tasks.redirect
print(worker.hosts.host().rows, sorted(m for m in sys.modules if m.startswith(("worker.hosts.", "channels"))))
"""


def test_the_bundled_host_loads_no_other(service: Service) -> None:
    """No module of a profile, and no library that only a profile needs; and the ledger has no rows to ask."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=service.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None ['worker.hosts.bundled']\n"


def test_a_host_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "settings", lambda: Settings(host="acme"))
    with pytest.raises(Permanent, match=r"REDIRECT_HOST=acme: there is no worker/hosts/acme\.py"):
        hosts.host.__wrapped__()
