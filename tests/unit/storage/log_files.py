"""Small logs on disk, and the ways in which tests damage them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from overdb_node.raft.types import Entry, EntryKind, HardState
from overdb_node.storage import frames
from overdb_node.storage.log import DurableLog

SEGMENT_BYTES = 4096
HEADER_BYTES = 24  # of a segment
FRAME_HEAD_BYTES = 20


def entry(index: int, term: int = 1, payload: bytes | None = None) -> Entry:
    return Entry(
        index, term, EntryKind.COMMANDS, b"value %d" % index if payload is None else payload
    )


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


class Written(NamedTuple):
    """A closed log: its directory and, for each segment, where its frames begin and end."""

    directory: Path
    frames: list[tuple[Path, int, int]]

    @property
    def last(self) -> tuple[Path, int, int]:
        return self.frames[-1]


def write_log(
    directory: Path,
    batches: Iterable[tuple[HardState | None, Sequence[Entry]]],
    segment_bytes: int = SEGMENT_BYTES,
) -> Written:
    """One frame for each batch."""
    log = DurableLog.create(directory, HardState(), segment_bytes)
    for hard_state, batch in batches:
        log.append(hard_state, batch)
    log.close()
    return Written(directory, list(find_frames(directory)))


def find_frames(directory: Path) -> Iterable[tuple[Path, int, int]]:
    for path in sorted(directory.glob("*.seg")):
        content, offset = path.read_bytes(), HEADER_BYTES
        while (frame := frames.read(content, offset)) is not None:
            yield path, offset, frame.end
            offset = frame.end


def reopen(
    directory: Path, base_index: int = 0, segment_bytes: int = SEGMENT_BYTES
) -> tuple[HardState, list[Entry]]:
    """What recovery makes of the log."""
    log, found = DurableLog.open(directory, base_index, segment_bytes)
    log.close()
    return log.hard_state, found


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ (1 << bit)]))


def contents(directory: Path) -> dict[str, bytes]:
    """Every segment, byte for byte."""
    return {path.name: path.read_bytes() for path in directory.glob("*.seg")}


class SyncCounter:
    """Counts the fdatasyncs of this process; raises ``error`` instead when it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.error: OSError | None = None
        self.before: Callable[[], None] = lambda: None
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.count += 1
        self.before()
        if self.error is not None:
            raise self.error
        self._real(descriptor)
