"""Redirect a conversation in the transaction that saves a Django model: both happen, or neither.

    pip install django psycopg2-binary
    DATABASE_URL=postgresql://... python tickets.py c-django-1
    DATABASE_URL=postgresql://... python tickets.py c-django-2 --fail

A whole project in one file; in yours, `enqueue_redirect` and `open_ticket` are all there is. With transaction.on_commit
and a message queue instead, a process that ends between commit and publish loses the redirect.
The database's role needs: GRANT EXECUTE ON FUNCTION enqueue_redirect(json) TO <role>
"""

import json
import os
import sys
from typing import Any
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings
from django.db import connection, models, transaction


def database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
    }


settings.configure(DATABASES={"default": database(os.environ["DATABASE_URL"])}, USE_TZ=True)
django.setup()


class Ticket(models.Model):
    conversation_id = models.CharField(max_length=64, unique=True)
    team = models.CharField(max_length=20)

    class Meta:
        app_label = "tickets"
        db_table = "django_tickets"


def enqueue_redirect(event: dict[str, Any]) -> None:
    """Put `event` into the outbox, in the transaction that is open."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT enqueue_redirect(%s::json)", [json.dumps(event)])


@transaction.atomic
def open_ticket(conversation_id: str, fail: bool) -> None:
    ticket = Ticket.objects.create(conversation_id=conversation_id, team="billing")
    enqueue_redirect(
        {
            "event_id": f"django-ticket-{ticket.pk}",
            "conversation_id": conversation_id,
            "destination": ticket.team,
            "source": "examples/django",
        }
    )
    if fail:
        raise RuntimeError("something else went wrong: no ticket, no redirect")


if __name__ == "__main__":
    if Ticket._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:  # in a project of yours: manage.py migrate
            editor.create_model(Ticket)
    open_ticket(sys.argv[1], fail="--fail" in sys.argv)
    sys.stdout.write("ticket opened, conversation redirected\n")
