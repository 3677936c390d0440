"""The four races of the host, each with its real framework, a worker and beat; and how each ends without the guard."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.eventually import eventually
from tests.hosts.host import Host, browser, heard
from tests.hosts.tables import status, told
from tests.integration.ledgers import execute
from tests.service import Service

# What the host does around a redirect. `old` was read before it, as its workflows and consumers do.
PRELUDE = """
import json
from django.core.cache import cache
from django.db import transaction
from tests.hosts.pilito.message.models import Conversation, Customer, Owner
from worker.client import apply_in
owner, _ = Owner.objects.get_or_create(id=7, username="owner")
customer, _ = Customer.objects.get_or_create(id=1)
def begun(name, status="active"):
    return Conversation.objects.create(id=name, status=status, user=owner, customer=customer)
def redirect(name, destination="support"):
    event = {"event_id": f"{name}-{destination}", "conversation_id": name, "destination": destination}
    return apply_in("default", event)
def flag(name, value):
    cache.set(f"ai_control_{name}", {"ai_enabled": value}, timeout=86400)
"""


# Each starts a worker, beat, and Django several times.
pytestmark = pytest.mark.slow


@pytest.fixture
def pilito(host: Host) -> Host:
    host.service.extra |= {"REDIRECT_HOST": "pilito", "DJANGO_SECRET_KEY": host.secret}
    host.migrate()
    return host


@contextmanager
def working(service: Service, **environment: str) -> Iterator[None]:
    with service.worker(**environment), service.beat(REDIRECT_RECONCILE_INTERVAL="1", **environment):
        yield


def does(host: Host, code: str) -> Any:
    """What the host prints as JSON after it has done this."""
    return json.loads(host.run(PRELUDE + code) or "null")


def flagged(host: Host, name: str) -> Any:
    return does(host, f"print(json.dumps(cache.get('ai_control_{name}')))")


def quiet(service: Service, name: str) -> bool:
    """Nothing is behind, and nobody watches any more."""
    return not service.rows("SELECT id FROM side_effects") and not service.rows(
        "SELECT version FROM guards WHERE conversation_id = :name", name=name
    )


def pass_the_window(service: Service) -> None:
    """As if each look of the guard were due now, one after the other."""
    for _ in range(3):
        execute(service, "UPDATE guards SET since = since - interval '45 s', due_at = now()")
        eventually(lambda: not service.rows("SELECT FROM guards WHERE due_at <= now()"))


def test_the_flag_is_overwritten_after_the_redirect(pilito: Host) -> None:
    """After every completed workflow the host sets it back to True."""
    with working(pilito.service):
        does(pilito, "begun('c1'); redirect('c1')")
        eventually(lambda: flagged(pilito, "c1") == {"ai_enabled": False}, every=0.5)
        does(pilito, "flag('c1', True)")
        eventually(lambda: flagged(pilito, "c1") == {"ai_enabled": False}, every=0.5)
        assert status(pilito.service, "c1") == "support_active"


@pytest.mark.parametrize("guard", [True, False])
def test_a_stale_save_of_the_whole_row(pilito: Host, guard: bool) -> None:
    """It is set right, once and on record. With the guard switched off the AI has the conversation again."""
    with working(pilito.service, REDIRECT_GUARD=str(guard)):
        pilito.service.extra |= {"REDIRECT_GUARD": str(guard)}
        does(pilito, "old = begun('c1'); redirect('c1'); old.save()")
        if guard:
            eventually(lambda: ("noop", "reasserted") in told(pilito.service, "c1"))
            assert status(pilito.service, "c1") == "support_active"
            eventually(lambda: flagged(pilito, "c1") == {"ai_enabled": False}, every=0.5)
            assert told(pilito.service, "c1") == [("applied", None), ("noop", "reasserted")]
        else:
            eventually(lambda: ("applied", "external_change") in told(pilito.service, "c1"))
            assert status(pilito.service, "c1") == "active"


def test_a_workflow_that_ends_after_its_redirect(pilito: Host) -> None:
    """While it runs the row says `marketing_active`; at its end it saves `active` over what it had read."""
    with working(pilito.service):
        paid = does(
            pilito,
            "old = begun('c1', 'marketing_active'); paid = redirect('c1')\n"
            "old.status = 'active'; old.save(); flag('c1', True); print(json.dumps(paid))",
        )
        assert paid["old_status"] == "marketing_active"
        eventually(lambda: ("noop", "reasserted") in told(pilito.service, "c1"))
        eventually(lambda: flagged(pilito, "c1") == {"ai_enabled": False}, every=0.5)
        assert status(pilito.service, "c1") == "support_active"


def test_a_redirect_is_there_for_the_hosts_next_statement(pilito: Host) -> None:
    """A redirect that is only queued is not: `process_event` would end with a job for the AI. Applied in the host's
    transaction it is seen by the next statement, before the commit and before any worker; and a rollback undoes it.
    """
    forced = does(
        pilito,
        "begun('c1')\n"
        "with transaction.atomic():\n"
        "    redirect('c1')\n"
        "    forced = Conversation.objects.get(id='c1').status == 'active'\n"
        "print(json.dumps(forced))",
    )
    assert forced is False
    assert status(pilito.service, "c1") == "support_active"
    does(
        pilito,
        "begun('c2')\n"
        "try:\n"
        "    with transaction.atomic():\n"
        "        redirect('c2')\n"
        "        raise RuntimeError\n"
        "except RuntimeError:\n"
        "    pass\n",
    )
    assert status(pilito.service, "c2") == "active"
    assert told(pilito.service, "c2") == []
    with working(pilito.service):
        eventually(lambda: flagged(pilito, "c1") == {"ai_enabled": False}, every=0.5)


@pytest.mark.parametrize(("decision", "ends", "enabled"), [("closed", "closed", False), ("active", "active", True)])
def test_an_agent_decides_later(pilito: Host, decision: str, ends: str, enabled: bool) -> None:
    """It is recorded, and never fought; the flag follows the row."""
    service = pilito.service
    with working(service):
        does(pilito, "begun('c1'); redirect('c1')")
        pass_the_window(service) if decision == "active" else None
        does(pilito, f"now = Conversation.objects.get(id='c1'); now.status = '{decision}'; now.save()")
        if decision == "closed":
            pass_the_window(service)
        eventually(lambda: "external_change" in [code for _, code in told(service, "c1")])
        eventually(lambda: quiet(service, "c1"))
        assert status(service, "c1") == ends
        assert flagged(pilito, "c1") == {"ai_enabled": enabled}


def test_the_dashboards_and_the_log_tell_the_story(pilito: Host) -> None:
    """The first redirect in the host's process leaves the proof of its key; then its browsers hear of each."""
    service = pilito.service
    does(pilito, "begun('c1')")
    with pilito.serving() as url, browser(url) as dashboard, service.worker() as worker, service.beat():
        does(pilito, "redirect('c1')")
        assert heard(dashboard) == {"type": "conversation_updated", "conversation_id": "c1"}
        eventually(lambda: worker.says("✅ [Redirect Complete]"))
    assert worker.says("✓ cache written")
    assert not service.rows("SELECT id FROM side_effects")


def test_the_ai_is_asked_of_row_and_state(pilito: Host) -> None:
    """Whatever the flag says, which the host sets as it likes."""
    ask = "from worker.client import ai_permit\nprint(json.dumps([bool(ai_permit(n)) for n in ('c1', 'c2', 'c3')]))"
    does(pilito, "begun('c1'); begun('c2'); begun('c3', 'support_active'); redirect('c2'); flag('c2', True)")
    assert does(pilito, ask) == [True, False, False]
