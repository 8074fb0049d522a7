"""The durable log after crashes and damage (PROTOCOL 1.0, FAULTS 28-32 and 36)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_common.errors import StartupError
from overdb_node.raft.types import Entry, EntryKind, HardState
from overdb_node.storage import frames
from overdb_node.storage.errors import NoSpace, StorageFailure
from overdb_node.storage.log import DurableLog
from tests.unit.storage.log_files import (
    FRAME_HEAD_BYTES,
    HEADER_BYTES,
    SEGMENT_BYTES,
    SyncCounter,
    Written,
    contents,
    entries,
    entry,
    find_frames,
    flip,
    overwrite,
    reopen,
    write_log,
)

Batches = list[tuple[HardState | None, Sequence[Entry]]]
THREE: Batches = [
    (HardState(1, 1, 0), entries(1, 2)),
    (HardState(1, 1, 2), entries(3, 4)),
    (HardState(2, 3, 4), [entry(5, 2), entry(6, 2)]),
]


@pytest.fixture
def three(tmp_path: Path) -> Written:
    """Three frames in one segment."""
    return write_log(tmp_path / "log-1", THREE)


@pytest.fixture
def many(tmp_path: Path) -> Written:
    """Frames of 1,000 bytes over several segments: four to a segment."""
    batches: Batches = [(HardState(1, 1, i - 1), [entry(i, 1, bytes(930))]) for i in range(1, 14)]
    return write_log(tmp_path / "log-1", batches)


# --- what is kept ---------------------------------------------------------------------------------


def test_what_was_appended_is_there_after_a_restart(three: Written) -> None:
    assert reopen(three.directory) == (
        HardState(2, 3, 4),
        [*entries(1, 4), entry(5, 2), entry(6, 2)],
    )


def test_entries_up_to_the_snapshot_are_left_out(three: Written) -> None:
    assert reopen(three.directory, base_index=4)[1] == [entry(5, 2), entry(6, 2)]
    assert reopen(three.directory, base_index=6)[1] == []


def test_a_frame_without_entries_saves_the_hard_state(three: Written) -> None:
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    log.append(HardState(9, 2, 5), ())
    log.close()
    hard_state, found = reopen(three.directory)
    assert (hard_state, len(found)) == (HardState(9, 2, 5), 6)


def test_a_frame_without_hard_state_keeps_the_one_before(three: Written) -> None:
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    log.append(None, [entry(7, 2)])
    log.close()
    assert reopen(three.directory)[0] == HardState(2, 3, 4)


@pytest.mark.parametrize("cut_at", range(1, 7))
def test_an_entry_at_an_index_that_exists_replaces_all_from_there(
    three: Written, cut_at: int
) -> None:
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    log.append(HardState(3, 0, 0), [entry(cut_at, 3)])
    log.close()
    before = [*entries(1, 4), entry(5, 2), entry(6, 2)][: cut_at - 1]
    assert reopen(three.directory)[1] == [*before, entry(cut_at, 3)]


def test_a_cut_below_the_snapshot_drops_what_was_above_it(three: Written) -> None:
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    log.append(None, [entry(3, 3), entry(4, 3), entry(5, 3)])
    log.close()
    assert reopen(three.directory, base_index=4)[1] == [entry(5, 3)]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=25),
    segment_bytes=st.integers(200, 2000),
    restarts=st.sets(st.integers(0, 25)),
)
def test_a_log_is_the_list_that_its_appends_and_cuts_make(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int]],
    segment_bytes: int,
    restarts: set[int],
) -> None:
    directory = tmp_path_factory.mktemp("model") / "log-1"
    log = DurableLog.create(directory, HardState(), segment_bytes)
    model: list[Entry] = []
    for term, (back, count) in enumerate(steps, 1):
        first = max(1, len(model) + 1 - back)
        batch = entries(first, first + count - 1, term)
        log.append(HardState(term, 0, first - 1), batch)
        model[first - 1 :] = batch
        if term in restarts:
            log.close()
            log, found = DurableLog.open(directory, 0, segment_bytes)
            assert found == model
    log.close()
    assert reopen(directory, 0, segment_bytes) == (log.hard_state, model)
    assert log.hard_state.term == len(steps)


# --- what is cut ----------------------------------------------------------------------------------


def test_a_torn_last_frame_is_cut_at_every_byte(three: Written) -> None:
    path, begin, end = three.last
    whole = path.read_bytes()
    for cut in range(begin, end):
        overwrite(path, 0, whole[:cut] + bytes(SEGMENT_BYTES - cut))
        assert reopen(three.directory) == (HardState(1, 1, 2), entries(1, 4)), cut
        assert path.read_bytes()[begin:] == bytes(SEGMENT_BYTES - begin), cut


@pytest.mark.parametrize("sector", range(4))
def test_a_last_frame_of_which_one_sector_is_missing_is_cut(tmp_path: Path, sector: int) -> None:
    """Later sectors of a frame may reach the disk before earlier ones."""
    batches: Batches = [(HardState(1), [entry(1)]), (None, [entry(2, 1, b"x" * 1800)])]
    written = write_log(tmp_path / "log-1", batches)
    path, begin, end = written.last
    first = max(begin, sector * 512)
    overwrite(path, first, bytes(min(end, (sector + 1) * 512) - first))
    assert reopen(written.directory) == (HardState(1), [entry(1)])


def test_the_log_goes_on_behind_a_cut_and_cut_bytes_never_come_back(three: Written) -> None:
    """Were the rest not zeroed, a shorter frame would leave its end behind itself."""
    path, _, end = three.last
    overwrite(path, end - 10, bytes(10))
    log, found = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    assert found == entries(1, 4)
    log.append(None, [entry(5, 7, b"")])
    log.close()
    assert reopen(three.directory)[1] == [*entries(1, 4), entry(5, 7, b"")]
    _, _, new_end = list(find_frames(three.directory))[-1]
    assert new_end < end
    assert path.read_bytes()[new_end:] == bytes(SEGMENT_BYTES - new_end)


def test_the_only_frame_may_be_torn(tmp_path: Path) -> None:
    written = write_log(tmp_path / "log-1", THREE[:1])
    path, begin, end = written.last
    overwrite(path, end - 10, bytes(10))
    assert reopen(written.directory) == (HardState(), [])
    assert path.read_bytes()[begin:] == bytes(SEGMENT_BYTES - begin)


def test_a_torn_first_frame_of_a_new_segment_is_cut(many: Written) -> None:
    path, begin, end = next(f for f in many.frames if f[0].name.endswith("2.seg"))
    for later in sorted(many.directory.glob("*.seg"))[2:]:
        later.unlink()
    overwrite(path, begin, bytes(SEGMENT_BYTES - begin))
    overwrite(path, begin, b"oDbF")
    _, found = reopen(many.directory)
    log, _ = DurableLog.open(many.directory, 0, SEGMENT_BYTES)
    log.append(None, [entry(len(found) + 1)])
    log.close()
    assert len(reopen(many.directory)[1]) == len(found) + 1 == 5
    assert end > begin


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_set_of_missing_sectors_of_the_last_frame_keeps_all_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 900), min_size=2, max_size=3))
    batches: Batches = [(None, [entry(i, 1, b"p" * n)]) for i, n in enumerate(sizes, 1)]
    written = write_log(tmp_path_factory.mktemp("torn") / "log-1", batches)
    path, begin, end = written.last
    sectors = range(begin // 512, (end - 1) // 512 + 1)
    missing = data.draw(st.sets(st.sampled_from(sectors), min_size=1))
    for sector in missing:
        first = max(begin, sector * 512)
        overwrite(path, first, bytes(min(end, (sector + 1) * 512) - first))
    assert len(reopen(written.directory)[1]) == len(sizes) - 1


# --- what is refused ------------------------------------------------------------------------------


def refused(written: Written, path: Path, offset: int | None = None) -> str:
    """Recovery must name the file (and the offset), and change nothing."""
    before = contents(written.directory)
    with pytest.raises(StartupError) as caught:
        reopen(written.directory)
    assert str(path) in caught.value.what
    if offset is not None:
        assert f"offset {offset}" in caught.value.what
    assert contents(written.directory) == before
    return caught.value.what


@pytest.mark.parametrize("part", ["magic", "length", "checksum", "sequence", "body"])
def test_a_flipped_bit_before_the_last_frame_is_refused(three: Written, part: str) -> None:
    at = {"magic": 0, "length": 7, "checksum": 9, "sequence": 19, "body": FRAME_HEAD_BYTES + 3}
    for path, begin, _ in three.frames[:-1]:
        flip(path, begin + at[part])
        refused(three, path, begin)
        flip(path, begin + at[part])
    assert reopen(three.directory)[0] == HardState(2, 3, 4)


def test_a_flipped_bit_anywhere_before_the_last_frame_is_refused(three: Written) -> None:
    path, last, _ = three.last
    for offset in range(HEADER_BYTES, last):
        flip(path, offset, offset % 8)
        refused(three, path)
        flip(path, offset, offset % 8)


def test_a_flipped_bit_in_any_frame_of_an_earlier_segment_is_refused(many: Written) -> None:
    last_path = many.last[0]
    earlier = [frame for frame in many.frames if frame[0] != last_path]
    assert len({path for path, _, _ in earlier}) >= 2
    for path, begin, end in earlier:
        flip(path, (begin + end) // 2)
        refused(many, path, begin)
        flip(path, (begin + end) // 2)


def test_a_wiped_frame_in_the_middle_is_refused(many: Written) -> None:
    for path, begin, end in many.frames[:-1]:
        before = path.read_bytes()
        overwrite(path, begin, bytes(end - begin))
        refused(many, many.directory)
        overwrite(path, 0, before)
    assert len(reopen(many.directory)[1]) == 13


def test_a_missing_segment_in_the_middle_is_refused(many: Written) -> None:
    paths = sorted(many.directory.glob("*.seg"))
    paths[1].unlink()
    assert "segment 2 is missing" in refused(many, paths[2])


def test_a_log_whose_oldest_needed_segment_is_missing_is_refused(many: Written) -> None:
    """Never a gap between the snapshot and the first entry (FAULTS 40)."""
    paths = sorted(many.directory.glob("*.seg"))
    paths[0].unlink()
    assert "follows entry 0" in refused(many, paths[1])


def test_a_damaged_segment_header_is_refused(many: Written) -> None:
    for path in sorted(many.directory.glob("*.seg")):
        flip(path, 9)
        refused(many, path, 0)
        flip(path, 9)


def test_a_segment_of_a_newer_format_is_refused(
    three: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overdb_node.storage.log._FORMAT", 0)
    assert "format 2, this program knows up to 0" in refused(three, three.last[0])


def test_a_flipped_bit_in_a_last_frame_that_ended_in_zeros_is_refused(tmp_path: Path) -> None:
    """A payload may end in any number of them; the frame does not, or it would look torn."""
    written = write_log(
        tmp_path / "log-1", [(None, [Entry(1, 1, EntryKind.COMMANDS, b"x" + bytes(40))])]
    )
    path, start, end = written.last
    whole = path.read_bytes()
    for position in range(start * 8, end * 8):
        content = bytearray(whole)
        content[position // 8] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(StartupError):
            DurableLog.open(written.directory, 0, SEGMENT_BYTES)


def test_a_gap_between_entries_is_refused(tmp_path: Path) -> None:
    written = write_log(tmp_path / "log-1", [(None, entries(1, 2)), (None, [entry(4)])])
    assert "entry 4 follows entry 2" in refused(written, written.last[0], written.last[1])


# --- segments -------------------------------------------------------------------------------------


def test_a_roll_keeps_the_order_and_loses_nothing(many: Written) -> None:
    paths = sorted({path for path, _, _ in many.frames})
    assert [int(path.stem) for path in paths] == [1, 2, 3, 4]
    assert [e.index for e in reopen(many.directory)[1]] == list(range(1, 14))


def test_a_frame_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    large = entry(2, 1, b"L" * (3 * SEGMENT_BYTES))
    written = write_log(
        tmp_path / "log-1", [(None, [entry(1)]), (None, [large]), (HardState(1), [entry(3)])]
    )
    assert len({path for path, _, _ in written.frames}) == 3
    assert reopen(written.directory) == (HardState(1), [entry(1), large, entry(3)])


@pytest.mark.parametrize("index", range(14))
def test_drop_below_keeps_every_entry_behind_and_the_hard_state(many: Written, index: int) -> None:
    log, _ = DurableLog.open(many.directory, 0, SEGMENT_BYTES)
    log.drop_below(index)
    log.close()
    kept = [int(path.stem) for path in sorted(many.directory.glob("*.seg"))]
    assert kept == list(range(min(index // 4, 3) + 1, 5))  # four entries a segment, the last stays
    hard_state, found = reopen(many.directory, base_index=index)
    assert [e.index for e in found] == list(range(index + 1, 14))
    assert hard_state == HardState(1, 1, 12)


def test_drop_below_keeps_a_segment_with_a_later_entry_that_was_cut(tmp_path: Path) -> None:
    """The hard state of a segment that goes is in the one that stays, however old it is."""
    batches: Batches = [(HardState(5, 3, 0), [])]
    batches += [(None, [entry(i, 1, bytes(930))]) for i in range(1, 10)]
    written = write_log(tmp_path / "log-1", batches)
    log, _ = DurableLog.open(written.directory, 0, SEGMENT_BYTES)
    log.drop_below(9)
    log.close()
    assert len(list(written.directory.glob("*.seg"))) == 1
    assert reopen(written.directory, base_index=9) == (HardState(5, 3, 0), [])


def test_a_segment_is_durable_under_its_name_before_the_first_frame(
    three: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 29: header, rename, directory, and only then what counts on them."""
    order: list[str] = []
    real_rename, real_data, real_sync = Path.rename, os.fdatasync, os.fsync

    def note(name: str) -> None:
        order.append(name)

    def rename(self: Path, target: Path) -> Path:
        note("rename")
        return real_rename(self, target)

    def fdatasync(descriptor: int) -> None:
        note("fdatasync")
        real_data(descriptor)

    def fsync(descriptor: int) -> None:
        is_directory = Path(f"/proc/self/fd/{descriptor}").is_dir()
        note("directory" if is_directory else "file")
        real_sync(descriptor)

    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    log._maker.shutdown(wait=True)  # its fsync of the prepared file is not of this order
    monkeypatch.setattr(log, "_prepare", lambda: None)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "fsync", fsync)
    log.append(None, [entry(7, 2, bytes(SEGMENT_BYTES - 200))])
    log.close()
    assert order == ["file", "rename", "directory", "fdatasync"]


@pytest.mark.parametrize("step", ["rename", "directory"])
def test_killed_in_a_roll_nothing_is_lost(
    many: Written, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """FAULTS 36: the new segment exists without a frame, or not at all."""
    log, found = DurableLog.open(many.directory, 0, SEGMENT_BYTES)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "rename":
            patch.setattr(Path, "rename", killed)
        else:
            patch.setattr("overdb_node.storage.log.fsync_path", killed)
        with pytest.raises(KeyboardInterrupt):
            log.append(None, [entry(14, 1, bytes(SEGMENT_BYTES - 200))])
    log.close()
    assert reopen(many.directory)[1] == found
    again, _ = DurableLog.open(many.directory, 0, SEGMENT_BYTES)
    again.append(None, [entry(14)])
    again.close()
    assert reopen(many.directory)[1] == [*found, entry(14)]


# --- a disk that fails ----------------------------------------------------------------------------


def test_a_failed_fdatasync_is_final_and_never_retried(
    three: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 32: the kernel may report success the second time, and the pages are gone."""
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    syncs = SyncCounter(monkeypatch)
    syncs.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(StorageFailure, match=r"log-1.*Input/output error"):
        log.append(None, [entry(7, 2)])
    syncs.error = None
    with pytest.raises(StorageFailure):
        log.append(None, [entry(7, 2)])
    assert syncs.count == 1
    log.close()


def test_a_short_write_is_not_acknowledged_and_may_be_tried_again(
    three: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 84: no fsync has covered it, so the second attempt hides nothing."""
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    real = os.pwrite

    def short(descriptor: int, data: bytes, offset: int) -> int:
        return real(descriptor, data[:-5], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        with pytest.raises(NoSpace, match="bytes were written"):
            log.append(None, [entry(7, 2)])
    log.append(None, [entry(7, 2), entry(8, 2)])
    log.close()
    assert len(reopen(three.directory)[1]) == 8


def test_a_short_write_that_is_not_tried_again_leaves_a_torn_end(
    three: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda at, data, offset: real(at, data[:-5], offset))
        with pytest.raises(NoSpace):
            log.append(None, [entry(7, 2)])
    log.close()
    assert len(reopen(three.directory)[1]) == 6


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_an_fdatasync_without_space_is_final(
    three: Written, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """FAULTS 32, 84: a disk may find out only then (NFS, thin volumes); what it covered is not known."""
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    syncs = SyncCounter(monkeypatch)
    syncs.error = OSError(code, "No space left on device")
    with pytest.raises(StorageFailure):
        log.append(None, [entry(7, 2)])
    syncs.error = None
    with pytest.raises(StorageFailure):
        log.append(None, [entry(7, 2)])
    log.close()


@pytest.mark.parametrize("step", ["zeros", "header", "header's fsync", "rename", "directory"])
def test_a_segment_that_found_no_room_is_made_anew(
    many: Written, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """FAULTS 84: at any step. What a failed fsync covered is not used again."""
    log, found = DurableLog.open(many.directory, 0, SEGMENT_BYTES)
    assert log._prepared is not None
    log._prepared.result()
    large = entry(14, 1, bytes(SEGMENT_BYTES - 200))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "zeros":
            log._prepared = None
            patch.setattr(DurableLog, "_make_segment", full)
        elif step == "rename":
            patch.setattr(Path, "rename", full)
        elif step == "directory":
            patch.setattr("overdb_node.storage.log.fsync_path", full)
        else:
            patch.setattr(os, "pwrite" if step == "header" else "fsync", full)
        for _ in range(2):
            with pytest.raises(NoSpace, match="No space left on device"):
                log.append(None, [large])
    made = []
    make = DurableLog._make_segment

    def counted(log: DurableLog) -> None:
        made.append(1)
        make(log)

    monkeypatch.setattr(DurableLog, "_make_segment", counted)
    log.append(None, [large])
    log.append(None, [entry(15)])
    log.close()
    assert made, "the segment of the failed attempt was used"
    assert reopen(many.directory)[1] == [*found, large, entry(15)]


def test_a_disk_without_space_for_a_segment_leaves_the_log_readable(
    many: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 33: what is there can be read, and a start with space goes on."""
    with monkeypatch.context() as patch:

        def full(self: DurableLog) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(DurableLog, "_make_segment", full)
        log, found = DurableLog.open(many.directory, 0, SEGMENT_BYTES)
        with pytest.raises(NoSpace, match="No space left on device"):
            log.append(None, [entry(14, 1, bytes(SEGMENT_BYTES - 200))])
        log.close()
    assert reopen(many.directory)[1] == found
    again, _ = DurableLog.open(many.directory, 0, SEGMENT_BYTES)
    again.append(None, [entry(14, 1, bytes(SEGMENT_BYTES - 200))])
    again.close()
    assert len(reopen(many.directory)[1]) == 14


# --- what must not be taken for a torn end --------------------------------------------------------


def test_the_last_frame_is_made_durable_when_the_log_is_opened(
    three: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL 1.0: killed between write and fdatasync, the frame is in the page cache only; what
    recovery returns counts as durable, so it must be."""
    path, begin, end = three.last
    real_sync, synced = os.fsync, []

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "fdatasync", fsync)
    log, _ = DurableLog.open(three.directory, 0, SEGMENT_BYTES)
    log.close()
    assert str(path) in synced
    assert end > begin


def test_a_damaged_last_frame_of_a_segment_is_refused_when_a_later_segment_was_begun(
    many: Written,
) -> None:
    """A roll follows the fdatasync of the frame before it: that frame cannot be torn."""
    paths = sorted(many.directory.glob("*.seg"))
    for path in paths[2:]:
        path.unlink()
    overwrite(paths[1], HEADER_BYTES, bytes(SEGMENT_BYTES - HEADER_BYTES))  # header, no frame yet
    path, begin, end = [frame for frame in many.frames if frame[0] == paths[0]][-1]
    flip(path, (begin + end) // 2)
    refused(many, path, begin)


def test_a_truncated_segment_is_refused(three: Written) -> None:
    """FAULTS 31: a file that lost its end is not the torn frame of a crash, segments never shrink."""
    path, begin, _ = three.last
    os.truncate(path, begin)
    refused(three, path)


def test_a_log_that_lost_its_segments_is_refused(three: Written) -> None:
    """An empty log with term 0 and no vote would vote twice (FAULTS 1, 38)."""
    three.last[0].unlink()
    with pytest.raises(StartupError):
        reopen(three.directory)


def test_a_last_frame_that_was_written_whole_and_is_damaged_is_refused(three: Written) -> None:
    """FAULTS 30: a torn frame has a sector, or its end, still zero; this one was acknowledged."""
    path, begin, end = three.last
    flip(path, (begin + end) // 2)
    refused(three, path, begin)


@pytest.mark.parametrize("batches", [THREE, THREE[:1]], ids=["last", "only"])
def test_a_flipped_bit_in_the_length_of_the_last_frame_is_refused(
    tmp_path: Path, batches: Batches
) -> None:
    """A length that grew is not the head of a frame whose end a crash kept from the disk."""
    for bit in range(32):
        written = write_log(tmp_path / f"log-{bit}", batches)
        path, begin, _ = written.last
        flip(path, begin + 4 + bit // 8, bit % 8)
        refused(written, path, begin)


def test_a_users_value_that_looks_like_a_frame_does_not_forbid_the_start(tmp_path: Path) -> None:
    """Somebody stores a log segment as a value, and the power fails while it is written."""
    value = frames.encode(99, HardState(9), ()) + b"x" * 600
    batches: Batches = [(HardState(1), [entry(1)]), (None, [entry(2, 1, value)])]
    written = write_log(tmp_path / "log-1", batches)
    path, _, end = written.last
    overwrite(path, end - 500, bytes(500))
    assert reopen(written.directory) == (HardState(1), [entry(1)])


def two_segments(tmp_path: Path) -> Written:
    """The second segment has one frame, acknowledged."""
    random = Random(1)
    first = entry(1, payload=random.randbytes(SEGMENT_BYTES - 400))
    written = write_log(
        tmp_path / "log-1", [(HardState(1), [first]), (None, [entry(2, payload=b"x" * 700)])]
    )
    assert written.frames[-1][1] == HEADER_BYTES
    assert written.frames[-1][0] != written.frames[-2][0]
    return written


def test_a_damaged_frame_that_has_a_segment_to_itself_is_refused(tmp_path: Path) -> None:
    """FAULTS 30, 31: that segment was not "made, and not yet written to"."""
    written = two_segments(tmp_path)
    path, begin, end = written.last
    flip(path, (begin + end) // 2)
    refused(written, path, begin)


@pytest.mark.parametrize("kept", [HEADER_BYTES, HEADER_BYTES + 300])
def test_a_truncated_last_segment_is_refused_when_no_frame_of_it_is_left(
    tmp_path: Path, kept: int
) -> None:
    """FAULTS 31: it had its whole size before it had its name."""
    written = two_segments(tmp_path)
    path, _, _ = written.last
    os.truncate(path, kept)
    refused(written, path)


def test_a_damaged_header_of_the_last_segment_is_refused(tmp_path: Path) -> None:
    written = two_segments(tmp_path)
    path, _, _ = written.last
    flip(path, 10)
    overwrite(path, HEADER_BYTES, bytes(SEGMENT_BYTES - HEADER_BYTES))
    refused(written, path, 0)


@pytest.mark.parametrize("share", [0.3, 0.9, 1.2, 1.45])
def test_a_frame_larger_than_a_segment_that_was_cut_short_is_a_torn_end(
    tmp_path: Path, share: float
) -> None:
    """Killed in the middle of the write: random bytes have no zero sector, but the file ends early."""
    payload = Random(2).randbytes(SEGMENT_BYTES * 3 // 2)
    written = write_log(
        tmp_path / "log-1", [(HardState(1), [entry(1)]), (None, [entry(2, payload=payload)])]
    )
    path, begin, end = written.last
    assert end > SEGMENT_BYTES
    kept = int(SEGMENT_BYTES * share)
    assert kept < end
    content = path.read_bytes()[:kept]
    path.write_bytes(content.ljust(SEGMENT_BYTES, b"\0"))
    assert begin == HEADER_BYTES
    assert reopen(written.directory) == (HardState(1), [entry(1)])
