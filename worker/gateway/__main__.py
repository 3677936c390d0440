"""The web process: `python -m worker.gateway`, on REDIRECT_BIND and PORT."""

import asyncio
import signal
import socket
import sys

import structlog
import uvicorn
from pydantic import ValidationError

from config import logging, sentry, tracing
from config.settings import NotConfigured, settings
from worker.gateway.descriptors import tell_of_errors
from worker.gateway.http import Http
from worker.gateway.websocket import WebSocket

# Bytes of what a client may say on a socket.
LARGEST_MESSAGE = 16 * 1024
# Seconds between pings, and for the answer to one.
PING_EVERY = 20.0
# Milliseconds: a client that is gone without a word, with something still to be sent to it, is given up after that.
UNANSWERED_MS = 30_000
# What a browser must not do with any answer, an error too: guess its type, show it inside another site, hand it to one,
# or tell where it was. (What the pages may do they say themselves: worker/gateway/page.py.)
HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
]
log = structlog.get_logger(__name__)


class Gateway(uvicorn.Server):
    """uvicorn, with a start line of ours: its own INFO also tells each WebSocket's address, query and all."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(tell_of_errors)
        await super().startup(sockets)
        for listening in [one for server in self.servers for one in server.sockets]:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)  # accepted ones inherit it
        log.info("gateway ready", action="gateway_ready", url=f"http://{self.config.host}:{self.config.port}")


def server(host: str, port: int) -> Gateway:
    """One process, and as little in it as does the work."""
    return Gateway(
        uvicorn.Config(
            "worker.gateway.app:app",
            host=host,
            port=port,
            loop="asyncio",
            http=Http,
            ws=WebSocket,
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=HEADERS,
            # Clients bring a token and ask for pages. Frames are too small to be worth a compressor per socket.
            ws_max_size=LARGEST_MESSAGE,
            ws_ping_interval=PING_EVERY,
            ws_ping_timeout=PING_EVERY,
            ws_per_message_deflate=False,
            # Seconds for requests and sockets that do not end; sockets are told at once (1012).
            timeout_graceful_shutdown=1,
        )
    )


def main() -> None:
    """Serve until SIGTERM or SIGINT; exits with the reason when something is not set."""
    try:
        logging.configure(settings().log_format)
        for field in ("database_url", "redis_url"):
            settings().url(field)
    except ValidationError as error:
        sys.exit("\n".join(item["msg"] for item in error.errors()))
    except NotConfigured as error:
        sys.exit(str(error))
    sentry.start("web")
    tracing.start("web")
    if not settings().asks_for_tokens:
        log.warning("no key is set: everybody on this machine may read and send", action="gateway_open")
    # When all is closed uvicorn raises the signal again. Then this ends the process at once, where an exception would
    # wait for a thread that waits for a frozen database.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    server(settings().bind, settings().port).run()


if __name__ == "__main__":
    main()
