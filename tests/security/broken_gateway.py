"""The gateway with a bug in it: `python -m tests.security.broken_gateway`."""

from worker.gateway import __main__ as gateway
from worker.gateway import health

INSIDE = "a-word-of-the-inside"


def breaks(*_: object) -> None:
    raise ValueError(INSIDE)


if __name__ == "__main__":
    health._database = breaks  # type: ignore[assignment]
    gateway.main()
