"""What a log line is, and what it must never hold."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from overdb_common import logs

STORED = "value of a user"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def captured(monkeypatch: pytest.MonkeyPatch, log_format: str, **context: str) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(log_format, "info", **context)
    return stream


def fail(message: bytes) -> None:
    raise RuntimeError(f"{len(message)} bytes are too many")


def test_a_line_is_one_json_object_with_time_level_and_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = captured(monkeypatch, "json", process="overdb-example")
    logs.get_logger().debug("hidden")
    logs.get_logger().info("elected", term=3)
    [line] = stream.getvalue().splitlines()
    parsed = json.loads(line)
    assert parsed.pop("timestamp").endswith("Z")
    assert parsed == {"event": "elected", "level": "info", "process": "overdb-example", "term": 3}


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("by", ["structlog", "logging"])
def test_an_exception_is_logged_without_local_variables(
    monkeypatch: pytest.MonkeyPatch, log_format: str, by: str
) -> None:
    """Locals hold what users store, and a large message takes seconds to write out."""
    stream = captured(monkeypatch, log_format)
    message = STORED.encode() * 100_000
    try:
        fail(message)
    except RuntimeError as failure:
        if by == "structlog":
            logs.get_logger().error("failed", exc_info=failure)
        else:
            logging.getLogger("a.library").exception("failed")
    text = stream.getvalue()
    assert "bytes are too many" in text
    assert "RuntimeError" in text
    assert STORED not in text
    assert len(text) < 10_000
