"""The durable log: preallocated segments of frames. Used by the log thread alone, after opening.

Segments are zeroed when they are made, so that an append changes no metadata and fdatasync has nothing
but data to wait for; the next one is made in the background while the present one fills.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from overdb_common.errors import StartupError
from overdb_common.version import version
from overdb_node.raft.entry_window import EntryWindow
from overdb_node.raft.types import Entry, HardState
from overdb_node.storage import frames
from overdb_node.storage.errors import NoSpace, StorageFailure, means_no_space
from overdb_node.storage.files import fsync_path
from overdb_node.storage.founding import REPLACE
from overdb_node.storage.log_index import LogIndex

SEGMENT_BYTES = 8 << 20
_HEADER = struct.Struct(">8sIQI")  # magic, format, segment number, crc32c of those
_MAGIC = b"OverDBlg"
_FORMAT = 2  # 1: frames may end in zero
# The page cache keeps what was written at once in one piece, up to megabytes on newer kernels, and then goes
# over all of that piece at each append to it. So: pieces of the size of an append.
_ZEROED_AT_ONCE = 16 << 10
_ZEROS = bytes(64 << 10)
_PREPARED = "next.tmp"
_SUFFIX = ".seg"


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    last_index: int = 0  # largest index of an entry in it


class DurableLog:
    """Appends frames; knows which segments are still needed. Every failure but NoSpace is final."""

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._descriptor = -1
        self._offset = 0
        self._size = 0
        self._sequence = 0  # of the newest frame
        self._frame_start = 0  # its offset
        self._failure: StorageFailure | None = None
        self._maker = ThreadPoolExecutor(1, "log-segments")
        self._prepared: Future[None] | None = None
        self._index = LogIndex()
        self.hard_state = HardState()
        self.bytes_written = 0

    @classmethod
    def create(
        cls, directory: Path, hard_state: HardState, segment_bytes: int = SEGMENT_BYTES
    ) -> DurableLog:
        """Begin an empty log in a new directory; the hard state is fsynced in it."""
        directory.mkdir()
        fsync_path(directory.parent)
        log = cls(directory, segment_bytes)
        log.hard_state = hard_state
        # Not to be guessed: bytes in a user's value must not pass for a frame that follows.
        log._sequence = int.from_bytes(os.urandom(7), "big") + 1
        log._prepare()
        try:
            log._roll()  # a log always has a segment: one that has none lost them
        except OSError as error:
            if means_no_space(error):
                raise NoSpace(f"the log in {directory}: {error.strerror}") from error
            raise log._fail(error) from error
        if hard_state != HardState():
            log.append(hard_state, ())
        return log

    @classmethod
    def open(
        cls,
        directory: Path,
        base_index: int,
        segment_bytes: int = SEGMENT_BYTES,
        *,
        window: EntryWindow | None = None,
        memory_bytes_max: int = 1 << 62,
    ) -> tuple[DurableLog, list[Entry]]:
        """Open an existing log and return it with the entries behind ``base_index``, without gaps.

        With ``window``, an empty one of that base, they are also there, and those that cost more memory than
        ``memory_bytes_max`` only there, by their terms, as far as the window has them as applied.

        Cuts a torn last frame for good. Raises StartupError, and changes nothing, for corruption.
        """
        log = cls(directory, segment_bytes)
        into = EntryWindow(base_index) if window is None else window
        log._recover(into, memory_bytes_max)
        log._prepare()
        return log, into.in_memory

    @staticmethod
    def has_frames(directory: Path) -> bool:
        """Whether anything was ever appended below a log directory."""
        return any(
            frames.find_after(path.read_bytes(), 0, 0) is not None
            for path in directory.glob(f"*{_SUFFIX}")
        )

    # --- appending ------------------------------------------------------------------------------

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> int:
        """Write one frame and wait until it is on disk; return its bytes.

        Raises NoSpace when the disk had no room: the same frame may be appended later. Raises
        StorageFailure, from then on at every call: after a failed fsync nobody knows what the disk has,
        and asking again would say yes.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._append(hard_state, entries)
        except OSError as error:
            raise self._fail(error) from error

    def _fail(self, error: OSError) -> StorageFailure:
        self._failure = StorageFailure(
            f"the log in {self._directory} cannot be written ({error.strerror}): free or "
            "replace the disk, then start again"
        )
        return self._failure

    def _append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> int:
        if hard_state is not None:
            self.hard_state = hard_state
        try:
            data = self._write(hard_state, entries)
        except OSError as error:
            if means_no_space(error):
                raise NoSpace(f"the log in {self._directory}: {error.strerror}") from error
            raise
        os.fdatasync(self._descriptor)
        self._sequence += 1
        self._offset += len(data)
        self.bytes_written += len(data)
        if entries:
            segment = self._segments[-1]
            segment.last_index = max(segment.last_index, *(e.index for e in entries))
            self._index.add(entries, segment.path, self._offset - len(data), len(data))
        return len(data)

    def _write(self, hard_state: HardState | None, entries: Sequence[Entry]) -> bytes:
        """Write a frame where the log ends, in a new segment if it does not fit; return its bytes."""
        data = frames.encode(self._sequence + 1, hard_state, entries)
        fits = self._offset + len(data) <= self._size or self._offset == _HEADER.size
        if self._descriptor < 0 or not fits:
            self._roll()
            # Every segment begins with the hard state, so that the ones before it can go.
            data = frames.encode(self._sequence + 1, self.hard_state, entries)
        written = os.pwrite(self._descriptor, data, self._offset)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written")
        return data

    def _roll(self) -> None:
        """Go on in the segment that was prepared. After a failure, the next call makes a new one."""
        self._close_segment()
        try:
            self._begin_segment()
        except OSError:
            self._prepared = None
            self._close_segment()
            raise

    def _close_segment(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin_segment(self) -> None:
        prepared_ahead, self._prepared = self._prepared, None
        try:
            made = prepared_ahead is not None and prepared_ahead.result() is None
        except OSError:  # the disk was full then; it may have space now
            made = False
        if not made:
            self._make_segment()
        number = self._segments[-1].number + 1 if self._segments else 1
        path = self._directory / f"{number:020d}{_SUFFIX}"
        prepared = self._directory / _PREPARED
        self._descriptor = os.open(prepared, os.O_RDWR)
        head = _HEADER.pack(_MAGIC, _FORMAT, number, 0)[:-4]
        os.pwrite(self._descriptor, head + struct.pack(">I", google_crc32c.value(head)), 0)
        os.fsync(self._descriptor)
        prepared.rename(path)
        fsync_path(self._directory)
        self._segments.append(_Segment(number, path))
        self._offset = _HEADER.size
        self._size = self._segment_bytes
        self._prepare()

    def _prepare(self) -> None:
        self._prepared = self._maker.submit(self._make_segment)

    def _make_segment(self) -> None:
        path = self._directory / _PREPARED
        try:
            with path.open("wb") as file:
                block = bytes(_ZEROED_AT_ONCE)
                left = self._segment_bytes
                while left > 0:
                    left -= file.write(block[:left])
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # half of one would keep others from the last room
                path.unlink(missing_ok=True)
            raise

    def drop_below(self, index: int) -> None:
        """Delete the oldest segments whose entries are all at or below ``index``; never the last one."""
        while len(self._segments) > 1 and self._segments[0].last_index <= index:
            path = self._segments.pop(0).path
            self._index.drop(path)
            path.unlink()

    def read_entries(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries from ``first`` on and not behind ``last``, which are durable, within ``bytes_max``.

        At least one, if the log has it. For any thread. Raises UnreadableEntries when a frame is damaged or a
        segment is not there (any more).
        """
        return self._index.read(first, last, bytes_max)

    @property
    def size_bytes(self) -> int:
        return len(self._segments) * self._segment_bytes

    def close(self) -> None:
        self._maker.shutdown()
        self._close_segment()

    # --- recovery -------------------------------------------------------------------------------

    def _recover(self, window: EntryWindow, memory_bytes_max: int) -> None:
        paths = sorted(self._directory.glob(f"*{_SUFFIX}"))
        if not paths:
            raise _corrupt(self._directory, 0, "it has no segments")
        for position, path in enumerate(paths):
            content = path.read_bytes()
            segment = _Segment(self._check_header(path, content), path)
            if len(content) < self._segment_bytes:
                raise _corrupt(path, len(content), "the file was truncated")
            if self._segments and segment.number != self._segments[-1].number + 1:
                raise _corrupt(path, 0, f"segment {self._segments[-1].number + 1} is missing")
            self._segments.append(segment)
            end = self._replay(segment, content, window)
            window.evict(memory_bytes_max)
            later = paths[position + 1 :]
            if self._is_last(path, content, end, later):
                for empty in later:  # made, and not yet written to when the process ended
                    empty.unlink()
                fsync_path(self._directory)
                self._continue_in(path, content, end)
                break

    def _check_header(self, path: Path, content: bytes) -> int:
        if len(content) >= _HEADER.size:
            magic, form, number, crc = _HEADER.unpack_from(content)
            if magic == _MAGIC and google_crc32c.value(content[: _HEADER.size - 4]) == crc:
                if form > _FORMAT:
                    raise StartupError(
                        f"{path} has log format {form}, this program knows up to {_FORMAT}",
                        "start a newer version of overdb",
                    )
                return int(number)
        raise _corrupt(path, 0, "its header is damaged")

    def _replay(self, segment: _Segment, content: bytes, window: EntryWindow) -> int:
        """Add what the frames of one segment say to ``window``; return where the last one ends."""
        offset = _HEADER.size
        while (frame := frames.read(content, offset)) is not None:
            if self._sequence and frame.sequence != self._sequence + 1:
                break
            self._sequence, self._frame_start = frame.sequence, offset
            entries = []
            for record in _records(frame, segment.path, offset):
                if isinstance(record, HardState):
                    self.hard_state = record
                else:
                    _place(record, window, segment.path, offset)
                    segment.last_index = max(segment.last_index, record.index)
                    entries.append(record)
            self._index.add(entries, segment.path, offset, frame.end - offset)
            offset = frame.end
        return offset

    def _is_last(self, path: Path, content: bytes, end: int, later: list[Path]) -> bool:
        """Whether the log ends in this segment, whose whole frames end at ``end``.

        What follows them is zeros, or the torn frame of the last append. Anything valid behind a frame
        that is not whole means that it had been on disk: corruption.
        """
        if _has_more_than_zeros(content, end):
            behind = frames.find_after(content, end, self._sequence)
            if behind is not None:
                raise _corrupt(path, end, f"a valid frame follows at offset {behind}")
            if later:  # a roll comes after the fdatasync of the frame before it
                raise _corrupt(path, end, "a later segment follows")
            self._check_torn(path, content, end)
        if any(self._has_frame_after(other) for other in later):
            return False
        for other in later:  # made; and at most the first frame was being written to it
            rest = other.read_bytes()
            self._check_header(other, rest)  # it was fsynced before the segment got its name
            if len(rest) < self._segment_bytes:  # and so were its zeros
                raise _corrupt(other, len(rest), "the file was truncated")
            if _has_more_than_zeros(rest, _HEADER.size):
                self._check_torn(other, rest, _HEADER.size)
        return True

    def _check_torn(self, path: Path, content: bytes, offset: int) -> None:
        """Refuse what is not whole and cannot be the rest of an append that a crash cut short.

        A frame larger than a segment has one to itself, and grows it: cut short, the file ends in it.
        """
        alone = offset == _HEADER.size and frames.is_cut_short(content, offset)
        torn = alone or frames.is_torn(content, offset)
        if not torn or frames.is_whole_but_for_its_length(content, offset):
            raise _corrupt(path, offset, "the last frame was written whole and is damaged")

    def _has_frame_after(self, path: Path) -> bool:
        return frames.find_after(path.read_bytes(), 0, self._sequence) is not None

    def _continue_in(self, path: Path, content: bytes, end: int) -> None:
        """Append behind the last whole frame; a torn one is zeroed, lest its rest comes back one day.

        The last frame is written again: killed before its fdatasync, or after one that failed, it may
        be in the page cache only, and what is recovered counts as durable.
        """
        self._descriptor = os.open(path, os.O_RDWR)
        self._offset = end
        self._size = max(self._segment_bytes, len(content))
        if _has_more_than_zeros(content, end):
            os.pwrite(self._descriptor, bytes(len(content) - end), end)
        if self._frame_start:
            os.pwrite(self._descriptor, content[self._frame_start : end], self._frame_start)
        os.fsync(self._descriptor)


def _has_more_than_zeros(content: bytes, start: int) -> bool:
    """Returns whether a byte from ``start`` on is not zero: 1 ms for 8 MiB, where one comparison takes 9."""
    for offset in range(start, len(content), len(_ZEROS)):
        part = content[offset : offset + len(_ZEROS)]
        if part != _ZEROS[: len(part)]:
            return True
    return False


def _records(frame: frames.Frame, path: Path, offset: int) -> list[HardState | Entry]:
    try:
        return list(frames.records(frame.body))
    except frames.UnknownRecord as unknown:
        raise StartupError(
            f"{path} has, at offset {offset}, {unknown}, which this program ({version()}, log format "
            f"{_FORMAT}) does not know",
            "start the version of overdb that wrote it, or a newer one: nothing was changed",
        ) from None


def _place(entry: Entry, window: EntryWindow, path: Path, offset: int) -> None:
    """Put a replayed entry where it belongs: it cuts whatever stood there and behind."""
    if entry.index <= window.base:
        window.cut(window.base + 1)
        return
    if entry.index > window.last_index + 1:
        raise _corrupt(path, offset, f"entry {entry.index} follows entry {window.last_index}")
    if entry.index <= window.last_index:
        window.cut(entry.index)
    window.append(entry)


def _corrupt(path: Path, offset: int, why: str) -> StartupError:
    return StartupError(
        f"{path} is corrupt at offset {offset}: {why}",
        f"nothing was changed; {REPLACE}",
    )
