"""What production code meets in the simulator instead of the real world, and nothing else.

Every file of client, router and replica runs as it is. Replaced are names in their modules: clocks,
sources of randomness, threads, gRPC's channels and servers, and the operating system's files
(``disk_substitutes``). The list below is complete; it is put in place for a run and taken back after it.
"""

from __future__ import annotations

import contextlib
import random as standard_random
import threading
import types
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import Future as ThreadFuture
from random import Random
from typing import Any

import grpc
import structlog

import overdb._batch
import overdb._call
import overdb._endpoints
import overdb._tries
import overdb.ids
import overdb.transaction
import overdb_common.serving
import overdb_node.applying
import overdb_node.comparing
import overdb_node.entry_reader
import overdb_node.reclaiming
import overdb_node.replica
import overdb_node.snapshotting
import overdb_node.storage.founding
import overdb_node.storage.group_commit
import overdb_node.sweeping
import overdb_node.timekeeping
import overdb_node.transport.peers
import overdb_router.clock
import overdb_router.expired
import overdb_router.ids
import overdb_router.kv_service
import overdb_router.router
from overdb_node.storage import group_commit
from overdb_node.storage.group_commit import GroupCommit
from overdb_simulation import disk_substitutes
from overdb_simulation.loop import Process, VirtualLoop, current_process, run_thread_work
from overdb_simulation.network import Network, SimulatedPeer

SEGMENT_BYTES = 64 << 10
LONG_APPLY_PROBABILITY = 0.03  # of an entry
LONG_APPLY_SECONDS = 0.006  # more than a slice may take
WALL_AT_START_NS = 1_790_000_000 * 10**9
Substitution = tuple[object, str, object]


class World:
    """The surroundings of all processes of one run."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # the one source of randomness
        self.loop = VirtualLoop()  # type: ignore[abstract]  # what nobody calls is left out
        self.network = Network(self.loop, Random(self.random.getrandbits(64)))
        self.timeline: list[tuple[float, str, str, dict[str, Any]]] = []
        self.wall_at_start_ns = WALL_AT_START_NS  # when the loop's time was 0
        self.sleeps = 0  # of all machines together
        self._slept_us = 0  # of the clock that counts while machines sleep

    # --- clocks -----------------------------------------------------------------------------------

    def wall_ns(self) -> int:
        """The wall clock of the process that asks: it may have jumped, and drift."""
        seconds = self.loop.time()
        wall = self.wall_at_start_ns + int(seconds * 1e9)
        process = current_process()
        if process is not None:
            drifted = process.clock_drift * (seconds - process.drift_since)
            wall += process.clock_offset_ns + int(drifted * 1e9)
        return wall

    def elapsed_us(self) -> int:
        """The clock that nobody sets, of the process that asks. It runs on while a process is paused."""
        return self.elapsed_us_of(current_process())

    def elapsed_us_of(self, process: Process | None) -> int:
        """That clock of any process."""
        rate = process.clock_rate if process is not None else 1.0
        return int(self.loop.time() * 1e6 * rate) + self._slept_us

    def sleep_through(self, seconds: float, *, counted: bool) -> None:
        """All machines were suspended together: wall clocks are right afterwards, monotonic ones stood still.

        ``counted``: the clock that counts while a machine sleeps did so. That of a virtual machine does not.
        """
        self.sleeps += 1
        self.wall_at_start_ns += int(seconds * 1e9)
        if counted:
            self._slept_us += int(seconds * 1e6)

    def time_module(self) -> types.SimpleNamespace:
        """Stands for the module ``time``."""
        return types.SimpleNamespace(
            time_ns=self.wall_ns,
            time=lambda: self.wall_ns() / 1e9,
            monotonic=self.loop.time,
            perf_counter=self.loop.time,
            sleep=lambda _: None,  # a thread's work is one moment
        )

    def applying_time(self) -> types.SimpleNamespace:
        """Stands for ``time`` where entries are applied: now and then that takes long (a slice ends), and
        the process is busy for as long."""

        def monotonic() -> float:
            now, process = self.loop.time(), current_process()
            if process is None or self.random.random() > LONG_APPLY_PROBABILITY:
                return now
            self.loop.work(process, LONG_APPLY_SECONDS)
            return now + LONG_APPLY_SECONDS

        return types.SimpleNamespace(monotonic=monotonic)

    def random_bytes(self, count: int) -> bytes:
        return self.random.randbytes(count)

    # --- what happened ----------------------------------------------------------------------------

    def note(self, who: str, event: str, **details: Any) -> None:
        self.timeline.append((self.loop.time(), who, event, details))

    def log_line(self, _: object, level: str, event: MutableMapping[str, Any]) -> Any:
        """Stands at the end of structlog's processors."""
        process = current_process()
        name = event.pop("event", "")
        event["level"] = level
        self.note(process.name if process else "-", name, **event)
        raise structlog.DropEvent


class LogThread(GroupCommit):
    """The log thread: its very code, run by the loop, as late as the disk is slow."""

    world: World
    seconds: Callable[[], float]  # that the disk of the running process takes now

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy = False

    def submit(self, request: Any) -> None:
        super().submit(request)
        self._wake()

    def submit_job(self, run: Callable[[], object], done: Callable[[object], None]) -> None:
        super().submit_job(run, done)
        self._wake()

    def close(self) -> None:
        self._queue.put(None)
        with contextlib.suppress(Exception):
            while self._turn():
                pass

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self.world.loop.call_later(type(self).seconds(), self._work)

    def _work(self) -> None:
        self._busy = False
        try:
            self._step()
        except Exception as error:
            self._on_failure(error)
            self._busy = True  # nothing is written any more
            return
        if self.no_space:
            self._busy = True
            self.world.loop.call_later(group_commit.RETRY_SECONDS, self._work)
        elif not self._queue.empty():
            self._wake()


class _NoThread:
    """Stands for ``threading.Thread``: the loop does its work."""

    def __init__(self, **_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def join(self) -> None:
        pass


_NO_THREADS = types.SimpleNamespace(Thread=_NoThread, Event=threading.Event)


class Worker:
    """Stands for a ThreadPoolExecutor of one thread: in order, a little later."""

    world: World

    def __init__(self, *_: object) -> None:
        self._last = 0.0

    def submit(self, work: Callable[[], Any]) -> ThreadFuture[Any]:
        loop = self.world.loop
        future: ThreadFuture[Any] = ThreadFuture()
        self._last = at = max(self._last, loop.time() + 0.001 + LogThread.seconds())

        def run() -> None:
            done = run_thread_work(work)
            if done.exception() is not None:
                future.set_exception(done.exception())
            else:
                future.set_result(done.result())

        loop.call_at(at, run)
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        pass


def _nothing(*_: object) -> None:
    """Simulated clients hold nothing that a fork would break."""


async def _nothing_to_wait_for() -> None:
    """Simulated channels hold no calls of gRPC's."""


def _seeded(world: World) -> Callable[[], Random]:
    return lambda: Random(world.random.getrandbits(64))


def substitutions(world: World, disk_seconds: Callable[[], float]) -> list[Substitution]:
    """(where, name, instead)."""
    time = world.time_module()
    log_thread = type(
        "SimulatedLogThread", (LogThread,), {"world": world, "seconds": staticmethod(disk_seconds)}
    )
    LogThread.seconds = staticmethod(disk_seconds)
    worker = type("SimulatedWorker", (Worker,), {"world": world})

    def peer(own: Any, member: Any, own_address: Callable[[], str]) -> SimulatedPeer:
        return SimulatedPeer(world.network, own, member, own_address)

    secrets = types.SimpleNamespace(randbits=world.random.getrandbits)
    client_ids = {
        "monotonic": world.loop.time,
        "wall_ms": lambda: world.wall_ns() // 1_000_000,
        "random": world.random_bytes,
    }
    old = overdb.ids.ClientIds.__init__.__kwdefaults__ or {}
    return [
        (grpc.aio, "insecure_channel", world.network.channel),
        (overdb._batch, "_forks", types.SimpleNamespace(add=_nothing, remove=_nothing)),
        (overdb._endpoints, "_forks", types.SimpleNamespace(calls_ended=_nothing_to_wait_for)),
        (grpc.aio, "server", world.network.server),
        (overdb_common.serving, "probe_port", lambda *_: None),
        (overdb_node.transport.peers, "Peer", peer),
        (overdb_node.replica, "GroupCommit", log_thread),
        (overdb_node.replica, "elapsed_us", world.elapsed_us),
        (overdb_node.timekeeping, "elapsed_us", world.elapsed_us),
        (overdb_node.replica, "Random", _seeded(world)),
        (overdb_node.storage.group_commit, "threading", _NO_THREADS),
        (overdb_node.snapshotting, "ThreadPoolExecutor", worker),
        (overdb_node.comparing, "ThreadPoolExecutor", worker),
        (overdb_node.entry_reader, "ThreadPoolExecutor", worker),
        (overdb_node.reclaiming, "ThreadPoolExecutor", worker),
        (overdb_node.storage.founding, "secrets", secrets),
        (overdb_node.applying, "time", world.applying_time()),
        *(
            (module, "time", time)
            for module in (
                overdb._batch,
                overdb._call,
                overdb._tries,
                overdb.transaction,
                overdb_node.comparing,
                overdb_node.storage.group_commit,
                overdb_node.sweeping,
                overdb_node.timekeeping,
                overdb_router.expired,
                overdb_router.clock,
                overdb_router.kv_service,
            )
        ),
        (
            overdb.ids.ClientIds.__init__,
            "__kwdefaults__",
            {**old, **{k: v for k, v in client_ids.items() if k in old}},
        ),
        (
            overdb_router.ids.RouterIds.__init__,
            "__defaults__",
            (world.wall_ns, world.random_bytes, lambda: int(world.loop.time() * 1e9)),
        ),
        *disk_substitutes.substitutions(SEGMENT_BYTES),
        (disk_substitutes.SimulatedOS, "random", Random(world.random.getrandbits(64))),
    ]


@contextlib.contextmanager
def substituted(world: World, disk_seconds: Callable[[], float]) -> Iterator[None]:
    """Put everything in place, and take it back."""
    state = standard_random.getstate()
    config = structlog.get_config()
    replaced = substitutions(world, disk_seconds)
    before = [(where, name, getattr(where, name)) for where, name, _ in replaced]
    for where, name, instead in replaced:
        setattr(where, name, instead)
    standard_random.seed(world.random.getrandbits(64))  # jitter of clients and routers
    structlog.configure(
        processors=[world.log_line],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**config)
        for where, name, value in reversed(before):
            setattr(where, name, value)
        standard_random.setstate(state)
