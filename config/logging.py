"""structlog for every process: sentences on a terminal, JSON lines otherwise; the standard library's loggers too."""

import logging
import sys
from typing import Any

import structlog

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
# These tell every message's coming and going; the redirect's own story says it once.
_QUIET = ("celery.worker.strategy", "celery.app.trace", "celery.beat", "alembic", "kombu", "httpx")


def configure(log_format: str = "auto") -> None:
    """Send all logs of this process to stderr; `log_format` is `text`, `json`, or `auto` (text on a terminal)."""
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(text))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _formatter(text: bool) -> structlog.stdlib.ProcessorFormatter:
    # The default draws each frame's variables where `rich` is installed: reasons and metadata, the words of customers.
    plain = structlog.dev.plain_traceback
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
