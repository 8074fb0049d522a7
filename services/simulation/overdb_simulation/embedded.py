"""A simulated cluster inside a process that does other things too: in a thread, at the real clock's pace.

Code of simulated processes meets the simulated world; everybody else in this Python process goes on meeting
the real one: clocks, files, gRPC, randomness and logs are replaced for the former alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from random import Random
from typing import Any, TypeVar

import grpc
import structlog

import overdb._call
import overdb._tries
import overdb.ids
import overdb.transaction
from overdb_router.coordinator import Coordinator
from overdb_simulation.cluster import Cluster
from overdb_simulation.loop import current_process
from overdb_simulation.network import Weather
from overdb_simulation.substitutes import Substitution, World, substitutions

T = TypeVar("T")

# Links and disks as quick as they can be: what is waited for is work, not weather.
QUICK = Weather(latency=0.00005, jitter=0.00005)
DISK_SECONDS = 0.0002
IDLE_SECONDS_MAX = 0.05
STEP_SECONDS = 0.02  # of virtual time, between two looks at what is waited for
START_LAG_NS = (
    5 * 10**9
)  # the wall clock is not ahead of the real one while virtual time runs ahead
TIMELINE_MAX = 20_000  # entries
_CLIENTS = (overdb._call, overdb._tries, overdb.transaction, overdb.ids.ClientIds.__init__)
_open = threading.Lock()  # what is replaced is replaced for the whole process


class Embedded:
    """Runs ``cluster`` in a thread of its own until ``close``. Other threads ask it by ``call``."""

    def __init__(self, seed: int, **shape: Any) -> None:
        """Raises RuntimeError when there is one in this process already."""
        if not _open.acquire(blocking=False):
            raise RuntimeError(
                "there is a cluster in this process already: close that one first, or use it here too"
            )
        try:
            self._begin(seed, shape)
        except BaseException:
            _open.release()
            raise

    def _begin(self, seed: int, shape: dict[str, Any]) -> None:
        self.world = world = World(seed)
        world.network.weather = QUICK
        self._set_wall(time.time_ns() - START_LAG_NS)
        self.cluster = Cluster(world, **shape)
        self._posted: deque[Callable[[], object]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._replaced = contextlib.ExitStack()
        self._replaced.enter_context(_replaced_for_simulated_code(world))
        self._thread = threading.Thread(target=self._run, name="overdb-cluster", daemon=True)

    # --- for its owner ------------------------------------------------------------------------------

    def start(self, ready: Callable[[], bool], virtual_seconds_max: float) -> bool:
        """Start everything, run ahead of time until ready, then at time's pace; whether it got ready."""
        self.cluster.start()
        done = self._run_ahead(ready, virtual_seconds_max)
        self._thread.start()
        return done

    def call(self, function: Callable[[], T], seconds_max: float = 60.0) -> T:
        """Run a function between two callbacks of the loop; return or raise what it does."""
        if self._closing:
            raise RuntimeError("the cluster is closed")
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.post(run)
        return future.result(seconds_max)

    def post(self, function: Callable[[], object]) -> None:
        """Have a function run in the loop's thread, soon."""
        self._posted.append(function)
        self._wake.set()

    def run_ahead_until(self, condition: Callable[[], bool], virtual_seconds_max: float) -> bool:
        """Let virtual time run as fast as it goes until something is so; whether it came to be."""
        return self.call(lambda: self._run_ahead(condition, virtual_seconds_max))

    def close(self) -> None:
        """End it, and give everybody the real world back."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        for node in self.cluster.nodes:
            node.disk.off = True
        self.world.loop.end()
        self._replaced.close()
        _open.release()

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            self._run_posted()
            loop = self.world.loop
            loop.run_until(self._virtual_now())
            if len(self.world.timeline) > TIMELINE_MAX:
                del self.world.timeline[: TIMELINE_MAX // 2]
            if not self._posted:
                due = loop.next_due()
                self._wake.wait(min(IDLE_SECONDS_MAX, max(0.0, due - self._virtual_now())))

    def _run_posted(self) -> None:
        while self._posted:
            try:
                self._posted.popleft()()
            except Exception as error:  # nobody waits for it, and the cluster goes on
                self.world.note("-", "failed", problem=repr(error))

    def _virtual_now(self) -> float:
        return self._virtual_began + time.monotonic() - self._real_began

    def _run_ahead(self, condition: Callable[[], bool], virtual_seconds_max: float) -> bool:
        loop = self.world.loop
        end = loop.time() + virtual_seconds_max
        while not (done := condition()) and loop.time() < end:
            loop.run_for(STEP_SECONDS)
        self._virtual_began, self._real_began = loop.time(), time.monotonic()
        self._set_wall(time.time_ns())
        return done

    def _set_wall(self, wall_ns: int) -> None:
        self.world.wall_at_start_ns = wall_ns - int(self.world.loop.time() * 1e9)


@contextlib.contextmanager
def _replaced_for_simulated_code(world: World) -> Iterator[None]:
    chosen = [
        (where, name, _only_inside(getattr(where, name), instead) if where is grpc.aio else instead)
        for where, name, instead in substitutions(world, lambda: DISK_SECONDS)
        if not any(where is client for client in _CLIENTS)
    ]
    # Elsewhere the module's own generator is seeded; here others draw from it too.
    jitter = Random(world.random.getrandbits(64)).random
    chosen.append((Coordinator.__init__, "__defaults__", (jitter,)))
    before: list[Substitution] = []
    config = structlog.get_config()
    divert = _diverting(world)
    try:
        for where, name, instead in chosen:
            before.append((where, name, getattr(where, name)))
            setattr(where, name, instead)
        structlog.configure(processors=[divert, *config["processors"]])
        yield
    finally:
        present = structlog.get_config()["processors"]
        structlog.configure(processors=[p for p in present if p is not divert])
        for where, name, value in reversed(before):
            setattr(where, name, value)


def _only_inside(real: Any, simulated: Any) -> Callable[..., Any]:
    """The one for code of simulated processes, the other for all else."""

    def choose(*args: Any, **kwargs: Any) -> Any:
        return (real if current_process() is None else simulated)(*args, **kwargs)

    return choose


def _diverting(world: World) -> Callable[[Any, str, Any], Any]:
    """A structlog processor: lines of simulated processes go to the timeline, and to nobody else."""

    def divert(logger: Any, level: str, event: Any) -> Any:
        if current_process() is None:
            return event
        return world.log_line(logger, level, event)

    return divert
