"""Django Channels: an asynchronous consumer, a group for each owner, the channel layer of channels_redis.

https://channels.readthedocs.io/en/stable/tutorial/part_3.html
"""

import json
import os
from typing import Any
from urllib.parse import urlsplit

import django
import jwt
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.urls import path

PROTOCOL, BEARER = "redirect.v1", "bearer."
FIELDS = ("conversation_id", "owner_id", "status", "ai_enabled", "destination", "version", "event_id", "occurred_at")
SECRET = os.environ["JWT_SECRET"]
_database = urlsplit(os.environ["DATABASE_URL"])

settings.configure(
    SECRET_KEY=SECRET,
    ALLOWED_HOSTS=["127.0.0.1"],
    USE_TZ=True,
    INSTALLED_APPS=["channels"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _database.path[1:],
            "USER": _database.username,
            "PASSWORD": _database.password,
            "HOST": _database.hostname,
            "PORT": _database.port,
            # The default is a new connection for every query: that is slower, and costs PostgreSQL a process each.
            "CONN_MAX_AGE": None,
        }
    },
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": os.environ["CHANNEL_LAYER"],
            # redis-py 8 gives up after 5 s of silence by default, and so would each consumer that waits for a message.
            "CONFIG": {"hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": None}]},
        }
    },
)
django.setup()


class ConversationState(models.Model):  # type: ignore[misc]  # Django has no types
    conversation_id = models.TextField(primary_key=True)
    owner_id = models.TextField(null=True)
    status = models.TextField()
    ai_enabled = models.BooleanField()
    destination = models.TextField()
    version = models.BigIntegerField()
    event_id = models.TextField()
    occurred_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        app_label = "benchmarks"
        db_table = "conversation_states"
        managed = False


@database_sync_to_async
def newest(owner_id: str) -> list[dict[str, Any]]:
    mine = ConversationState.objects.filter(owner_id=owner_id)
    return list(mine.order_by("-updated_at", "-conversation_id").values(*FIELDS)[:200])


class Conversations(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    async def connect(self) -> None:
        offered = self.scope["subprotocols"]
        token = next((one.removeprefix(BEARER) for one in offered if one.startswith(BEARER)), "")
        try:
            claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"require": ["exp"]})
        except jwt.InvalidTokenError:
            await self.close(4401)
            return
        (owner_id,) = claims["owner_ids"]
        self.group = f"conversations.{owner_id}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept(PROTOCOL)
        snapshot = {"type": "snapshot", "conversations": await newest(owner_id)}
        await self.send(text_data=json.dumps(snapshot, cls=DjangoJSONEncoder))

    async def disconnect(self, code: int) -> None:  # noqa: ARG002 - Channels hands it over
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def conversation_updated(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(URLRouter([path("ws", Conversations.as_asgi())])),
    }
)
