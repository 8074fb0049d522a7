"""What the command line prints: tables for people, plain lines for pipes, JSON for programs."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overdb.errors import OverDBError

VALUE_CHARACTERS_MAX = 400  # of a value in a table; the rest is counted


class OutputError(Exception):
    """What was asked for is known, and there is no place to write it."""


class PipeClosedError(Exception):
    """The reader of our output went away, as ``head`` does: there is nobody left to tell."""


def as_json(data: bytes) -> str | dict[str, str]:
    """Return bytes as JSON holds them: text if they are UTF-8, else ``{"base64": ...}``."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def as_text(data: bytes) -> str:
    """Return bytes on one line: backslash escapes for what is no printable text."""
    if data.isascii() and b"\\" not in data and (text := data.decode()).isprintable():
        return text
    pieces = []
    for character in data.decode(errors="surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
            pieces.append(f"\\x{code - 0xDC00:02x}")
        elif character == "\\" or not character.isprintable():
            pieces.append(character.encode("unicode_escape").decode())
        else:
            pieces.append(character)
    return "".join(pieces)


class Console:
    """Where results go. ``terminal``: stdout is one, and JSON was not asked for."""

    def __init__(self, *, json_lines: bool) -> None:
        self.json_lines = json_lines
        self.terminal = not json_lines and sys.stdout.isatty()
        self._rich: Any = None

    def line(self, text: str) -> None:
        """Print one line."""
        self.raw(text.encode(errors="backslashreplace") + b"\n")

    def raw(self, data: bytes) -> None:
        """Print bytes as they are."""
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise PipeClosedError from None
        except OSError as error:
            raise OutputError(f"cannot write the output: {error.strerror}") from None

    def lines(self, lines: Iterable[str]) -> None:
        """Print many lines at once."""
        text = "".join(line + "\n" for line in lines)
        self.raw(text.encode(errors="backslashreplace"))

    def json(self, value: object) -> None:
        """Print one JSON object on a line of its own."""
        self.line(json.dumps(value, ensure_ascii=False))

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        right: Sequence[str] = (),
    ) -> None:
        """Print a table for a person; the columns named in ``right`` are numbers."""
        from rich.table import Table  # noqa: PLC0415  (slow to load, only tables need it)
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False)
        for column in columns:
            number = column in right
            table.add_column(
                column,
                justify="right" if number else "left",
                overflow="fold",
                no_wrap=number,
            )
        for row in rows:
            table.add_row(*(Text(_cut(cell)) for cell in row))
        self._print(table)

    def _print(self, thing: object) -> None:
        if self._rich is None:
            from rich.console import Console as Rich  # noqa: PLC0415

            self._rich = Rich(highlight=False)
        try:
            self._rich.print(thing)
        except BrokenPipeError:
            raise PipeClosedError from None

    def error(self, message: str) -> None:
        """Print one line for a person on stderr."""
        print(f"overdb: {' '.join(message.split())}", file=sys.stderr)

    def failure(self, error: OverDBError) -> None:
        """Print an error of a request on stderr: one line, as JSON if that was asked for."""
        request_id = getattr(error, "request_id", None)
        if not self.json_lines:
            hint = "" if request_id is None else f" (overdb txn status {request_id} asks for it)"
            self.error(error.message + hint)
            return
        fields: dict[str, object] = {"code": error.code.name, "message": error.message}
        if request_id is not None:
            fields["request_id"] = str(request_id)
        print(json.dumps({"error": fields}, ensure_ascii=False), file=sys.stderr)


def _cut(text: str) -> str:
    if len(text) <= VALUE_CHARACTERS_MAX:
        return text
    return f"{text[:VALUE_CHARACTERS_MAX]}… ({len(text)} characters)"


def size_text(count: int) -> str:
    """Return a number of bytes for a person, as in ``64.0 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
