"""The choice of a host, and what it costs those who do not make it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import Settings
from tests.hosts.tables import conversation
from tests.integration.ledgers import execute
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


USED = """
import sys, worker.hosts
worker.hosts.__path__.append(sys.argv[1])
from datetime import UTC, datetime
from worker.hosts import host
from worker.redirects import State
states = [State(name, "7", "billing", version, datetime.now(UTC), "e") for name, version in (("c1", 5), ("c2", 2))]
print(host().record.write(states))
"""


def test_the_third_host_of_the_documentation_works(service: Service, tmp_path: Path) -> None:
    """As it stands there: one file, chosen by its name; an older version does not get over a newer one."""
    code = re.search(r"```python\n(.+?)```", Path("docs/hosts.md").read_text(), re.DOTALL)
    assert code
    (tmp_path / "acme.py").write_text(code[1])
    execute(
        service,
        "CREATE TABLE tickets (conversation_id text, queue text, redirect_version bigint)",
        "INSERT INTO tickets VALUES ('c1', 'ai', 4), ('c2', 'ai', 3)",
    )
    command = [sys.executable, "-c", USED, str(tmp_path)]
    environment = service.environment | {"REDIRECT_HOST": "acme"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{}\n", "")
    assert service.rows("SELECT * FROM tickets ORDER BY 1") == [
        {"conversation_id": "c1", "queue": "billing", "redirect_version": 5},
        {"conversation_id": "c2", "queue": "ai", "redirect_version": 3},
    ]


@pytest.mark.slow
def test_doctor_says_what_pilito_lacks(service: Service) -> None:
    """Its table, its privileges, the proof of its key: each with what to do."""

    def says() -> dict[str, str]:
        command = [str(Path(sys.executable).with_name("redirect-worker")), "doctor", "--json"]
        environment = service.environment | {"REDIRECT_HOST": "pilito"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return {
            one["name"]: f"{one['ok']}: {one['says']}" for one in json.loads(done.stdout) if "host's" in one["name"]
        }

    found = says()
    assert found["the host's rows"].startswith("False: there is no message_conversation in DATABASE_URL")
    assert found["the host's channel layer"].startswith("False: the host has not shown its key yet")
    conversation(service, "c1")
    assert says()["the host's rows"] == "True: message_conversation may be read and written"


def test_a_host_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "settings", lambda: Settings(host="acme"))
    with pytest.raises(Permanent, match=r"REDIRECT_HOST=acme: there is no worker/hosts/acme\.py"):
        hosts.host.__wrapped__()
