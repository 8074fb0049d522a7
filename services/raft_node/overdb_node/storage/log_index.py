"""Where entries lie in the segments of a log, and reading them again.

The log thread adds; any thread reads. Everything that is asked for has been fsynced: a frame is looked up
after it was added, and never changes again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from overdb_node.raft.types import Entry
from overdb_node.storage import frames
from overdb_node.storage.errors import UnreadableEntries

MARK_EVERY_BYTES = 256 << 10  # a lookup reads so much too much at most
_READ_BYTES = 1 << 20


class _Mark(NamedTuple):
    """The frame at ``offset``; ``first_index`` is the smallest index in it."""

    first_index: int
    path: Path
    offset: int


class LogIndex:
    """Marks, ascending in index and in place: the entries from one mark's index to the next one's are in the
    frames from the one mark's place on, and no frame there replaces any of them.

    An entry at an index that exists replaces it and everything behind it. So a frame that cuts has a mark of
    its own, and the marks behind it go.
    """

    def __init__(self) -> None:
        self._marks: tuple[_Mark, ...] = ()
        self._last_index = 0
        self._since_mark = 0  # bytes

    def add(self, entries: Sequence[Entry], path: Path, offset: int, size: int) -> None:
        """The frame at ``offset`` has these entries."""
        if not entries:
            return
        first = min(entry.index for entry in entries)
        cuts = first <= self._last_index
        marks = self._marks
        if cuts:
            marks = tuple(mark for mark in marks if mark.first_index < first)
        is_new_file = not marks or marks[-1].path != path
        if cuts or is_new_file or self._since_mark >= MARK_EVERY_BYTES:
            marks = (*marks, _Mark(first, path, offset))
            self._since_mark = 0
        self._marks = marks
        self._since_mark += size
        self._last_index = entries[-1].index

    def drop(self, path: Path) -> None:
        """A segment is about to be deleted."""
        self._marks = tuple(mark for mark in self._marks if mark.path != path)

    def read(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """The entry ``first`` and those behind it, up to ``last`` and within ``bytes_max`` of payload.

        Raises UnreadableEntries if ``first`` cannot be read; what cannot be read behind it is left out.
        """
        found: list[Entry] = []
        size = 0
        try:
            for entry in self._entries(first, last):
                if entry.index < first + len(found):
                    continue
                size += len(entry.payload)
                if entry.index > first + len(found) or (found and size > bytes_max):
                    break
                found.append(entry)
        except UnreadableEntries:
            if not found:
                raise
        if not found:
            raise UnreadableEntries(f"entry {first} cannot be read from the log's segments")
        return found

    def _entries(self, first: int, last: int) -> Iterator[Entry]:
        """Entries that count, in order, from at or below ``first`` to ``last``; fewer if some are missing."""
        marks = self._marks
        start = max(0, bisect_right(marks, first, key=lambda mark: mark.first_index) - 1)
        for position, mark in enumerate(marks[start:], start):
            if mark.first_index > last:
                return
            end = marks[position + 1].first_index - 1 if position + 1 < len(marks) else last
            yield from _entries_from(mark, min(end, last))


def _entries_from(mark: _Mark, last: int) -> Iterator[Entry]:
    """The entries that count from a mark's frame on, up to ``last``."""
    for frame in _frames_from(mark):
        entries = _entries_of(mark, frame)
        yield from (entry for entry in entries if entry.index <= last)
        if entries and entries[-1].index >= last:
            return


def _entries_of(mark: _Mark, frame: frames.Frame) -> list[Entry]:
    entries: list[Entry] = []
    try:
        for record in frames.records(frame.body):
            if isinstance(record, Entry):
                while entries and entries[-1].index >= record.index:
                    entries.pop()  # one frame may replace what it has itself
                entries.append(record)
    except frames.UnknownRecord as error:
        raise UnreadableEntries(f"{mark.path}: {error}") from error
    return entries


def _frames_from(mark: _Mark) -> Iterator[frames.Frame]:
    """The whole frames from a mark to the end of its file, or to the first that is not whole."""
    try:
        with mark.path.open("rb") as file:
            file.seek(mark.offset)
            content, offset = file.read(_READ_BYTES), 0
            while True:
                frame = frames.read(content, offset)
                if frame is not None:
                    yield frame
                    offset = frame.end
                    continue
                content, offset = content[offset:], 0
                length = frames.length_at(content, 0) or _READ_BYTES
                more = file.read(max(_READ_BYTES, length)) if length > len(content) else b""
                if not more:
                    return
                content += more
    except OSError as error:
        raise UnreadableEntries(f"{mark.path}: {error}") from error
