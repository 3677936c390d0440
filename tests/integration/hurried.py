"""The gateway with short times, for what would take a test minutes: `python -m tests.integration.hurried`.

Nothing else is different. That the long times are those of the documentation, tests say beside.
"""

from worker.gateway import __main__ as gateway
from worker.gateway import http, jwks, websocket

# Seconds, and the milliseconds that go with them.
gateway.PING_EVERY = 1.0
gateway.UNANSWERED_MS = 1500
jwks.AT_MOST_EVERY = 1.0
jwks.BELIEVED = 3.0
http.HEAD_WITHIN = 3.0
websocket.CLOSED_WITHIN = 1.0

if __name__ == "__main__":
    gateway.main()
