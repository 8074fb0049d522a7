"""A cluster of ``overdb local``: found by its data directory, hurt by signals and control files."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from overdb_torture import control
from overdb_torture.clusters.base import Cluster, NotCarriedOut, Process, Unusable
from overdb_torture.clusters.supervised import (
    RESTARTED_SECONDS_MAX,
    Supervised,
    until,
    until_async,
)
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
    settings_of,
)
from overdb_torture.hostile import Stranger, Target
from overdb_torture.laggards import Laggard
from overdb_torture.old_copies import SAID, OldCopy, described

_ALWAYS = frozenset({Kind.KILL, Kind.PAUSE, Kind.RESTART_ALL})
# These need settings of their own, or exchange a directory (``own_cluster``).
_ON_ITS_OWN = frozenset({Kind.RESTORE, Kind.LAG})
_TAKEN_SECONDS_MAX = 3.0
_KNOWN_SECONDS_MAX = 10.0
_EXCHANGES_MAX = 5


class LocalCluster(Cluster):
    """The cluster whose supervisor holds a data directory."""

    def __init__(self, directory: Path) -> None:
        """Raises Unusable when no cluster runs there."""
        self._file = directory / "cluster.json"
        self._running = Supervised(self._file)
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
        self._copies: list[OldCopy] = []
        self._laggard: Laggard | None = None
        self._asked_settings: dict[str, int] = {}  # file -> revision
        self._clocks: dict[int, float] = {}  # node id -> seconds that its clock is off for good
        self._strangers: list[tuple[Stranger, asyncio.Task[None]]] = []
        self.complaints: list[str] = []
        self._beset: dict[str, int | None] = {}  # pids of those that strangers write to

    # --- hurting and healing ----------------------------------------------------------------------

    async def begin(self, fault: Planned, victims: Sequence[Process]) -> None:
        match fault.kind:
            case Kind.KILL | Kind.RESTART_ALL:
                self._running.kill(victims)
            case Kind.PAUSE:
                self._running.pause(victims)
            case Kind.SUSPEND:
                await self._set_clocks_right()
                self._running.pause(victims)
            case Kind.PARTITION:
                await self._cut(self._links_of(fault, victims))
            case Kind.HOSTILE:
                self._begin_hostile(fault, victims)
            case Kind.RESTORE:
                self._copies = [await asyncio.to_thread(self._copied, victims[0])]
            case Kind.LAG:
                await self._leave_behind(fault, victims[0])
            case Kind.SETTINGS:
                self._change_settings(fault, victims)
            case Kind.CLOCK_JUMP:
                await self._set_clocks_right()
                if fault.way == FOR_GOOD:
                    self._clocks = dict.fromkeys((one.node_id for one in victims), fault.amount)
                await self._hurt(victims, node_faults(fault))
            case Kind.DISK_FULL | Kind.SLOW_FSYNC:
                await self._hurt(victims, node_faults(fault))

    async def end(self, fault: Planned, victims: Sequence[Process]) -> None:
        match fault.kind:
            case Kind.KILL | Kind.RESTART_ALL:
                await self._running.wait_for_restart()
            case Kind.PAUSE:
                self._running.continue_all()
            case Kind.SUSPEND:
                await self._wake(fault, victims)
            case Kind.PARTITION:
                await self._cut({})
            case Kind.HOSTILE:
                await self._end_hostile()
            case Kind.RESTORE:
                await self._restore(victims[0])
            case Kind.LAG:
                await self._have_catch_up(victims[0])
            case Kind.SETTINGS:
                await self._until_settings_taken()
            case Kind.CLOCK_JUMP | Kind.DISK_FULL | Kind.SLOW_FSYNC:
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
        self._clocks = {one.node_id: -fault.amount for one in self._running.paused(victims)}
        asked = {
            control.node_file(node_id): control.ask_node(
                self._faults, node_id, NodeFaults(clock_offset_seconds=seconds)
            )
            for node_id, seconds in self._clocks.items()
        }
        self._running.continue_all()
        for name, revision in asked.items():
            await self._until_taken(name, revision)

    async def heal(self) -> None:
        self._running.continue_all()
        await self._end_hostile()
        self._clocks = {}
        self._laggard = None
        if self._faults is not None:
            control.ask_links(self._faults, {})
            for process in self.processes:
                if process.node_id:
                    control.ask_node(self._faults, process.node_id, NodeFaults())
                    control.forget_settings(self._faults, process.node_id)

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
        self._beset = {victim.name: self._running.pids().get(victim.name) for victim in victims}

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
        pids = self._running.pids()
        self.complaints += [
            f"{name} ended under messages of a stranger, see its log"
            for name, pid in beset.items()
            if pids.get(name) != pid
        ]
        if any(not stranger.answered for stranger, _ in strangers):
            raise NotCarriedOut("a node answered no stranger")

    # --- settings -----------------------------------------------------------------------------------

    def _change_settings(self, fault: Planned, victims: Sequence[Process]) -> None:
        """Kill nodes that come back with other settings. They keep those, and so differ from the others."""
        assert self._faults is not None
        self._asked_settings = {}
        for victim in victims:
            self._running.kill([victim])
            self._asked_settings[control.settings_file(victim.node_id)] = control.ask_settings(
                self._faults, victim.node_id, settings_of(fault)
            )

    async def _until_settings_taken(self) -> None:
        await self._running.wait_for_restart()
        for name, revision in self._asked_settings.items():
            await self._until_taken(name, revision, RESTARTED_SECONDS_MAX)

    # --- followers that lag ---------------------------------------------------------------------------

    async def _leave_behind(self, fault: Planned, victim: Process) -> None:
        """Stop a follower in such a way that nothing waits for it until it goes on."""
        others = self._running.addresses(victim.group)
        laggard = Laggard(others.pop(victim.node_id), others)
        await self._cut(self._links_of(fault, [victim]))
        self._running.pause([victim])
        await laggard.begin()
        self._laggard = laggard

    async def _have_catch_up(self, victim: Process) -> None:
        """Let it go on once its leader can help it by a snapshot alone, and see that it catches up."""
        laggard, self._laggard = self._laggard, None
        try:
            if laggard is not None:
                await laggard.until_compacted()
        finally:
            self._running.continue_all()
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
        copy, addresses = copies[0], self._running.addresses(victim.group)
        if not await until_async(lambda: self._all_know(copy, victim), _KNOWN_SECONDS_MAX):
            raise NotCarriedOut(
                "not all others have heard of a later start: nothing could tell the copy"
            )
        await self._exchanged(victim, copy.put_back)
        try:
            stays_out = await until_async(
                lambda: _has_found_out(addresses[victim.node_id]), RESTARTED_SECONDS_MAX
            )
        finally:
            await self._exchanged(victim, copy.undo)
        if not stays_out:
            self.complaints.append(f"{victim.name} runs on an old copy of its directory")

    async def _all_know(self, copy: OldCopy, victim: Process) -> bool:
        for node_id, address in self._running.addresses(victim.group).items():
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
            self._running.kill([victim])
            with contextlib.suppress(BlockingIOError):  # it was started again first
                await self._running.until_dead(victim, _TAKEN_SECONDS_MAX)
                exchange()
                break
            await self._running.wait_for_restart()
        else:
            raise NotCarriedOut(f"the directory of {victim.name} is never free")
        await self._running.wait_for_restart()

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

    async def _until_taken(
        self, name: str, revision: int, seconds_max: float | None = None
    ) -> None:
        directory = self._faults
        assert directory is not None
        taken = await until(
            lambda: control.is_taken(directory, name, revision), seconds_max or _TAKEN_SECONDS_MAX
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


def _is_held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def _has_found_out(address: str) -> bool:
    answer = await described(address)
    return answer is not None and SAID in answer.problem
