"""structlog for every process: sentences on a terminal, JSON lines otherwise; the standard library's loggers too."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from functools import partial
from types import MappingProxyType
from typing import Any

import structlog
from structlog.typing import EventDict

from config.hiding import hide

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
# Characters of one value in a log line: a reason is readable, and an id of 10 MiB is no line of 10 MiB.
LONGEST = 2000
# Of a traceback the end matters most.
_WHOLE = ("exc_info", "exception", "stack_info", "stack")
# These tell every message's coming and going; the redirect's own story says it once.
_QUIET = ("celery.worker.strategy", "celery.app.trace", "celery.beat", "alembic", "kombu", "httpx")


def configure(log_format: str = "auto", marks: Mapping[str, str] = MappingProxyType({})) -> None:
    """Send all logs of this process to stderr; `log_format` is `text`, `json`, or `auto` (text on a terminal).

    `marks`: what the sentence of a line begins with, by its action.
    """
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            *([partial(_marked, marks)] if marks else []),
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
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _bounded, *last, _hidden],
    )


def _hidden(_logger: object, _method: str, line: Any) -> str:
    """The whole line, so that no key, no traceback and no library's sentence is left out."""
    return hide(str(line))


def _marked(marks: Mapping[str, str], _logger: object, _method: str, line: EventDict) -> EventDict:
    if (mark := marks.get(str(line.get("action")))) is not None:
        line["event"] = f"{mark} {line['event']}"
    return line


def _bounded(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No value longer than LONGEST: producers write the ids, and errors quote what they like."""
    for key, value in line.items():
        if key not in _WHOLE and not isinstance(value, int | float | None):
            line[key] = _cut(value)
    return line


def _cut(value: object) -> object:
    """`value` itself where it is short enough, else the beginning of its text."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply to print"
    return value if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
