"""What the simulated disk promises: what survives a power loss, a kill, a failed fsync, and what not."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from random import Random

import pytest

from overdb_simulation.disk import PowerLoss, SimulatedDisk
from overdb_simulation.disk_substitutes import (
    InlineExecutor,
    SimulatedFcntl,
    SimulatedOS,
    SimulatedShutil,
)
from overdb_simulation.paths import SimulatedPath

SEEDS = range(60)
simulated_os = SimulatedOS()


def fsync(path: SimulatedPath) -> None:
    descriptor = simulated_os.open(path, simulated_os.O_RDONLY)
    simulated_os.fsync(descriptor)
    simulated_os.close(descriptor)


def durable_file(disk: SimulatedDisk, name: str, content: bytes) -> SimulatedPath:
    path = disk.root / name
    path.write_bytes(content)
    fsync(path)
    fsync(disk.root)
    return path


def outcomes(
    act: Callable[[SimulatedDisk], object], look: Callable[[SimulatedDisk], object]
) -> set[object]:
    """What ``look`` sees after a power loss behind ``act``, over many seeds."""
    seen = set()
    for seed in SEEDS:
        disk = SimulatedDisk(Random(seed))
        act(disk)
        disk.lose_power()
        seen.add(look(disk))
    return seen


def names(disk: SimulatedDisk) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in disk.root.iterdir()))


# --- power loss: directories ----------------------------------------------------------------------------


def test_what_was_fsynced_with_its_directory_survives() -> None:
    def look(disk: SimulatedDisk) -> bytes:
        return (disk.root / "a").read_bytes()

    assert outcomes(lambda disk: durable_file(disk, "a", b"x" * 1500), look) == {b"x" * 1500}


def test_a_file_that_was_fsynced_may_have_lost_its_name() -> None:
    def act(disk: SimulatedDisk) -> None:
        (disk.root / "a").write_bytes(b"x")
        fsync(disk.root / "a")

    assert outcomes(act, names) == {(), ("a",)}


def test_a_rename_that_was_not_fsynced_is_there_wholly_or_not_at_all() -> None:
    def act(disk: SimulatedDisk) -> None:
        durable_file(disk, "old", b"1")
        durable_file(disk, "new", b"2")
        (disk.root / "new").rename(disk.root / "old")

    def look(disk: SimulatedDisk) -> object:
        return names(disk), (disk.root / "old").read_bytes()

    assert outcomes(act, look) == {(("new", "old"), b"1"), (("old",), b"2")}


def test_changes_of_a_directory_survive_in_order() -> None:
    def act(disk: SimulatedDisk) -> None:
        for name in "abc":
            (disk.root / name).mkdir()
        (disk.root / "a").rename(disk.root / "d")

    assert outcomes(act, names) == {(), ("a",), ("a", "b"), ("a", "b", "c"), ("b", "c", "d")}


def test_directories_lose_their_changes_apart_from_each_other() -> None:
    def act(disk: SimulatedDisk) -> None:
        for name in "ab":
            (disk.root / name).mkdir()
        fsync(disk.root)
        for name in "ab":
            (disk.root / name / "x").mkdir()

    def look(disk: SimulatedDisk) -> object:
        return tuple((disk.root / name / "x").exists() for name in "ab")

    assert len(outcomes(act, look)) == 4


def test_an_unlink_that_was_not_fsynced_may_come_back_with_its_content() -> None:
    def act(disk: SimulatedDisk) -> None:
        durable_file(disk, "a", b"kept").unlink()

    def look(disk: SimulatedDisk) -> object:
        return (disk.root / "a").read_bytes() if names(disk) else None

    assert outcomes(act, look) == {None, b"kept"}


# --- power loss: content --------------------------------------------------------------------------------


def test_a_write_that_was_not_fsynced_is_whole_torn_at_sectors_or_gone() -> None:
    def act(disk: SimulatedDisk) -> None:
        durable_file(disk, "a", bytes(4096))
        descriptor = simulated_os.open(disk.root / "a", simulated_os.O_RDWR)
        simulated_os.pwrite(descriptor, b"x" * 1500, 100)

    def look(disk: SimulatedDisk) -> bytes:
        return (disk.root / "a").read_bytes()

    seen = outcomes(act, look)
    parts = [slice(100, 512), slice(512, 1024), slice(1024, 1536), slice(1536, 1600)]
    masks = set()
    for content in seen:
        assert isinstance(content, bytes)
        assert len(content) == 4096
        assert not any(content[:100] + content[1600:])
        assert all(len(set(content[part])) == 1 for part in parts), "sectors are whole"
        masks.add(tuple(bool(content[part.start]) for part in parts))
    assert (True,) * 4 in masks
    assert (False,) * 4 in masks
    assert len(masks) > 6


def test_writes_survive_in_any_order() -> None:
    def act(disk: SimulatedDisk) -> None:
        durable_file(disk, "a", bytes(1024))
        descriptor = simulated_os.open(disk.root / "a", simulated_os.O_RDWR)
        for at in (0, 512):
            simulated_os.pwrite(descriptor, b"x" * 512, at)

    def look(disk: SimulatedDisk) -> object:
        content = (disk.root / "a").read_bytes()
        return content[0], content[512]

    assert len(outcomes(act, look)) == 4


def test_a_file_that_grew_without_an_fsync_may_be_short() -> None:
    def act(disk: SimulatedDisk) -> None:
        durable_file(disk, "a", b"1" * 512)
        descriptor = simulated_os.open(disk.root / "a", simulated_os.O_RDWR)
        simulated_os.pwrite(descriptor, b"2" * 1024, 512)

    seen = outcomes(act, lambda disk: (disk.root / "a").read_bytes())
    assert {b"1" * 512, b"1" * 512 + b"2" * 1024, b"1" * 512 + b"2" * 512} <= seen
    assert b"1" * 512 + bytes(512) + b"2" * 512 in seen, "a hole"


def test_a_failed_fsync_is_not_made_good_by_the_next_one() -> None:
    """As on Linux: the pages count as clean, the next fsync says yes, the data is not on disk."""

    def act(disk: SimulatedDisk) -> None:
        path = durable_file(disk, "a", b"old")
        descriptor = simulated_os.open(path, simulated_os.O_RDWR)
        simulated_os.pwrite(descriptor, b"new", 0)
        disk.fail_fsyncs = 1
        with pytest.raises(OSError, match="error") as caught:
            simulated_os.fdatasync(descriptor)
        assert caught.value.errno == errno.EIO
        simulated_os.fdatasync(descriptor)
        simulated_os.pwrite(descriptor, b" and more", 3)
        simulated_os.fdatasync(descriptor)
        assert path.read_bytes() == b"new and more"

    seen = outcomes(act, lambda disk: (disk.root / "a").read_bytes())
    assert b"old and more" in seen


def test_what_is_written_again_after_a_failed_fsync_is_durable() -> None:
    def act(disk: SimulatedDisk) -> None:
        path = durable_file(disk, "a", b"old")
        descriptor = simulated_os.open(path, simulated_os.O_RDWR)
        simulated_os.pwrite(descriptor, b"new", 0)
        disk.fail_fsyncs = 1
        with pytest.raises(OSError, match="error"):
            simulated_os.fdatasync(descriptor)
        simulated_os.pwrite(descriptor, b"new", 0)
        simulated_os.fdatasync(descriptor)

    assert outcomes(act, lambda disk: (disk.root / "a").read_bytes()) == {b"new"}


def test_the_same_seed_gives_the_same_disk() -> None:
    def after(seed: int) -> object:
        disk = SimulatedDisk(Random(seed))
        for number in range(20):
            (disk.root / f"f{number}").write_bytes(bytes([number]) * 2000)
            if number % 3 == 0:
                fsync(disk.root)
        disk.lose_power()
        return [(path, bytes(node.content)) for path, node in disk.file_nodes()]

    assert after(5) == after(5)
    assert after(5) != after(6)


# --- kills and crash points -----------------------------------------------------------------------------


def test_a_kill_keeps_the_page_cache_and_drops_buffers_descriptors_and_locks() -> None:
    disk = SimulatedDisk(Random(1))
    (disk.root / "cached").write_bytes(b"x")
    file = (disk.root / "buffered").open("wb")
    file.write(b"x")
    lock = (disk.root / "LOCK").open("a+")
    SimulatedFcntl().flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    other = (disk.root / "LOCK").open("a+")
    with pytest.raises(BlockingIOError):
        SimulatedFcntl().flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    disk.crash_process()
    assert disk.files() == {"/data/LOCK": 0, "/data/buffered": 0, "/data/cached": 1}
    with pytest.raises(PowerLoss):
        simulated_os.pwrite(file.fileno(), b"from beyond", 0)
    file.close()
    assert (disk.root / "buffered").read_bytes() == b""
    SimulatedFcntl().flock((disk.root / "LOCK").open("a+"), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_power_goes_at_the_operation_that_was_set_and_stays_off() -> None:
    disk = SimulatedDisk(Random(1))
    disk.operations_until_power_loss = 2
    (disk.root / "a").mkdir()
    (disk.root / "b").mkdir()
    with pytest.raises(PowerLoss):
        (disk.root / "c").mkdir()
    for attempt in ((disk.root / "d").mkdir, (disk.root / "a").exists):
        with pytest.raises(PowerLoss):
            attempt()
    disk.lose_power()
    (disk.root / "d").mkdir()
    assert set(names(disk)) <= {"a", "b", "c", "d"}


def test_the_operation_at_which_the_power_goes_may_have_been_done() -> None:
    seen = set()
    for seed in SEEDS:
        disk = SimulatedDisk(Random(seed))
        disk.operations_until_power_loss = 0
        with pytest.raises(PowerLoss):
            (disk.root / "a").mkdir()
        disk.crash_process()
        seen.add(names(disk))
    assert seen == {(), ("a",)}


# --- space ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_full_disk_takes_what_needs_no_space(by_flag: bool) -> None:
    disk = SimulatedDisk(Random(1), capacity_bytes=10_000)
    durable_file(disk, "a", bytes(9_000))
    disk.full = by_flag
    with pytest.raises(OSError, match="space") as caught:
        (disk.root / "b").write_bytes(bytes(2_000))
    assert caught.value.errno == errno.ENOSPC
    descriptor = simulated_os.open(disk.root / "a", simulated_os.O_RDWR)
    assert simulated_os.pwrite(descriptor, b"x" * 500, 0) == 500
    assert len((disk.root / "b").read_bytes()) == (0 if by_flag else 1_000)  # what fitted
    assert SimulatedShutil().disk_usage(disk.root).free == 0
    (disk.root / "a").unlink()
    (disk.root / "b").unlink()
    assert disk.used_bytes == 0
    disk.full = False
    (disk.root / "b").write_bytes(bytes(10_000))


def test_linked_bytes_count_once_until_the_last_name_goes() -> None:
    disk = SimulatedDisk(Random(1))
    path = durable_file(disk, "a", bytes(1000))
    simulated_os.link(path, disk.root / "b")
    assert disk.used_bytes == 1000
    path.unlink()
    assert disk.used_bytes == 1000
    (disk.root / "b").unlink()
    assert disk.used_bytes == 0


# --- the rest -----------------------------------------------------------------------------------------------


def test_a_flipped_bit_outlives_a_power_loss() -> None:
    for seed in SEEDS:
        disk = SimulatedDisk(Random(seed))
        content = bytes(range(1, 201))
        path = durable_file(disk, "CURRENT", content)
        descriptor = simulated_os.open(path, simulated_os.O_RDWR)
        simulated_os.pwrite(descriptor, content[50:150], 50)  # the same again, and not durable
        assert "CURRENT" in disk.flip_bit(Random(seed))
        for _ in range(2):
            differing = [a ^ b for a, b in zip(path.read_bytes(), content, strict=True) if a != b]
            assert len(differing) == 1
            assert differing[0].bit_count() == 1
            disk.lose_power()


def test_nothing_is_damaged_on_an_empty_disk() -> None:
    disk = SimulatedDisk(Random(1))
    assert disk.flip_bit(Random(1)) == disk.truncate_some(Random(1)) == ""


def test_a_wiped_disk_is_empty_and_durable() -> None:
    disk = SimulatedDisk(Random(1))
    durable_file(disk, "a", b"x")
    disk.wipe()
    disk.lose_power()
    assert disk.files() == {}
    assert disk.root.is_dir()


def test_paths_stay_on_their_disk() -> None:
    one, other = SimulatedDisk(Random(1)), SimulatedDisk(Random(2))
    (one.root / "a").mkdir()
    derived = (one.root / "a" / "b").parent.with_name("c").parent / "a"
    assert derived.exists()
    assert not (other.root / "a").exists()


def test_an_executor_that_runs_inline_keeps_errors_and_lets_a_power_loss_through() -> None:
    executor = InlineExecutor(1, "name")
    assert executor.submit(lambda: 5).result() == 5

    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(ValueError, match="no"):
        executor.submit(fail, ValueError("no")).result()
    with pytest.raises(PowerLoss):
        executor.submit(fail, PowerLoss())
