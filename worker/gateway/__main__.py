"""The web process: `python -m worker.gateway`, on 127.0.0.1 and PORT."""

import signal
import socket
import sys

import structlog
import uvicorn

from config import logging, sentry
from config.settings import NotConfigured, settings

HOST = "127.0.0.1"
log = structlog.get_logger(__name__)


class Gateway(uvicorn.Server):
    """uvicorn, with a start line of ours: its own INFO also tells each WebSocket's address, query and all."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("gateway ready", action="gateway_ready", url=f"http://{self.config.host}:{self.config.port}")


def server(port: int) -> Gateway:
    """One process, and as little in it as does the work."""
    return Gateway(
        uvicorn.Config(
            "worker.gateway.app:app",
            host=HOST,
            port=port,
            loop="asyncio",
            http="h11",
            ws="websockets-sansio",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # Clients have nothing to say, and frames are too small to be worth a compressor per socket.
            ws_max_size=4096,
            ws_per_message_deflate=False,
            # Seconds for requests and sockets that do not end; sockets are told at once (1012).
            timeout_graceful_shutdown=1,
        )
    )


def main() -> None:
    """Serve until SIGTERM or SIGINT; exits with the reason when a URL is not set."""
    logging.configure(settings().log_format)
    sentry.start("web")
    try:
        for field in ("database_url", "redis_url"):
            settings().url(field)
    except NotConfigured as error:
        sys.exit(str(error))
    # When all is closed uvicorn raises the signal again. Then this ends the process at once, where an exception would
    # wait for a thread that waits for a frozen database.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    server(settings().port).run()


if __name__ == "__main__":
    main()
