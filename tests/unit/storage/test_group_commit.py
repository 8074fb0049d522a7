"""Group commit: everything that waits shares one frame and one fdatasync (DESIGN 4)."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overdb_node.raft.types import HardState
from overdb_node.storage.errors import NoSpace, StorageFailure
from overdb_node.storage.group_commit import GroupCommit, PersistRequest
from overdb_node.storage.log import DurableLog
from tests.unit.storage.log_files import SyncCounter, entries, entry, reopen

SEGMENT_BYTES = 1 << 20
SECONDS_MAX = 10.0  # for a condition that is met in milliseconds


class Waiting:
    """What the log thread reported, and a way to wait for it."""

    def __init__(self) -> None:
        self.notified: list[tuple[int, float, int, int]] = []
        self.failures: list[Exception] = []
        self._changed = threading.Condition()

    def notify(self, token: int, seconds: float, requests: int, size: int) -> None:
        with self._changed:
            self.notified.append((token, seconds, requests, size))
            self._changed.notify_all()

    def failed(self, error: Exception) -> None:
        with self._changed:
            self.failures.append(error)
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, SECONDS_MAX), (self.notified, self.failures)

    def until_token(self, token: int) -> None:
        self.until(lambda: bool(self.notified) and self.notified[-1][0] >= token)


class Gate:
    """Holds the log thread in a job until it is opened, so that requests pile up behind it."""

    def __init__(self, writer: GroupCommit) -> None:
        self._open, entered = threading.Event(), threading.Event()

        def wait() -> None:
            entered.set()
            assert self._open.wait(SECONDS_MAX)

        writer.submit_job(wait, lambda _: None)
        assert entered.wait(SECONDS_MAX)

    def open(self) -> None:
        self._open.set()


class Bench:
    """A log with its thread, and what it reported."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = DurableLog.create(directory, HardState(), SEGMENT_BYTES)
        self.waiting = Waiting()
        self.writer = GroupCommit(lambda: self.log, self.waiting.notify, self.waiting.failed)

    def put(self, index: int, hard_state: HardState | None = None) -> None:
        self.writer.submit(PersistRequest(hard_state, [entry(index)], index))

    def close(self) -> None:
        self.writer.close()
        self.log.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "log-1")
    yield bench
    bench.close()


def test_256_waiting_requests_share_one_fdatasync(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put(1)  # makes the first segment
    bench.waiting.until_token(1)
    syncs = SyncCounter(monkeypatch)
    gate = Gate(bench.writer)
    for index in range(2, 258):
        bench.put(index)
    assert bench.writer.queued_bytes > 0
    gate.open()
    bench.waiting.until_token(257)
    assert syncs.count == 1
    token, seconds, requests, size = bench.waiting.notified[-1]
    assert (token, requests) == (257, 256)
    assert seconds > 0
    assert size > 256 * len(entry(2).payload)
    assert bench.writer.queued_bytes == 0
    bench.close()
    assert reopen(bench.directory, 0, SEGMENT_BYTES)[1] == entries(1, 257)


def test_a_single_put_waits_for_one_fdatasync(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted when it is notified, not by the clock: how long a disk and a thread take is theirs."""
    bench.put(1)  # makes the first segment
    bench.waiting.until_token(1)
    syncs = SyncCounter(monkeypatch)
    for index in range(2, 202):
        bench.put(index)
        bench.waiting.until_token(index)
        assert syncs.count == index - 1
    assert [n[2] for n in bench.waiting.notified] == [1] * 201, "each put had a frame of its own"


def test_a_request_is_notified_only_when_it_is_on_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL 1.0. The fdatasync is held: nothing may be reported meanwhile."""
    bench.put(1)
    bench.waiting.until_token(1)
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert release.wait(SECONDS_MAX)

    SyncCounter(monkeypatch).before = hold
    bench.put(2)
    assert inside.wait(SECONDS_MAX)
    assert [n[0] for n in bench.waiting.notified] == [1]
    release.set()
    bench.waiting.until_token(2)


def test_what_arrives_during_an_fdatasync_shares_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put(1)
    bench.waiting.until_token(1)
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert release.wait(SECONDS_MAX)

    syncs = SyncCounter(monkeypatch)
    syncs.before = hold
    bench.put(2)
    assert inside.wait(SECONDS_MAX)
    for index in range(3, 11):
        bench.put(index)
    release.set()
    bench.waiting.until_token(10)
    assert [(n[0], n[2]) for n in bench.waiting.notified] == [(1, 1), (2, 1), (10, 8)]
    assert syncs.count == 2


def test_the_newest_hard_state_of_a_frame_counts_and_none_never_hides_one(bench: Bench) -> None:
    gate = Gate(bench.writer)
    bench.put(1, HardState(1, 1, 0))
    bench.put(2, HardState(2, 3, 1))
    bench.put(3)
    gate.open()
    bench.waiting.until_token(3)
    bench.close()
    assert reopen(bench.directory, 0, SEGMENT_BYTES) == (HardState(2, 3, 1), entries(1, 3))


def test_a_cut_among_waiting_requests_keeps_their_order(bench: Bench) -> None:
    gate = Gate(bench.writer)
    bench.writer.submit(PersistRequest(HardState(1), entries(1, 3), 1))
    bench.writer.submit(PersistRequest(HardState(2), entries(2, 2, term=2), 2))
    gate.open()
    bench.waiting.until_token(2)
    assert bench.waiting.notified[-1][2] == 2
    bench.close()
    assert reopen(bench.directory, 0, SEGMENT_BYTES)[1] == [entry(1), entry(2, 2)]


def test_a_job_runs_behind_what_was_submitted_before_and_ahead_of_the_rest(bench: Bench) -> None:
    gate = Gate(bench.writer)
    seen: list[tuple[str, object]] = []

    def job(name: str) -> Callable[[], object]:
        def run() -> object:
            seen.append((name, [n[0] for n in bench.waiting.notified]))
            return name

        return run

    bench.put(1)
    bench.put(2)
    bench.writer.submit_job(job("first"), lambda result: seen.append(("done", result)))
    bench.writer.submit_job(job("second"), lambda result: seen.append(("done", result)))
    bench.put(3)
    gate.open()
    bench.waiting.until_token(3)
    assert seen == [("first", [2]), ("done", "first"), ("second", [2]), ("done", "second")]
    assert [(n[0], n[2]) for n in bench.waiting.notified] == [(2, 2), (3, 1)]


def test_a_job_may_put_another_log_in_place(bench: Bench, tmp_path: Path) -> None:
    """Installing a snapshot: what comes after the job goes to the new generation."""
    old = bench.log

    def switch() -> None:
        bench.log = DurableLog.create(tmp_path / "log-2", HardState(4), SEGMENT_BYTES)

    bench.put(1)
    bench.writer.submit_job(switch, lambda _: None)
    bench.put(2)
    bench.waiting.until_token(2)
    bench.close()
    old.close()
    assert reopen(tmp_path / "log-1", 0, SEGMENT_BYTES)[1] == [entry(1)]
    assert reopen(tmp_path / "log-2", 1, SEGMENT_BYTES) == (HardState(4), [entry(2)])


def test_a_failed_fdatasync_stops_everything_and_is_reported_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 32: nothing is notified, retried or run behind it."""
    bench.put(1)
    bench.waiting.until_token(1)
    syncs = SyncCounter(monkeypatch)
    syncs.error = OSError(errno.EIO, "Input/output error")
    ran: list[str] = []
    gate = Gate(bench.writer)
    bench.put(2)
    bench.writer.submit_job(lambda: ran.append("job"), lambda _: ran.append("done"))
    bench.put(3)
    gate.open()
    bench.waiting.until(lambda: bool(bench.waiting.failures))
    syncs.error = None
    bench.put(4)
    bench.writer.close()  # the thread has ended: nothing can follow
    assert [type(f) for f in bench.waiting.failures] == [StorageFailure]
    assert [n[0] for n in bench.waiting.notified] == [1]
    assert (syncs.count, ran) == (1, [])


def test_a_job_that_fails_stops_everything(bench: Bench) -> None:
    done: list[object] = []

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    bench.writer.submit_job(fail, done.append)
    bench.put(1)
    bench.waiting.until(lambda: bool(bench.waiting.failures))
    bench.writer.close()
    assert (len(bench.waiting.failures), bench.waiting.notified, done) == (1, [], [])


def test_close_writes_what_waits(bench: Bench) -> None:
    gate = Gate(bench.writer)
    for index in range(1, 6):
        bench.put(index)
    gate.open()
    bench.close()
    assert bench.waiting.notified[-1][0] == 5
    assert reopen(bench.directory, 0, SEGMENT_BYTES)[1] == entries(1, 5)


# --- a disk without room --------------------------------------------------------------------------


class Full:
    """Makes appends fail for want of room until it is told that there is some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self.attempts = 0
        append = DurableLog.append

        def attempt(log: DurableLog, *request: object) -> int:
            self.attempts += 1
            if self.full:
                raise NoSpace("the log: No space left on device")
            return append(log, *request)  # type: ignore[arg-type]

        monkeypatch.setattr(DurableLog, "append", attempt)
        monkeypatch.setattr("overdb_node.storage.group_commit.RETRY_SECONDS", 0.01)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_requests_and_jobs_wait_in_their_order_for_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 84: nothing is acknowledged before it is on disk, and no restart is needed."""
    disk, seen = Full(monkeypatch), []
    bench.put(1)
    until(lambda: disk.attempts > 1)
    assert "No space left" in bench.writer.no_space
    bench.writer.submit_job(lambda: seen.append(list(bench.waiting.notified)), lambda _: None)
    bench.put(2)
    until(lambda: disk.attempts > 3)
    assert not bench.waiting.notified
    assert not seen
    disk.full = False
    bench.waiting.until_token(2)
    assert [token for token, *_ in seen[0]] == [1]
    assert bench.writer.no_space == ""
    assert not bench.waiting.failures


def test_a_job_without_room_is_run_again_before_anything_behind_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overdb_node.storage.group_commit.RETRY_SECONDS", 0.01)
    runs, done = [], []

    def job() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    bench.writer.submit_job(job, lambda _: done.append(list(bench.waiting.notified)))
    bench.put(1)
    bench.waiting.until_token(1)
    assert len(runs) == 3
    assert done == [[]]


def test_closing_does_not_wait_for_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Full(monkeypatch)
    bench.put(1)
    until(lambda: disk.attempts)
    bench.writer.close()
    assert not bench.waiting.notified
    assert not bench.waiting.failures
