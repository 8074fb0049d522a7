"""Reads entries of the log back from disk for followers that lag, in a thread of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from overdb_node.raft.output import Fetch
from overdb_node.raft.types import Entry
from overdb_node.storage.errors import UnreadableEntries

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()


class EntryReader:
    """Answers the core's fetches. Neither the snapshot thread nor the log thread does it: the one may be busy
    for seconds with a checkpoint, and everybody waits for the other."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "log-reads")

    async def close(self) -> None:
        await self._loop.run_in_executor(None, self._thread.shutdown)

    def fetch(self, fetch: Fetch) -> None:
        storage = self._replica.storage

        def read() -> list[Entry]:
            return storage.read_entries(fetch.first, fetch.last, fetch.bytes_max)

        def finished(future: Future[list[Entry]]) -> None:
            self._loop.call_soon_threadsafe(self._fetched, fetch, future)

        self._thread.submit(read).add_done_callback(finished)

    def _fetched(self, fetch: Fetch, future: Future[list[Entry]]) -> None:
        replica = self._replica
        if replica.failed:
            return
        error = future.exception()
        if error is not None and not isinstance(error, UnreadableEntries):
            replica.fatal(f"{type(error).__name__}: {error}")
            return
        try:
            if error is not None and fetch.first > replica.raft.log.first_index:
                _log.error("log_unreadable", replica=fetch.to, reason=str(error))
                replica.snapshotting.take_soon()  # the follower gets a snapshot instead
            replica.raft.fetched(fetch, () if error is not None else future.result())
        except Exception as violation:
            replica.fatal(f"{type(violation).__name__}: {violation}")
            return
        replica.schedule_turn()
