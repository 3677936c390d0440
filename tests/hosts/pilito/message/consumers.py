"""The agents' list of conversations: each message of the owner's group goes on to the browser."""

import json
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer


class ConversationListConsumer(AsyncWebsocketConsumer):
    """As any Channels consumer it dies of a message whose type it does not know, or that it cannot decrypt."""

    async def connect(self) -> None:
        self.owner_group = f"user_{self.scope['url_route']['kwargs']['owner_id']}_conversations"
        await self.channel_layer.group_add(self.owner_group, self.channel_name)
        await self.accept()

    async def disconnect(self, _code: int) -> None:
        await self.channel_layer.group_discard(self.owner_group, self.channel_name)

    async def conversation_updated(self, event: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(event))
