"""Entries are read back in a thread of their own, and what cannot be read is said (PROTOCOL 1.2)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from overdb_node.entry_reader import EntryReader
from overdb_node.raft.output import Fetch
from overdb_node.raft.types import Entry, EntryKind
from overdb_node.storage.errors import UnreadableEntries

ENTRIES = [Entry(index, 1, EntryKind.COMMANDS, b"x") for index in range(3, 6)]
FETCH = Fetch(2, 1, 3, 5, 1000)


class Setup:
    """A replica whose storage answers as ``read`` says."""

    def __init__(self, read: Callable[[], list[Entry]]) -> None:
        self.fetched: list[tuple[Fetch, list[Entry]]] = []
        self.fatal: list[str] = []
        self.snapshots = self.turns = 0
        self.thread: threading.Thread | None = None
        self.woken = asyncio.Event()
        replica: Any = SimpleNamespace(
            failed=False,
            storage=SimpleNamespace(read_entries=self._read),
            raft=SimpleNamespace(log=SimpleNamespace(first_index=0), fetched=self._fetched),
            snapshotting=SimpleNamespace(take_soon=self._take_soon),
            schedule_turn=self._schedule_turn,
            fatal=self._fatal,
        )
        self.read = read
        self.asked: list[tuple[int, int, int]] = []
        self.replica = replica
        self.reader = EntryReader(replica)

    def _read(self, *asked: int) -> list[Entry]:
        self.asked.append(asked)  # type: ignore[arg-type]
        self.thread = threading.current_thread()
        return self.read()

    def _fetched(self, fetch: Fetch, entries: Any) -> None:
        self.fetched.append((fetch, list(entries)))

    def _take_soon(self) -> None:
        self.snapshots += 1

    def _schedule_turn(self) -> None:
        self.turns += 1
        self.woken.set()

    def _fatal(self, reason: str) -> None:
        self.fatal.append(reason)
        self.woken.set()


def run(read: Callable[[], list[Entry]], scenario: Callable[[Setup], Awaitable[None]]) -> Setup:
    async def inside() -> Setup:
        setup = Setup(read)
        await scenario(setup)
        await setup.reader.close()
        await asyncio.sleep(0)  # what the thread has left for the loop
        return setup

    return asyncio.run(asyncio.wait_for(inside(), 10))


async def fetch_one(setup: Setup) -> None:
    setup.reader.fetch(FETCH)
    await setup.woken.wait()


def unreadable() -> list[Entry]:
    raise UnreadableEntries("entry 3 cannot be read from the log's segments")


def test_what_was_read_goes_to_the_core() -> None:
    setup = run(lambda: ENTRIES, fetch_one)
    assert setup.asked == [(3, 5, 1000)]
    assert setup.fetched == [(FETCH, ENTRIES)]
    assert setup.turns == 1
    assert setup.thread is not threading.main_thread()


def test_what_cannot_be_read_is_told_and_a_snapshot_takes_its_place() -> None:
    setup = run(unreadable, fetch_one)
    assert setup.fetched == [(FETCH, [])]
    assert setup.snapshots == 1
    assert not setup.fatal


def test_what_was_compacted_meanwhile_needs_no_snapshot() -> None:
    async def compacted(setup: Setup) -> None:
        setup.replica.raft.log.first_index = FETCH.first
        await fetch_one(setup)

    setup = run(unreadable, compacted)
    assert setup.fetched == [(FETCH, [])]
    assert setup.snapshots == 0


def test_any_other_error_ends_the_replica() -> None:
    def fail() -> list[Entry]:
        raise ValueError("no such thing")

    setup = run(fail, fetch_one)
    assert setup.fatal == ["ValueError: no such thing"]
    assert not setup.fetched


def test_a_core_that_contradicts_ends_the_replica() -> None:
    async def contradicted(setup: Setup) -> None:
        def fetched(*_: object) -> None:
            raise AssertionError("entry 3 differs")

        setup.replica.raft.fetched = fetched
        await fetch_one(setup)

    assert run(lambda: ENTRIES, contradicted).fatal == ["AssertionError: entry 3 differs"]


def test_a_replica_that_has_failed_is_told_nothing() -> None:
    async def failed(setup: Setup) -> None:
        setup.replica.failed = True
        setup.reader.fetch(FETCH)

    setup = run(lambda: ENTRIES, failed)
    assert setup.asked
    assert not setup.fetched
    assert not setup.turns
