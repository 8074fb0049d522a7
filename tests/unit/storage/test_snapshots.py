"""Checkpoints, and the stream in which one replica sends them to another (PROTOCOL 1.1, 1.2)."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overdb_node.raft.types import Snapshot
from overdb_node.storage import snapshots
from overdb_node.storage.data import DataStore
from overdb_node.storage.errors import CorruptSnapshot
from overdb_node.storage.replica import ReplicaStorage
from overdb_node.storage.snapshots import SnapshotReader, Staging, Taken
from tests.unit.storage.replicas import (
    MEMBERS,
    apply,
    clock_at,
    compacted,
    fill,
    opened,
    whole_stream,
)

pytestmark = pytest.mark.usefixtures("small_segments")
HEAD_BYTES = 8


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[ReplicaStorage]:
    """Has applied up to 20 with values that do not compress: a stream of some files and 60 kB."""
    with opened(tmp_path / "leader") as storage:
        fill(storage, 20)
        storage.data.write(
            [(b"x%d" % number, 1, os.urandom(600)) for number in range(100)], [], 20, 1
        )
        yield storage


@pytest.fixture
def snapshot(leader: ReplicaStorage) -> Snapshot:
    return compacted(leader)


def staged(directory: Path, stream: bytes, index: int = 20, term: int = 1) -> Snapshot:
    """What comes out of a stream, or CorruptSnapshot and nothing left behind."""
    staging = Staging(directory, index, term)
    staging.write(0, stream)
    try:
        return staging.finish()
    except CorruptSnapshot:
        assert list(directory.iterdir()) == []
        raise


# --- taking ------------------------------------------------------------------------------------------------


def test_a_snapshot_says_what_it_is_from_itself(leader: ReplicaStorage, snapshot: Snapshot) -> None:
    assert (snapshot.index, snapshot.term, snapshot.clock) == (20, 1, clock_at(20))
    assert snapshot.members == MEMBERS
    assert len(whole_stream(leader, snapshot)) == snapshot.size > 60_000


def test_a_second_snapshot_of_the_same_index_is_not_taken(
    leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    """FAULTS 41."""
    assert leader.take_snapshot() is None
    apply(leader, 21, 21)
    assert leader.take_snapshot() is not None
    assert snapshot.index == 20


def test_a_checkpoint_taken_while_another_thread_writes_is_of_one_moment(tmp_path: Path) -> None:
    """FAULTS 35, 43: data, records and applied index in it fit together; writes wait for nothing."""
    with opened(tmp_path / "node") as storage:
        storage.data.database.set_options({"write_buffer_size": "65536"})
        stop, failures = threading.Event(), []
        written = [0]

        def write() -> None:
            try:
                while not stop.is_set():
                    written[0] += 1
                    apply(storage, written[0], written[0], 1, 500)
            except BaseException as error:
                failures.append(error)
                raise

        thread = threading.Thread(target=write)
        thread.start()
        taken: list[Taken] = []
        try:
            while len(taken) < 5:
                found = storage.take_snapshot()
                if found is not None:
                    taken.append(found)
        finally:
            stop.set()
            thread.join()
        assert not failures
        assert written[0] > taken[-1].index, "nothing was written meanwhile: the test is too slow"
        assert len({found.index for found in taken}) == 5
        for found in taken:
            copy = DataStore(found.path / "db", read_only=True)
            assert copy.applied() == (found.index, found.term)
            newest = copy.newest(b"k")
            assert newest is not None
            assert newest[1] is not None
            assert newest[0] == clock_at(found.index)
            assert newest[1].rstrip(b"\0") == b"1/%d" % found.index
            assert storage.seal_snapshot(found, MEMBERS).clock == clock_at(found.index)
            copy.close()


# --- streams -----------------------------------------------------------------------------------------------


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_part_of_the_stream_is_that_part(
    leader: ReplicaStorage, snapshot: Snapshot, data: st.DataObject
) -> None:
    stream = whole_stream(leader, snapshot)
    offset = data.draw(st.integers(0, snapshot.size + 10))
    length = data.draw(st.integers(0, snapshot.size + 10))
    part = leader.read_snapshot(snapshot, offset, length)
    assert part == stream[offset : offset + length]


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_in_chunks_of_any_size_gives_the_same_snapshot(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot, seed: int
) -> None:
    draw = random.Random(seed)
    with opened(tmp_path / "follower") as follower:
        offset, received = 0, None
        while offset < snapshot.size:
            part = leader.read_snapshot(snapshot, offset, draw.choice([1, 7, 100, 4096, 30_000]))
            offset, received = follower.stage(20, 1, offset, snapshot.size, part)
        assert received == snapshot
        assert whole_stream(follower, received) == whole_stream(leader, snapshot)
        follower.install(received, False)
        assert follower.data.applied() == (20, 1)
        for number in range(100):
            assert follower.data.newest(b"x%d" % number) == leader.data.newest(b"x%d" % number)


def test_empty_files_are_part_of_the_stream(tmp_path: Path) -> None:
    stream = made([("a", b""), ("b", b"content"), ("c", b""), ("d", b"")])
    found = staged(tmp_path / "s", stream)
    reader = SnapshotReader(tmp_path / "s" / found.checkpoint)
    assert reader.size == len(stream)
    for chunk in (1, 3, 1000):
        parts = [reader.read(offset, chunk) for offset in range(0, reader.size, chunk)]
        assert b"".join(parts) == stream


def test_a_stream_goes_on_where_it_stopped(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    """PROTOCOL 1.2: "send from offset o". Late and early chunks change nothing."""
    stream = whole_stream(leader, snapshot)
    size = snapshot.size
    with opened(tmp_path / "follower") as follower:
        assert follower.stage(20, 1, 0, size, stream[:1000]) == (1000, None)
        assert follower.stage(20, 1, 500, size, stream[500:1500]) == (1000, None)
        assert follower.stage(20, 1, 2000, size, stream[2000:]) == (1000, None)
        assert follower.stage(20, 1, 1000, size, stream[1000:]) == (size, snapshot)


@pytest.mark.parametrize("other", [(21, 1), (20, 2)])
def test_what_is_staged_is_dropped_when_another_snapshot_comes(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot, other: tuple[int, int]
) -> None:
    """PROTOCOL 1.2: chunks carry index and term; nothing of two snapshots is mixed."""
    stream = whole_stream(leader, snapshot)
    with opened(tmp_path / "follower") as follower:
        follower.stage(*other, 0, 5000, b"o" * 1000)
        assert follower.stage(20, 1, 1000, snapshot.size, stream[1000:]) == (0, None)
        assert follower.stage(20, 1, 0, snapshot.size, stream) == (snapshot.size, snapshot)


def test_a_stream_that_begins_anew_begins_at_zero(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    stream = whole_stream(leader, snapshot)
    with opened(tmp_path / "follower") as follower:
        follower.stage(20, 1, 0, snapshot.size, b"x" * 900)
        assert follower.stage(20, 1, 0, snapshot.size, stream[:10]) == (10, None)
        assert follower.stage(20, 1, 10, snapshot.size, stream[10:]) == (snapshot.size, snapshot)


# --- damage ------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_refused(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    """FAULTS 31. Every byte of head and manifest; samples of each file, its ends among them."""
    stream = whole_stream(leader, snapshot)
    head = HEAD_BYTES + int.from_bytes(stream[:HEAD_BYTES], "big")
    files = json.loads(stream[HEAD_BYTES:head].splitlines()[0])["files"]
    positions = list(range(head))
    begin = head
    for _, size, _ in files:
        positions += sorted({begin, begin + size // 2, begin + size - 1} if size else ())
        begin += size
    assert begin == len(stream)
    accepted = []
    for position in positions:
        damaged = bytearray(stream)
        damaged[position] ^= 1 << position % 8
        try:
            found = staged(tmp_path / "s", bytes(damaged))
        except CorruptSnapshot:
            continue
        accepted.append((position, found))
        (tmp_path / "s" / found.checkpoint).rename(tmp_path / f"taken-{position}")
    # The checksum of the manifest may be written in other letters, or end in another line break.
    assert all(found == snapshot for _, found in accepted), accepted
    assert all(head - 10 <= position < head for position, _ in accepted), accepted


@pytest.mark.parametrize("left", [0, 5, 8, 100, 1000, -1])
def test_a_stream_that_is_too_short_is_refused(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot, left: int
) -> None:
    with pytest.raises(CorruptSnapshot):
        staged(tmp_path / "s", whole_stream(leader, snapshot)[:left])


def test_a_stream_that_goes_on_behind_its_files_is_refused(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    with pytest.raises(CorruptSnapshot, match="behind its last file"):
        staged(tmp_path / "s", whole_stream(leader, snapshot) + b"\0")


def test_a_snapshot_under_another_index_or_term_is_refused(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    stream = whole_stream(leader, snapshot)
    for index, term in ((21, 1), (20, 2)):
        with pytest.raises(CorruptSnapshot, match="20-1"):
            staged(tmp_path / "s", stream, index, term)


def test_a_manifest_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    with pytest.raises(CorruptSnapshot, match="claims"):
        staged(tmp_path / "s", (1 << 62).to_bytes(8, "big") + b"{}")


def test_after_damage_the_stream_begins_again_and_succeeds(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    stream = whole_stream(leader, snapshot)
    with opened(tmp_path / "follower") as follower:
        with pytest.raises(CorruptSnapshot):
            follower.stage(20, 1, 0, snapshot.size, stream[:-1] + b"?")
        assert follower.stage(20, 1, 5, snapshot.size, stream[5:]) == (0, None)
        assert follower.stage(20, 1, 0, snapshot.size, stream) == (snapshot.size, snapshot)


def test_what_is_wrong_in_an_early_chunk_is_said_at_the_end(
    tmp_path: Path, leader: ReplicaStorage, snapshot: Snapshot
) -> None:
    """A leader takes the refusal of all bytes for damage; one in the middle is a chunk that was lost."""
    stream = bytearray(whole_stream(leader, snapshot))
    head = HEAD_BYTES + int.from_bytes(stream[:HEAD_BYTES], "big")
    stream[head] ^= 1
    with opened(tmp_path / "follower") as follower:
        for offset in range(0, snapshot.size - 1000, 1000):
            chunk = bytes(stream[offset : offset + 1000])
            assert follower.stage(20, 1, offset, snapshot.size, chunk) == (offset + 1000, None)
        with pytest.raises(CorruptSnapshot, match="wrong checksum"):
            follower.stage(20, 1, offset + 1000, snapshot.size, bytes(stream[offset + 1000 :]))
        assert not list((tmp_path / "follower" / "snapshots").glob("*.tmp"))


@pytest.mark.parametrize("step", ["open", "write", "flush", "mkdir"])
def test_a_stream_without_room_at_any_step_begins_again_when_there_is_some(
    tmp_path: Path,
    leader: ReplicaStorage,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """FAULTS 33. Nothing is left of it; the files are longer than what is flushed at once."""
    monkeypatch.setattr(snapshots, "_FLUSHED_BYTES", 5_000)
    stream, full = whole_stream(leader, snapshot), OSError(errno.ENOSPC, "no room")

    def fail(*_: object, **__: object) -> None:
        raise full

    with opened(tmp_path / "follower") as follower:
        assert follower.stage(20, 1, 0, snapshot.size, stream[:30_000]) == (30_000, None)
        with monkeypatch.context() as patch:
            if step == "mkdir":
                patch.setattr(Path, "mkdir", fail)
            elif step == "flush":
                patch.setattr(snapshots, "fsync_path", fail)
            elif step == "write":
                patch.setattr(snapshots._IncomingFile, "write", fail)
            else:
                patch.setattr(Path, "open", fail)
            offset = 0 if step in ("mkdir", "open") else 30_000
            with pytest.raises(OSError, match="no room"):
                follower.stage(20, 1, offset, snapshot.size, stream[offset:])
        assert follower.stage(20, 1, 30_000, snapshot.size, stream[30_000:]) == (0, None)
        assert follower.stage(20, 1, 0, snapshot.size, stream) == (snapshot.size, snapshot)
        assert whole_stream(follower, snapshot) == stream


def test_a_file_that_became_short_on_the_sender_is_noticed_there(
    leader: ReplicaStorage, snapshot: Snapshot, tmp_path: Path
) -> None:
    path = tmp_path / "leader" / "snapshots" / snapshot.checkpoint / "db"
    largest = max(path.iterdir(), key=lambda file: file.stat().st_size)
    content = largest.read_bytes()
    largest.unlink()  # the database has the same file under another name
    largest.write_bytes(content[:-1])
    with pytest.raises(CorruptSnapshot, match="short"):
        whole_stream(leader, snapshot)


# --- what a sender may make of it -------------------------------------------------------------------------


def made(parts: list[tuple[str, bytes]], **changes: object) -> bytes:
    """A stream with right checksums and any names."""
    fields: dict[str, object] = {
        "index": 20,
        "term": 1,
        "clock": 5,
        "members": [[1, "a:1", True]],
        "files": [[name, len(content), google_crc32c.value(content)] for name, content in parts],
    }
    fields = {k: v for k, v in {**fields, **changes}.items() if v is not None}
    body = json.dumps(fields).encode()
    manifest = body + b"\n%08x\n" % google_crc32c.value(body)
    return len(manifest).to_bytes(8, "big") + manifest + b"".join(c for _, c in parts)


@pytest.mark.parametrize(
    "name",
    ["../x", "/tmp/x", "a/b", "..", ".", "", "a\0b", "x" * 256, "..\\x", "-", ".hidden", "a\n"],  # noqa: S108
)
def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "inside"
    with pytest.raises(CorruptSnapshot, match="named"):
        staged(outside, made([(name, b"content")]))
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_a_made_stream_is_taken_when_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    found = staged(tmp_path / "s", made([("CURRENT", b"content"), ("000008.sst", b"")]))
    assert (found.index, found.term, found.clock, found.checkpoint) == (20, 1, 5, "20-1")
    assert (tmp_path / "s" / "20-1" / "db" / "CURRENT").read_bytes() == b"content"


@pytest.mark.parametrize(
    "changes",
    [
        {"index": None},
        {"index": "x"},
        {"clock": None},
        {"term": []},
        {"files": [["a", -1, 0]]},
        {"files": [["a", 1e400, 0]]},
        {"files": [["a", 0, 0], ["a", 0, 0]]},
        {"members": [[1, "a:1"]]},
        {"members": 5},
        {"files": None},
        {"files": [["a"]]},
    ],
    ids=str,
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(CorruptSnapshot, match="manifest"):
        staged(tmp_path / "s", made([("a", b"")], **changes))
