"""A cluster of ``overdb local``: found by its data directory, hurt by signals and control files."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overdb_torture import control
from overdb_torture.clusters.base import Cluster, NotCarriedOut, Process, Unusable
from overdb_torture.control import LinkFaults, NodeFaults
from overdb_torture.faults import (
    APART,
    DEAF,
    DRIFT,
    FOR_GOOD,
    LAGGING,
    MUTE,
    REFUSED,
    Kind,
    Planned,
)
from overdb_torture.hostile import Stranger, Target
from overdb_torture.laggards import Laggard
from overdb_torture.old_copies import SAID, OldCopy, described

_ALWAYS = frozenset({Kind.KILL, Kind.PAUSE, Kind.RESTART_ALL})
# These need settings of their own, or exchange a directory (``own_cluster``).
_ON_ITS_OWN = frozenset({Kind.RESTORE, Kind.LAG})
_TAKEN_SECONDS_MAX = 3.0
_RESTARTED_SECONDS_MAX = 20.0
_KNOWN_SECONDS_MAX = 10.0
_EXCHANGES_MAX = 5
_POLL_SECONDS = 0.02


class LocalCluster(Cluster):
    """The cluster whose supervisor holds a data directory."""

    def __init__(self, directory: Path) -> None:
        """Raises Unusable when no cluster runs there."""
        self._file = directory / "cluster.json"
        content = control.read_json(self._file)
        if not content or not _is_held(directory / "LOCK"):
            raise Unusable(
                f"no cluster runs on {directory}; start one with `make run FAULTS=1` or `overdb local "
                "--faults`, or leave --data out: then one is started for this"
            )
        self.description = f"the processes of {directory}"
        self.endpoints = [str(router["address"]) for router in content["routers"]]
        self.processes = [
            Process(f"node-{node['node_id']}", int(node["node_id"]), int(node["group"]))
            for node in content["nodes"]
        ] + [Process(str(router["name"])) for router in content["routers"]]
        faults = content.get("faults_directory")
        self._faults = Path(faults) if faults else None
        self.possible = frozenset(Kind) - _ON_ITS_OWN if faults else _ALWAYS
        self.why_not = (
            (
                ""
                if faults
                else "start the cluster with `make run FAULTS=1` (overdb local --faults); "
            )
            + f"for {' and '.join(sorted(_ON_ITS_OWN))} leave --data out: a cluster is started for this"
        )
        self._paused: set[int] = set()
        self._copies: list[OldCopy] = []
        self._laggard: Laggard | None = None
        self._clocks: dict[int, float] = {}  # node id -> seconds that its clock is off for good
        self._killed: dict[str, int] = {}
        self._strangers: list[tuple[Stranger, asyncio.Task[None]]] = []
        self.complaints: list[str] = []
        self._beset: dict[str, int | None] = {}  # pids of those that strangers write to

    # --- hurting and healing ----------------------------------------------------------------------

    async def begin(self, fault: Planned, victims: Sequence[Process]) -> None:
        if fault.kind in (Kind.KILL, Kind.RESTART_ALL):
            for victim in victims:
                self._killed[victim.name] = self._signal(victim, signal.SIGKILL)
        elif fault.kind in (Kind.PAUSE, Kind.SUSPEND):
            if fault.kind is Kind.SUSPEND:
                await self._set_clocks_right()
            for victim in victims:
                self._paused.add(self._signal(victim, signal.SIGSTOP))
        elif fault.kind is Kind.PARTITION:
            await self._cut(self._links_of(fault, victims))
        elif fault.kind is Kind.HOSTILE:
            self._begin_hostile(fault, victims)
        elif fault.kind is Kind.RESTORE:
            self._copies = [await asyncio.to_thread(self._copied, victims[0])]
        elif fault.kind is Kind.LAG:
            await self._leave_behind(fault, victims[0])
        else:
            if fault.kind is Kind.CLOCK_JUMP:
                await self._set_clocks_right()
            if fault.way == FOR_GOOD:
                self._clocks = dict.fromkeys((one.node_id for one in victims), fault.amount)
            await self._hurt(victims, node_faults(fault))

    async def end(self, fault: Planned, victims: Sequence[Process]) -> None:
        if fault.kind in (Kind.KILL, Kind.RESTART_ALL):
            await self._wait_for_restart()
        elif fault.kind is Kind.PAUSE:
            self._continue()
        elif fault.kind is Kind.SUSPEND:
            await self._wake(fault, victims)
        elif fault.kind is Kind.PARTITION:
            await self._cut({})
        elif fault.kind is Kind.HOSTILE:
            await self._end_hostile()
        elif fault.kind is Kind.RESTORE:
            await self._restore(victims[0])
        elif fault.kind is Kind.LAG:
            await self._have_catch_up(victims[0])
        else:
            await self._hurt(victims, NodeFaults())

    async def _set_clocks_right(self) -> None:
        """Called before the clock of another machine is set: no two of a group are wrong at once."""
        wrong = [process for process in self.processes if process.node_id in self._clocks]
        self._clocks = {}
        await self._hurt(wrong, NodeFaults())

    async def _wake(self, fault: Planned, victims: Sequence[Process]) -> None:
        """Continue machines that slept: while they did, their wall clocks stood still as well.

        They stay behind until the next fault of a clock, as those that are wrong for good.
        """
        assert self._faults is not None
        pids = self._pids()
        asleep = [victim for victim in victims if pids.get(victim.name) in self._paused]
        self._clocks = {victim.node_id: -fault.amount for victim in asleep}
        asked = {
            control.node_file(node_id): control.ask_node(
                self._faults, node_id, NodeFaults(clock_offset_seconds=seconds)
            )
            for node_id, seconds in self._clocks.items()
        }
        self._continue()
        for name, revision in asked.items():
            await self._until_taken(name, revision)

    async def heal(self) -> None:
        self._continue()
        await self._end_hostile()
        self._clocks = {}
        self._laggard = None
        if self._faults is not None:
            control.ask_links(self._faults, {})
            for process in self.processes:
                if process.node_id:
                    control.ask_node(self._faults, process.node_id, NodeFaults())

    # --- strangers --------------------------------------------------------------------------------

    def _begin_hostile(self, fault: Planned, victims: Sequence[Process]) -> None:
        content = control.read_json(self._file)
        nodes = {int(node["node_id"]): node for node in content["nodes"]}
        for victim in victims:
            node = nodes[victim.node_id]
            members = tuple(i for i, one in nodes.items() if one["group"] == node["group"])
            target = Target(
                str(content["cluster"]),
                victim.node_id,
                victim.group,
                members,
                str(node["address"]),
                str(node.get("direct_address", "")),
            )
            stranger = Stranger(target, int(fault.draw * (1 << 32)) + victim.node_id)
            self._strangers.append((stranger, asyncio.create_task(stranger.run())))
        self._beset = {victim.name: self._pids().get(victim.name) for victim in victims}

    async def _end_hostile(self) -> None:
        """Raises NotCarriedOut when a stranger got no answer at all."""
        strangers, self._strangers = self._strangers, []
        beset, self._beset = self._beset, {}
        for stranger, _ in strangers:
            stranger.stopping = True
        ended = await asyncio.gather(*(task for _, task in strangers), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        pids = self._pids()
        self.complaints += [
            f"{name} ended under messages of a stranger, see its log"
            for name, pid in beset.items()
            if pids.get(name) != pid
        ]
        if any(not stranger.answered for stranger, _ in strangers):
            raise NotCarriedOut("a node answered no stranger")

    # --- followers that lag ---------------------------------------------------------------------------

    async def _leave_behind(self, fault: Planned, victim: Process) -> None:
        """Stop a follower in such a way that nothing waits for it until it goes on."""
        others = self._addresses(victim)
        laggard = Laggard(others.pop(victim.node_id), others)
        await self._cut(self._links_of(fault, [victim]))
        self._paused.add(self._signal(victim, signal.SIGSTOP))
        await laggard.begin()
        self._laggard = laggard

    async def _have_catch_up(self, victim: Process) -> None:
        """Let it go on once its leader can help it by a snapshot alone, and see that it catches up."""
        laggard, self._laggard = self._laggard, None
        try:
            if laggard is not None:
                await laggard.until_compacted()
        finally:
            self._continue()
            await self._cut({})
        if laggard is not None and not await laggard.catches_up():
            self.complaints.append(f"{victim.name} has not caught up")

    # --- old copies of directories ------------------------------------------------------------------

    def _copied(self, victim: Process) -> OldCopy:
        data = self._file.parent
        try:
            return OldCopy(data / victim.name, data / f"{victim.name}-copy")
        except FileNotFoundError as error:
            raise NotCarriedOut(str(error)) from None

    async def _restore(self, victim: Process) -> None:
        """Put the copy in the node's place, see that it stays out, and give the node its directory back."""
        copies, self._copies = self._copies, []
        if not copies:
            raise NotCarriedOut(f"{victim.name} could not be copied")
        copy, addresses = copies[0], self._addresses(victim)
        if not await _until_async(lambda: self._all_know(copy, victim), _KNOWN_SECONDS_MAX):
            raise NotCarriedOut(
                "not all others have heard of a later start: nothing could tell the copy"
            )
        await self._exchanged(victim, copy.put_back)
        try:
            stays_out = await _until_async(
                lambda: _has_found_out(addresses[victim.node_id]), _RESTARTED_SECONDS_MAX
            )
        finally:
            await self._exchanged(victim, copy.undo)
        if not stays_out:
            self.complaints.append(f"{victim.name} runs on an old copy of its directory")

    def _addresses(self, victim: Process) -> dict[int, str]:
        """Of the nodes of its group, by id."""
        nodes = control.read_json(self._file)["nodes"]
        return {int(n["node_id"]): str(n["address"]) for n in nodes if n["group"] == victim.group}

    async def _all_know(self, copy: OldCopy, victim: Process) -> bool:
        for node_id, address in self._addresses(victim).items():
            if node_id == victim.node_id:
                continue
            answer = await described(address)
            starts = [] if answer is None else [s for s in answer.starts if s.id == victim.node_id]
            if not starts or starts[0].start_number <= copy.start_number:
                return False
        return True

    async def _exchanged(self, victim: Process, exchange: Callable[[], None]) -> None:
        """Kill the node and exchange its directory before it is started again."""
        for _ in range(_EXCHANGES_MAX):
            self._killed[victim.name] = self._signal(victim, signal.SIGKILL)
            with contextlib.suppress(BlockingIOError):  # it was started again first
                await _until(
                    lambda: not is_supervised(self._killed[victim.name]), _TAKEN_SECONDS_MAX
                )
                exchange()
                break
            await self._wait_for_restart()
        else:
            raise NotCarriedOut(f"the directory of {victim.name} is never free")
        await self._wait_for_restart()

    # --- signals ----------------------------------------------------------------------------------

    def _pids(self) -> dict[str, int | None]:
        content = control.read_json(self._file)
        entries: list[dict[str, Any]] = [*content.get("nodes", []), *content.get("routers", [])]
        return {
            entry["name"] if "name" in entry else f"node-{entry['node_id']}": entry.get("pid")
            for entry in entries
        }

    def _signal(self, victim: Process, number: signal.Signals) -> int:
        pid = self._pids().get(victim.name)
        if not pid or not is_supervised(pid):
            raise NotCarriedOut(f"{victim.name} does not run")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return pid

    def _continue(self) -> None:
        for pid in self._paused:
            if is_supervised(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._paused.clear()

    async def _wait_for_restart(self) -> None:
        killed, self._killed = self._killed, {}

        def restarted() -> bool:
            pids = self._pids()
            return all(pids.get(name) not in (None, pid) for name, pid in killed.items())

        if not await _until(restarted, _RESTARTED_SECONDS_MAX):
            raise NotCarriedOut("what was killed was not started again")

    # --- files ------------------------------------------------------------------------------------

    def _links_of(
        self, fault: Planned, victims: Sequence[Process]
    ) -> dict[tuple[int, int], LinkFaults]:
        hurt = {victim.node_id for victim in victims}
        others = [p.node_id for p in self.processes if p.node_id and p.node_id not in hurt]
        wrong = LinkFaults(cut=True)
        if fault.way == LAGGING:
            wrong = LinkFaults(delay_seconds=fault.amount)
        elif fault.kind is Kind.LAG:
            wrong = LinkFaults(closed=True)
        links: dict[tuple[int, int], LinkFaults] = {}
        for one in hurt:
            for other in others:
                if fault.way in (APART, MUTE, LAGGING) or fault.kind is Kind.LAG:
                    links[one, other] = wrong
                if fault.way in (APART, DEAF, LAGGING) or fault.kind is Kind.LAG:
                    links[other, one] = wrong
        return links

    async def _cut(self, links: dict[tuple[int, int], LinkFaults]) -> None:
        assert self._faults is not None
        revision = control.ask_links(self._faults, links)
        await self._until_taken(control.LINKS_WANTED, revision)

    async def _hurt(self, victims: Sequence[Process], faults: NodeFaults) -> None:
        assert self._faults is not None
        for victim in victims:
            offset = self._clocks.get(victim.node_id, faults.clock_offset_seconds)
            suffered = replace(faults, clock_offset_seconds=offset)
            revision = control.ask_node(self._faults, victim.node_id, suffered)
            if faults != NodeFaults():  # a node that its full disk has ended is told at its start
                await self._until_taken(control.node_file(victim.node_id), revision)

    async def _until_taken(self, name: str, revision: int) -> None:
        directory = self._faults
        assert directory is not None
        taken = await _until(
            lambda: control.is_taken(directory, name, revision), _TAKEN_SECONDS_MAX
        )
        if not taken:
            raise NotCarriedOut(f"nobody took {name}.json")


def node_faults(fault: Planned) -> NodeFaults:
    """What a node is to suffer by a fault inside of it."""
    if fault.kind is Kind.SLOW_FSYNC:
        return NodeFaults(slow_fsync_seconds=fault.amount)
    if fault.kind is Kind.DISK_FULL:
        return NodeFaults(disk_reported_full=True, disk_refuses_writes=fault.way == REFUSED)
    assert fault.kind is Kind.CLOCK_JUMP
    if fault.way == DRIFT:
        return NodeFaults(clock_drift=fault.amount)
    return NodeFaults(clock_offset_seconds=fault.amount)


def is_supervised(pid: int) -> bool:
    """Whether the process runs and a supervisor of ours started it: pids are used again."""
    try:
        return b"OVERDB_PARENT_PID=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _is_held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def _until(condition: Callable[[], bool], seconds_max: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds_max
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def _has_found_out(address: str) -> bool:
    answer = await described(address)
    return answer is not None and SAID in answer.problem


async def _until_async(condition: Callable[[], Awaitable[bool]], seconds_max: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds_max
    while not await condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
