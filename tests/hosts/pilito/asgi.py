"""What a server runs: `uvicorn tests.hosts.pilito.asgi:application`."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.hosts.pilito.settings")
_pages = get_asgi_application()

from tests.hosts.pilito.message.consumers import ConversationListConsumer  # noqa: E402 - after Django is set up

application = ProtocolTypeRouter(
    {
        "http": _pages,
        "websocket": URLRouter([path("ws/conversations/<int:owner_id>/", ConversationListConsumer.as_asgi())]),
    }
)
