"""The log thread: everything that waits shares one frame and one fdatasync."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from overdb_node.raft.types import Entry, HardState
from overdb_node.storage.errors import NoSpace, means_no_space
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
RETRY_SECONDS = 0.5  # between two attempts while the disk has no room


class GroupCommit:
    """Owns the log while it runs. Callbacks are called in the log thread.

    ``notify(token, seconds, requests, bytes)`` follows each fdatasync: everything up to ``token`` is on
    disk. ``on_failure`` is called once; nothing is written or notified after it.

    While the disk has no room, requests and jobs wait in their order, and are tried again until it has.
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
        self._requests: list[PersistRequest] = []  # taken from the queue and not yet on disk
        self._job: _Job | None = None  # taken, and to be run behind those
        self._closing = threading.Event()
        self.no_space = ""  # why nothing can be written now; empty: nothing waits for room
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
        """Write what waits, if there is room for it, then end."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._step():
                if self.no_space and self._closing.wait(RETRY_SECONDS):
                    return  # what waits was acknowledged to nobody
        except Exception as error:  # whatever it is, the replica must stop
            self._on_failure(error)

    def _step(self) -> bool:
        """Do a turn, or note in ``no_space`` why the next step has to do it. False: the end."""
        try:
            goes_on = self._turn()
        except NoSpace as error:
            self.no_space = str(error)
            return True
        self.no_space = ""
        return goes_on

    def _turn(self) -> bool:
        """Take everything that waits; write the requests before a job as one frame.

        Raises NoSpace; what was taken then waits, and the next turn begins with it.
        """
        ends = self._job is None and self._gather()
        self._write()
        if self._job is not None:
            job = self._job
            try:
                result = job.run()
            except Exception as error:
                if means_no_space(error):  # a job leaves things as they were, or can be run again
                    raise NoSpace(str(error)) from error
                raise
            self._job = None
            job.done(result)
        return not ends

    def _gather(self) -> bool:
        """Take requests up to the next job or, if there is none, all. Wait for one. True: the end."""
        queue = self._queue
        while not (self._requests and queue.empty()):
            item = queue.get()
            if item is None:
                return True
            if not isinstance(item, PersistRequest):
                self._job = item
                return False
            self._requests.append(item)
        return False

    def _write(self) -> None:
        requests = self._requests
        if not requests:
            return
        hard_state = next((r.hard_state for r in reversed(requests) if r.hard_state), None)
        entries = [entry for request in requests for entry in request.entries]
        start = time.monotonic()
        size = self._log().append(hard_state, entries)
        seconds = time.monotonic() - start
        self._requests = []
        self._taken_bytes += sum(len(entry.payload) for entry in entries)
        self._notify(requests[-1].token, seconds, len(requests), size)
