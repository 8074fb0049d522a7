"""One run: load and faults at once, then healing, convergence, a last look at everything, the checks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import overdb
from overdb.status import GroupMembers
from overdb_torture.clusters.base import Cluster, NotCarriedOut, Unusable
from overdb_torture.faults import Kind, plan_faults
from overdb_torture.injector import Injector
from overdb_torture.recorder import LeaderSample, Record, Recorder
from overdb_torture.verdict import load_shortfalls
from overdb_torture.workloads import WORKLOADS
from overdb_torture.workloads.base import Checked, Worker, Workload

SAMPLE_SECONDS = 0.5
LONGER_TIMES_MAX = 3.0  # as many times the seconds asked for, where the load was too small in these
CONVERGE_SECONDS_MAX = 60.0
REQUEST_SECONDS = 4.0
_CALM_REQUEST_SECONDS = 20.0
_FIRST_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """What the user chose."""

    seconds: float = 60.0
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    kinds: tuple[Kind, ...] = ()
    seed: int = 0
    clients: int = 12
    rate: float = 25.0  # steps a second of one client, at most
    report: Path | None = None
    clean_up: bool = True  # delete what was written


class Run:
    """One run on one cluster. ``tell`` gets a line for the user now and then."""

    def __init__(
        self,
        cluster: Cluster,
        options: Options,
        tell: Callable[[str], None],
        command: str = "",
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._tell = tell
        self.stop = asyncio.Event()  # set it to end the load early
        self.record = Record(
            cluster.description,
            options.seed,
            options.seconds,
            options.workloads,
            tuple(kind.value for kind in options.kinds),
            command,
        )
        history = None if options.report is None else options.report / "history.jsonl"
        self._recorder = Recorder(self.record, history)
        # A prefix of its own, so that runs on one cluster do not meet.
        prefix = b"torture/%d-%d/" % (time.time_ns() // 1_000_000, options.seed)
        self.workloads: list[Workload] = [WORKLOADS[name](prefix) for name in options.workloads]
        self._leaders: tuple[int, ...] = ()

    async def execute(self) -> None:
        """Run it; what happened is in ``record`` and ``workloads``. Raises Unusable."""
        clients = [
            overdb.Client(self._cluster.endpoints, timeout=REQUEST_SECONDS, direct=number % 2 == 1)
            for number in range(self._options.clients)
        ]
        calm = overdb.Client(self._cluster.endpoints, timeout=_CALM_REQUEST_SECONDS)
        try:
            groups = await self._first_look(calm)
            await self._open(self._worker(calm, "open"))
            await self._load(clients, calm, groups)
            await self._converge(calm)
            await self._last_look(self._worker(calm, "close"))
            if self._options.clean_up:
                await self._clean_up(calm)
        finally:
            await self._heal()
            self._recorder.close()
            await asyncio.gather(*(client.close() for client in [*clients, calm]))

    def check(self) -> list[Checked]:
        """Judge what was recorded. Takes a while, and no cluster."""
        return [workload.check() for workload in self.workloads]

    def _worker(self, client: overdb.Client, name: object) -> Worker:
        return Worker(client, Random(f"{self._options.seed}/{name}"), self._recorder)

    # --- before -----------------------------------------------------------------------------------

    async def _first_look(self, client: overdb.Client) -> int:
        """Return how many groups there are; all of them must serve."""
        try:
            status = await client.status(timeout=_FIRST_LOOK_SECONDS)
        except overdb.OverDBError as error:
            raise Unusable(f"{self._cluster.description} does not answer: {error}") from None
        if not status.serving:
            raise Unusable(f"{self._cluster.description} does not serve: see `overdb status`")
        self._leaders = tuple(group.leader_id for group in status.groups)
        return len(status.groups)

    async def _open(self, worker: Worker) -> None:
        try:
            for workload in self.workloads:
                await workload.open(worker)
        except overdb.OverDBError as error:
            raise Unusable(f"{self._cluster.description} takes no writes: {error}") from None

    # --- load and faults --------------------------------------------------------------------------

    async def _load(
        self, clients: Sequence[overdb.Client], calm: overdb.Client, groups: int
    ) -> None:
        options = self._options
        drawn = plan_faults(options.kinds, options.seconds, groups, options.seed)
        plan = [self._cluster.adapted(fault) for fault in drawn]
        injector = Injector(self._cluster, self._recorder, lambda: self._leaders)
        self._recorder.begin()
        over = asyncio.Event()
        tasks = [
            asyncio.create_task(self._work(self._worker(client, number), over))
            for number, client in enumerate(clients)
        ]
        watching = asyncio.create_task(self._watch(calm))
        faults = asyncio.create_task(injector.run(plan, options.seconds, self.stop))
        try:
            await self._wait(options.seconds, faults)
            self.record.interrupted = self.stop.is_set()
            self.stop.set()
            await faults
        finally:
            self.stop.set()
            await self._heal()
            over.set()
            self.record.seconds = self._recorder.now()
            await asyncio.gather(*tasks)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _wait(self, seconds: float, faults: asyncio.Task[None]) -> None:
        """Wait until the time is over, or until a stop or a failure of the fault task.

        On a machine with too much to do the load goes on without new faults until it means something.
        """
        told, most = 0.0, LONGER_TIMES_MAX * seconds
        while not self.stop.is_set():
            now = self._recorder.now()
            if now >= seconds and (now >= most or not load_shortfalls(self.record, seconds)):
                return
            if faults.done() and faults.exception() is not None:
                return
            if self._recorder.now() - told >= 10.0:
                told = self._recorder.now()
                done = sum(tally.ok for tally in self.record.tallies.values())
                self._tell(
                    f"{told:4.0f} s: {done} operations, {len(self.record.faults)} faults so far"
                )
            await asyncio.sleep(min(max(0.01, seconds - now), 0.1))

    async def _work(self, worker: Worker, over: asyncio.Event) -> None:
        period = 1.0 / self._options.rate
        loop = asyncio.get_running_loop()
        while not over.is_set():
            began = loop.time()
            await worker.random.choice(self.workloads).step(worker)
            rest = worker.random.uniform(0.5, 1.5) * period - (loop.time() - began)
            await asyncio.sleep(max(0.0, rest))

    async def _watch(self, client: overdb.Client) -> None:
        """Ask whom the router follows. (Its status waits for nodes that are silent; this does not.)"""
        while True:
            at, leaders = self._recorder.now(), (0,) * len(self._leaders)
            try:
                groups = await client.members(timeout=1.0)
            except overdb.OverDBError:
                pass
            else:
                leaders = leaders_of(groups, len(self._leaders))
                self._leaders = tuple(
                    new or old for new, old in zip(leaders, self._leaders, strict=True)
                )
            self.record.leaders.append(LeaderSample(at, leaders))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _heal(self) -> None:
        try:
            await self._cluster.heal()
        except NotCarriedOut as error:
            self._tell(f"Healing failed: {error}")

    # --- after ------------------------------------------------------------------------------------

    async def _converge(self, client: overdb.Client) -> None:
        """Everything is healed: all groups must serve, and all replicas have applied the same."""
        self._tell("Healed; waiting until everything is as it was")
        loop = asyncio.get_running_loop()
        began = loop.time()
        problem = await self._not_yet(client)
        while problem and loop.time() - began < CONVERGE_SECONDS_MAX:
            await asyncio.sleep(0.2)
            problem = await self._not_yet(client)
        if self._cluster.complaints:
            self.record.not_converged = self._cluster.complaints[0]
        elif problem:
            self.record.not_converged = f"after {CONVERGE_SECONDS_MAX:g} s {problem}"
        else:
            self.record.convergence_seconds = loop.time() - began

    async def _not_yet(self, client: overdb.Client) -> str:
        try:
            status = await client.status(timeout=5.0)
        except overdb.OverDBError as error:
            return f"the router says: {error}"
        for group in status.groups:
            if not group.leader_id:
                return f"group {group.group} has no leader"
            for replica in group.replicas:
                if not replica.reachable:
                    return f"node {replica.id} does not answer"
                if group.lag(replica):
                    return f"node {replica.id} lags by {group.lag(replica)} entries"
                if replica.problem:
                    return f"node {replica.id}: {replica.problem}"
        return "" if status.serving else "not every group serves"

    async def _last_look(self, worker: Worker) -> None:
        """Read everything strictly; with nothing wrong any more, nothing may fail."""
        before = sum(tally.all - tally.ok for tally in self.record.tallies.values())
        for workload in self.workloads:
            await workload.close(worker)
        failed = sum(tally.all - tally.ok for tally in self.record.tallies.values()) - before
        if failed and not self.record.not_converged:
            self.record.not_converged = f"{failed} of the last reads failed"

    async def _clean_up(self, client: overdb.Client) -> None:
        keys = [key for workload in self.workloads for key in workload.keys()]  # noqa: SIM118  # no dict
        try:
            for first in range(0, len(keys), 500):
                deletes = [overdb.Delete(key) for key in keys[first : first + 500]]
                await client.transact(then=deletes)
        except overdb.OverDBError as error:
            self._tell(f"What was written could not be deleted: {error}")


def leaders_of(groups: Sequence[GroupMembers], count: int) -> tuple[int, ...]:
    """Return the leader of each group of ``count``, 0 for none.

    A router that has just started may not know all groups yet.
    """
    leaders = {
        group.group: member.id for group in groups for member in group.members if member.leader
    }
    return tuple(leaders.get(group, 0) for group in range(count))
