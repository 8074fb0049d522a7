"""Entries are found again in the segments of a log, however they were written, replaced and dropped."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from overdb_node.raft.types import Entry, EntryKind, HardState
from overdb_node.storage import frames, log_index
from overdb_node.storage.errors import UnreadableEntries
from overdb_node.storage.log_index import LogIndex
from tests.sizes import Sizes
from tests.unit.storage.log_files import HEADER_BYTES, entry, flip

MARK_BYTES = 600  # of these tests
EVERYTHING = 1 << 62


@pytest.fixture(autouse=True)
def _many_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several frames have one mark, and a read takes a frame in pieces."""
    monkeypatch.setattr(log_index, "MARK_EVERY_BYTES", MARK_BYTES)
    monkeypatch.setattr(log_index, "_READ_BYTES", 256)


class Segments:
    """Segments as ``DurableLog`` writes them, their index, and the entries that count."""

    def __init__(self, directory: Path, seed: int = 0) -> None:
        self.directory = directory
        self.random = Random(seed)
        self.index = LogIndex()
        self.entries: list[Entry] = []
        self.base = 0  # entries up to here are compacted away
        self.paths: list[Path] = []
        self.largest: dict[Path, int] = {}  # index of an entry that was ever in the segment
        self.places: list[tuple[Path, int, int]] = []  # where each frame begins and ends
        self._sequence = 1

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def roll(self) -> None:
        path = self.directory / f"{len(self.largest):04}.seg"
        path.write_bytes(bytes(HEADER_BYTES))
        self.paths.append(path)
        self.largest[path] = 0

    def frame(self, *entries: Entry) -> None:
        """Append a frame to the last segment. An entry replaces those from its index on."""
        if not self.paths:
            self.roll()
        path = self.paths[-1]
        data = frames.encode(self._sequence, HardState(self._sequence, 0, 0), entries)
        offset = path.stat().st_size
        with path.open("ab") as file:
            file.write(data)
        self._sequence += 1
        self.places.append((path, offset, offset + len(data)))
        self.index.add(entries, path, offset, len(data))
        for one in entries:
            assert self.base < one.index <= self.last + 1
            del self.entries[one.index - self.base - 1 :]
            self.entries.append(one)
            self.largest[path] = max(self.largest[path], one.index)

    def compact(self, index: int) -> None:
        """Forget entries up to ``index``, and drop the segments that have no others."""
        self.entries = self.entries[index - self.base :]
        self.base = index
        while len(self.paths) > 1 and self.largest[self.paths[0]] <= index:
            path = self.paths.pop(0)
            self.index.drop(path)
            path.unlink()

    # --- drawn ------------------------------------------------------------------------------------

    def draw(self) -> None:
        random = self.random
        kinds = ("add", "add large", "replace", "replace inside", "nothing", "roll", "compact")
        kind = random.choices(kinds, (10, 1, 2, 1, 1, 2, 1))[0]
        if kind == "roll":
            self.roll()
        elif kind == "compact":
            self.compact(random.randint(self.base, self.last))
        elif kind == "nothing":
            self.frame()
        elif kind == "replace":
            self.frame(*self._some(random.randint(self.base + 1, self.last + 1)))
        elif kind == "replace inside":
            some = self._some(self.last + 1)
            self.frame(*some, *self._some(random.choice(some).index))
        else:
            self.frame(*self._some(self.last + 1, 900 if kind == "add large" else 120))

    def _some(self, first: int, bytes_max: int = 120) -> list[Entry]:
        random, term = self.random, self._sequence
        return [
            Entry(index, term, EntryKind.COMMANDS, random.randbytes(random.randint(0, bytes_max)))
            for index in range(first, first + random.randint(1, 5))
        ]

    def check(self) -> None:
        """Any piece reads as the list has it."""
        for _ in range(4):
            if not self.entries:
                return
            first = self.random.randint(self.base + 1, self.last)
            last = self.random.randint(first, self.last)
            bytes_max = self.random.choice((0, 100, 1000, EVERYTHING))
            wanted = self.entries[first - self.base - 1 : last - self.base]
            size, count = 0, 0
            for one in wanted:
                size += len(one.payload)
                if count and size > bytes_max:
                    break
                count += 1
            assert self.index.read(first, last, bytes_max) == wanted[:count], f"{first} to {last}"


def test_any_piece_of_any_log_reads_as_it_was_written(tmp_path: Path, sizes: Sizes) -> None:
    dropped = 0
    for seed in sizes.seeds(quick=30, full=500):
        directory = tmp_path / str(seed)
        directory.mkdir()
        segments = Segments(directory, seed)
        for _ in range(80):
            segments.draw()
            segments.check()
        dropped += len(segments.largest) - len(segments.paths)
    assert dropped, "no segment was dropped"


def test_a_frame_that_replaces_what_earlier_segments_have(tmp_path: Path) -> None:
    segments = Segments(tmp_path)
    for first in (1, 4, 7):
        segments.frame(*(entry(index) for index in range(first, first + 3)))
        segments.roll()
    segments.frame(entry(2, 5), entry(3, 5))
    assert [one.term for one in segments.index.read(1, 3, EVERYTHING)] == [1, 5, 5]
    segments.frame(entry(4, 5))
    assert [one.term for one in segments.index.read(3, 4, EVERYTHING)] == [5, 5]


def test_a_piece_has_one_entry_at_least_and_no_more_than_fit(tmp_path: Path) -> None:
    segments = Segments(tmp_path)
    segments.frame(*(entry(index, payload=bytes(100)) for index in range(1, 9)))

    def read(first: int, last: int, bytes_max: int) -> list[int]:
        return [one.index for one in segments.index.read(first, last, bytes_max)]

    assert read(3, 8, 0) == [3]
    assert read(3, 8, 299) == [3, 4]
    assert read(3, 8, 300) == [3, 4, 5]
    assert read(3, 4, 300) == [3, 4]


# --- what cannot be read ------------------------------------------------------------------------------


def test_an_entry_that_was_never_there_is_unreadable(tmp_path: Path) -> None:
    segments = Segments(tmp_path)
    with pytest.raises(UnreadableEntries, match="entry 1 cannot be read"):
        segments.index.read(1, 1, EVERYTHING)
    segments.frame(entry(1))
    with pytest.raises(UnreadableEntries, match="entry 2 cannot be read"):
        segments.index.read(2, 2, EVERYTHING)


def two_segments(directory: Path) -> Segments:
    """Entries 1 to 6 in frames of one entry, three in each segment."""
    segments = Segments(directory)
    for index in range(1, 7):
        if index == 4:
            segments.roll()
        segments.frame(entry(index))
    return segments


def test_what_lies_in_a_dropped_segment_is_unreadable(tmp_path: Path) -> None:
    segments = two_segments(tmp_path)
    segments.compact(3)
    with pytest.raises(UnreadableEntries):
        segments.index.read(3, 6, EVERYTHING)
    assert len(segments.index.read(4, 6, EVERYTHING)) == 3


@pytest.mark.parametrize("damaged", range(6))
def test_entries_before_a_damaged_frame_are_read(tmp_path: Path, damaged: int) -> None:
    segments = two_segments(tmp_path)
    path, start, end = segments.places[damaged]
    flip(path, (start + end) // 2)
    if damaged:
        found = segments.index.read(1, 6, EVERYTHING)
        assert found == segments.entries[:damaged]
    with pytest.raises(UnreadableEntries):
        segments.index.read(damaged + 1, 6, EVERYTHING)


def test_entries_before_a_segment_that_cannot_be_opened_are_read(tmp_path: Path) -> None:
    segments = two_segments(tmp_path)
    segments.paths[1].unlink()
    assert segments.index.read(2, 6, EVERYTHING) == segments.entries[1:3]
    with pytest.raises(UnreadableEntries, match=r"0001\.seg"):
        segments.index.read(4, 6, EVERYTHING)


def test_a_record_that_is_not_known_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = two_segments(tmp_path)

    def unknown(_: bytes) -> object:
        raise frames.UnknownRecord("a record of kind 9")

    monkeypatch.setattr(frames, "records", unknown)
    with pytest.raises(UnreadableEntries, match="a record of kind 9"):
        segments.index.read(1, 1, EVERYTHING)
