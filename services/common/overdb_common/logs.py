"""Logs on stderr: one JSON object a line, or text for a terminal. One event a line, never a secret."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import Processor

get_logger = structlog.get_logger

# Never with local variables, which is structlog's default, also on a console: they hold users' keys and
# values, and writing a message of 20 MiB out as text holds the event loop up for longer than an election.
_TRACEBACKS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)


def configure(log_format: str = "auto", level: str = "info", **context: Any) -> None:
    """Set up structlog and the standard library's logging for this process.

    ``log_format`` is auto, json or console; ``context`` is added to every line. Each line has
    ``timestamp`` (ISO 8601, UTC), ``level`` and ``event``.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if console:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        last = [
            structlog.processors.ExceptionRenderer(_TRACEBACKS),
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)
    _take_over_standard_logging(shared, last, max(threshold, logging.WARNING))


def _take_over_standard_logging(shared: list[Processor], last: list[Processor], level: int) -> None:
    """Libraries log through ``logging``: their warnings get the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
