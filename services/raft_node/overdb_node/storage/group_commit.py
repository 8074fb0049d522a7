"""The log thread: everything that waits shares one frame and one fdatasync."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from overdb_node.raft.types import Entry, HardState
from overdb_node.storage.log import DurableLog


@dataclass(frozen=True, slots=True)
class PersistRequest:
    """To be on disk. ``token`` comes back when it is; tokens grow from request to request."""

    hard_state: HardState | None
    entries: list[Entry]
    token: int


@dataclass(frozen=True, slots=True)
class _Job:
    """Work that must keep its place among the requests: installing, compacting."""

    run: Callable[[], object]
    done: Callable[[object], None]


Notify = Callable[[int, float, int, int], None]


class GroupCommit:
    """Owns the log while it runs. Callbacks are called in the log thread.

    ``notify(token, seconds, requests, bytes)`` follows each fdatasync: everything up to ``token`` is on
    disk. ``on_failure`` is called once; nothing is written or notified after it.
    """

    def __init__(
        self,
        log: Callable[[], DurableLog],
        notify: Notify,
        on_failure: Callable[[Exception], None],
    ) -> None:
        """``log`` returns the log to append to: installing a snapshot may put another in its place."""
        self._log = log
        self._notify = notify
        self._on_failure = on_failure
        self._queue: SimpleQueue[PersistRequest | _Job | None] = SimpleQueue()
        self._queued_bytes = 0
        self._taken_bytes = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def queued_bytes(self) -> int:
        """Payload that waits. Raft bounds it: what is not durable counts as uncommitted or in flight."""
        return self._queued_bytes - self._taken_bytes

    def submit(self, request: PersistRequest) -> None:
        self._queued_bytes += sum(len(entry.payload) for entry in request.entries)
        self._queue.put(request)

    def submit_job(self, run: Callable[[], object], done: Callable[[object], None]) -> None:
        """Run something behind all requests so far and before all later ones, then ``done(result)``."""
        self._queue.put(_Job(run, done))

    def close(self) -> None:
        """Write what waits, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # whatever it is, the replica must stop
            self._on_failure(error)

    def _turn(self) -> bool:
        """Take everything that waits; write the requests before a job as one frame."""
        queue = self._queue
        item = queue.get()
        requests: list[PersistRequest] = []
        while True:
            if not isinstance(item, PersistRequest):
                self._write(requests)
                if item is None:
                    return False
                item.done(item.run())
                return True
            requests.append(item)
            if queue.empty():
                self._write(requests)
                return True
            item = queue.get()

    def _write(self, requests: list[PersistRequest]) -> None:
        if not requests:
            return
        hard_state = next((r.hard_state for r in reversed(requests) if r.hard_state), None)
        entries = [entry for request in requests for entry in request.entries]
        start = time.monotonic()
        size = self._log().append(hard_state, entries)
        seconds = time.monotonic() - start
        self._taken_bytes += sum(len(entry.payload) for entry in entries)
        self._notify(requests[-1].token, seconds, len(requests), size)
