"""One seed: a cluster, workloads and faults; then healing, in which everything must converge and serve."""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random
from typing import Any

import overdb
from overdb_common.level import LEVEL
from overdb_node.machine.machine import Machine
from overdb_node.raft.messages import Append
from overdb_simulation.cluster import Cluster, Node
from overdb_simulation.loop import Process, current_process
from overdb_simulation.substitutes import World, substituted
from tests.simulation.cluster import lagging
from tests.simulation.cluster.clocks import Clocks
from tests.simulation.cluster.faults import Faults
from tests.simulation.cluster.history import NO_ANSWER, Recorder
from tests.simulation.cluster.invariants import Invariants
from tests.simulation.cluster.invariants.applying import every_entry
from tests.simulation.cluster.invariants.base import Applied, Look, Seen, Violation, look
from tests.simulation.cluster.leases import Leases
from tests.simulation.cluster.patience import patient
from tests.simulation.cluster.programs import mix_programs
from tests.simulation.cluster.workloads import ALL
from tests.simulation.cluster.workloads.counters import Counters
from tests.simulation.cluster.workloads.hoard import Hoard

HEALING_SECONDS_MAX = 40.0
REPAIR_SECONDS = 75.0  # after which a group whose time was set back takes fresh ids again
CLIENTS = 6
CLIENT_CLOCKS = 0.5  # seconds, ahead or behind at most
PAUSES = (0.12, 0.25, 0.3, 0.4)
HOARD_ROOM_BYTES = (2_300_000, 3_500_000)  # the reserve is 1 MiB, and 3 s of a hoard are another
HOARD_CHUNK_BYTES = 16_384  # snapshots are large: in small chunks they take the time of all else
HOARDED_SECONDS = 3  # retention where there is a hoard: within a run, and within a call
HOARDERS = 3  # clients, besides the others
HOARDING_PAUSE = 0.05
_NEVER: tuple[int, tuple[object, ...], Look | None] = (0, (), None)


@dataclass
class Outcome:
    """What a run did. ``problem`` is empty when every promise was kept."""

    seed: int
    seconds: float = 0.0  # with faults, as asked for
    simulated_seconds: float = 0.0
    real_seconds: float = 0.0
    problem: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    timeline: list[tuple[float, str, str, dict[str, Any]]] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)  # of the exception
    packets: list[str] = field(default_factory=list)  # every one that was sent, if asked for

    def lines(self) -> list[str]:
        """Everything that happened, for a comparison of two runs."""
        told = [f"{at:.9f} {who} {event} {details}" for at, who, event, details in self.timeline]
        return [*self.packets, *told, *(f"{n} {what}" for what, n in sorted(self.counts.items()))]


class Run:
    """Sets everything up from the seed, and drives it."""

    def __init__(
        self,
        seed: int,
        seconds: float = 10.0,
        *,
        faulty: bool = True,
        pause: float = 0.0,
        traced: bool = False,
        only: Collection[str] = (),
        workloads: Collection[str] = (),
        leases: bool | None = None,
        hoards: bool | None = None,
        lags: bool | None = None,
        **overrides: Any,
    ) -> None:
        self.seed = seed
        self.seconds = seconds
        self.faulty = faulty
        # Between two steps of a client, on average, in seconds.
        self.pause = pause or Random(seed).choice(PAUSES)
        self.world = World(seed)
        self.outcome = Outcome(seed, seconds)
        self.traced = traced
        self.only = only
        self._leases = Leases(seed, leases)
        self._wanted = workloads  # names of those that are to run; none: some of all
        # The default, and twice as many: more of them meet what is drawn.
        self._overrides = {
            "heartbeat_ms": Random(f"heartbeats {seed}").choice((200, 100)),
            **overrides,
        }
        self._invariants = Invariants()
        # By node: its life, what of its state was looked at last, and that look.
        self._looks: dict[Node, tuple[int, tuple[object, ...], Look]] = {}
        self.violation = ""
        # Large values, small disks, and a retention that ends within the run. Where it was asked for, nobody
        # adds room: elsewhere all kinds of faults come together, and an operator does so in the end.
        self._operator_adds_room = hoards is None
        self.hoards = Random(f"hoards {seed}").random() < 0.3 if hoards is None else hoards
        if self.hoards:
            self._overrides = {"retention_seconds": HOARDED_SECONDS, **self._overrides}
        # Followers that are left behind by small logs; a hoard's snapshots are large, and they would be slow.
        drawn = not only and lagging.is_drawn(seed)
        self.lags = (drawn if lags is None else lags) and not self.hoards

    def run(self) -> Outcome:
        began = time.perf_counter()
        world = self.world
        self.cluster = cluster = Cluster(world, **self._overrides)
        if self.hoards:
            cluster.chunk_bytes = HOARD_CHUNK_BYTES
        if self.lags:
            lagging.make_limits_small(cluster, self.seed)
        cluster.own_settings, cluster.clock_rate = self._leases.settings, self._leases.clock_rate
        self._invariants.leases.cluster = cluster
        self.clocks = self._invariants.time.clocks = Clocks(cluster)
        with substituted(world, cluster.disk_seconds), every_entry(self._on_entry):
            gc.disable()  # a run is short, and its objects are dropped together
            try:
                self._run()
            except Exception as error:
                self.outcome.problem = (
                    self.violation or "".join(traceback.format_exception_only(error)).strip()
                )
                if not self.violation:
                    self.outcome.trace += traceback.format_exc().splitlines()
            finally:
                for node in cluster.nodes:
                    node.disk.off = True  # what is left of the processes changes nothing
                world.loop.end()
                gc.enable()
        outcome = self.outcome
        outcome.real_seconds = time.perf_counter() - began
        outcome.simulated_seconds = world.loop.time() - 1000.0
        outcome.timeline = world.timeline
        return outcome

    # --- the phases -------------------------------------------------------------------------------

    def _run(self) -> None:
        world, cluster = self.world, self.cluster
        random = Random(world.random.getrandbits(64))
        self.faults = faults = Faults(cluster, random, self.only, self.clocks, lagging=self.lags)
        cluster.fatal = self._on_fatal
        world.loop.step_hook = self._on_step
        world.network.on_packet = self._on_packet
        self.recorder = recorder = Recorder(world, Random(world.random.getrandbits(64)))
        if self.faulty and (not self.only or "upgrade" in self.only):
            mix_programs(self.seed, cluster.nodes)
        cluster.start()
        self._advance(2.5)
        self._start_workloads(random)
        end = world.loop.time() + self.seconds
        while world.loop.time() < end:
            self._advance(
                min(faults.next_pause(), end - world.loop.time()) if self.faulty else self.seconds
            )
            if self.faulty:
                faults.strike()
        faults.heal()
        self._converge()
        self._check_refusals()
        self.outcome.counts.update(recorder.counts)
        self.outcome.counts.update({f"fault: {kind}": n for kind, n in faults.counts.items()})
        self.outcome.counts.update({f"net: {kind}": n for kind, n in world.network.counts.items()})
        for node in cluster.nodes:
            if node.replica is not None:
                differences = node.replica.comparing.differences
                self.outcome.counts["checksums compared"] += differences.compared
                self.outcome.counts["reads by lease"] += node.replica.raft.lease.reads
        self.outcome.counts["lagged at a compaction"] += self._invariants.kept.checked
        once = self._invariants.once
        self.outcome.counts["requests answered from what was kept"] += once.repeated
        self.outcome.counts["requests that waited for locks"] += once.waited
        for _, _, event, details in world.timeline:
            if not details.get("fault"):
                self.outcome.counts[f"event: {event}"] += 1

    def _check_refusals(self) -> None:
        """Nobody refuses what a member has sent (PROTOCOL 1.5)."""
        if self.faults.counts["hostile messages"]:
            return
        for _, who, event, details in self.world.timeline:
            if event == "message_refused":
                raise Violation(f"{who} refused a message: {details}")

    def _start_workloads(self, random: Random) -> None:
        """Some of the workloads, each client at home in one of them."""
        chosen = random.sample(ALL, random.randint(2, len(ALL)))
        if self._wanted:
            chosen = [kind for kind in ALL if kind.__name__.lower() in self._wanted]
        if self.hoards:
            self._keep_disks_small(random)
            chosen = [*chosen, Hoard]
        self.workloads = [kind(self.recorder) for kind in chosen]
        pairs = [w.add_pair for w in self.workloads if isinstance(w, Counters)]
        if pairs:
            self.faults.victim = lambda client: pairs[0](self._patient(client))
        for number in range(CLIENTS):
            workload = self.workloads[number % len(self.workloads)]

            async def work(client: overdb.Client, workload: Any = workload) -> None:
                mine = self._patient(client)
                await self.recorder.repeat(self.pause, lambda: workload.step(mine))

            process = self.cluster.client(f"client{number}", work, direct=number % 2 == 1)
            # Who is older goes by the clients' clocks: without differences hardly anybody ever waits.
            process.clock_offset_ns = int(random.uniform(-CLIENT_CLOCKS, CLIENT_CLOCKS) * 1e9)

        for number in range(HOARDERS if self.hoards else 0):
            self.cluster.client(f"hoarder{number}", self._hoard)

    def _patient(self, client: overdb.Client) -> overdb.Client:
        faults = self.faults
        # The version was given by one clock, and its age is taken by another.
        kept_seconds = HOARDED_SECONDS - 2 * CLIENT_CLOCKS if self.hoards else math.inf
        return patient(
            client, lambda: faults.time_was_wrong or faults.time_stood_still, kept_seconds
        )

    async def _hoard(self, client: overdb.Client) -> None:
        hoard = self.workloads[-1]
        await self.recorder.repeat(HOARDING_PAUSE, lambda: hoard.step(self._patient(client)))

    def _keep_disks_small(self, random: Random) -> None:
        """Some disks have room for a few seconds of hoarding: what makes room is the end of the retention,
        and deletes."""
        for node in self.cluster.nodes:
            if random.random() < 0.6:
                node.disk.capacity_bytes = node.disk.used_bytes + random.randint(*HOARD_ROOM_BYTES)

    def _advance(self, seconds: float) -> None:
        self.world.loop.run_for(seconds)
        self._raise_if_failed()

    def _raise_if_failed(self) -> None:
        if self.violation:
            raise Violation(self.violation)
        if self.faults.refusals:
            raise Violation(self.faults.refusals[0])
        if self.recorder.problems:
            raise Violation(self.recorder.problems[0])
        for router in self.cluster.routers:
            if router.router is not None and router.router.failure is not None:
                raise Violation(f"{router.name} failed: {router.router.failure!r}")
        if self.world.loop.failures:
            raise Violation("; ".join(self.world.loop.failures[:3]))

    def _on_packet(self, sender_id: int, receiver_id: int, messages: list[Any]) -> None:
        self._invariants.votes.on_packet(sender_id, receiver_id, messages)
        if self.lags:
            self._count_read_back(sender_id, messages)
        if self.traced:
            self.outcome.packets.append(
                f"{self.world.loop.time():.9f} {sender_id} > {receiver_id} {messages}"
            )

    def _count_read_back(self, sender_id: int, messages: list[Any]) -> None:
        """Count the messages with entries that the leader did not have in memory."""
        for node in self.cluster.nodes:
            if node.replica_id == sender_id and node.replica is not None:
                evicted = node.replica.raft.log.evicted_index
                self.outcome.counts["entries read back"] += sum(
                    isinstance(message, Append)
                    and bool(message.entries)
                    and message.first_index <= evicted
                    for message in messages
                )

    # --- looking ----------------------------------------------------------------------------------

    def _on_step(self, process: Process) -> None:
        node = self.cluster.nodes_by_process.get(process)
        if node is None or node.replica is None or node.process is not process or self.violation:
            return
        replica = node.replica
        if replica.failed:
            return
        raft = replica.raft
        log = raft.log
        state = (
            raft.applied,
            raft.durable,
            raft.commit_index,
            log.last_index,
            raft.term,
            raft.role,
            raft.vote,
            raft.agreed,
            log.snapshot.index,
            replica.membership.admission.established,
        )
        lives, state_before, before = self._looks.get(node, _NEVER)
        if lives != node.lives:
            before = None
        elif state == state_before:  # nearly always
            return
        now = look(replica)
        self._looks[node] = (node.lives, state, now)
        seen = Seen(node.name, node.group, node.replica_id, node.lives, replica, before, now)
        try:
            for invariant in self._invariants.of_steps:
                invariant.check(seen)
        except Violation as violation:
            self.violation = str(violation)
            self.world.note(node.name, "VIOLATION", what=str(violation))

    def _on_entry(self, machine: Machine, index: int, *applied: Any) -> None:
        """What it raises would be the replica's own failure: it is noted instead."""
        node = self.cluster.nodes_by_process.get(current_process())  # type: ignore[arg-type]
        if node is None or self.violation:
            return
        told = Applied(node.name, node.group, machine, index, *applied)
        try:
            for invariant in self._invariants.of_entries:
                invariant.check_entry(told)
        except Violation as violation:
            self.violation = str(violation)
            self.world.note(node.name, "VIOLATION", what=str(violation))

    def _on_fatal(self, node: Node, reason: str) -> None:
        if not self.faults.explains_fatal(node) and not self.violation:
            self.violation = f"{node.name} gave up: {reason}"

    # --- healing ----------------------------------------------------------------------------------

    def _converge(self) -> None:
        """Without faults: leaders, equal replicas, no open transaction; then the workloads' last word."""
        recorder, loop = self.recorder, self.world.loop
        self._advance(3.0)  # under load still
        recorder.stopping = True
        seconds = HEALING_SECONDS_MAX + (REPAIR_SECONDS if self.faults.time_was_wrong else 0)
        end = loop.time() + seconds
        while True:
            self._advance(0.25)
            why = self._why_not_converged()
            if not why:
                break
            if loop.time() > end:
                raise Violation(f"not healed after {seconds:g} s: {why}")
            if self.hoards and self._operator_adds_room and loop.time() > end - seconds / 2:
                self._add_room(why)
        self._compare_replicas()
        self._check_workloads()

    def _add_room(self, why: str) -> None:
        """What every message about a full disk says last."""
        self._operator_adds_room = False
        self.outcome.counts["operator added room"] += 1
        self.world.note("-", "room added", why=why)
        for node in self.cluster.nodes:
            node.disk.capacity_bytes = max(node.disk.capacity_bytes, 64 << 20)

    def _why_not_converged(self) -> str:
        if self.recorder.running:
            return f"{self.recorder.running} clients have no answer"
        if not self.faults.repair():
            return f"being replaced: {list(self.faults.operators.busy.values())}"
        for group in range(self.cluster.groups):
            leader = self.cluster.leader(group)
            if leader is None or leader.replica is None:
                return f"group {group} has no leader"
            raft = leader.replica.raft
            voters = {node.replica_id for node in self.cluster.group(group)}
            if set(raft.voters) != voters or len(raft.log.members) != len(voters):
                return f"group {group} has the members {raft.log.members}"
            for node in self.cluster.group(group):
                problem = "" if node.replica is None else node.replica.problem
                # A clock that is wrong for good is named for good.
                if node.replica and problem not in ("", node.replica.timekeeper.problem):
                    return f"{node.name}: {problem}"
                if node.replica is None or node.replica.raft.applied != raft.log.last_index:
                    return f"{node.name} has not caught up"
            participant = leader.replica.machine.participant
            if participant.open or participant.parked:
                return f"group {group} has open transactions"
            if leader.replica.machine.id_floor > self.faults.clocks.true_us():
                return f"group {group} takes no fresh ids yet"
            if leader.replica.machine.level < LEVEL:
                return f"group {group} is at level {leader.replica.machine.level}"
        return ""

    def _compare_replicas(self) -> None:
        for group in range(self.cluster.groups):
            states = {}
            for node in self.cluster.group(group):
                if node.replica is not None:
                    data = node.replica.storage.data
                    page = data.scan(
                        b"",
                        b"",
                        reverse=False,
                        at=1 << 62,
                        keys_only=False,
                        max_items=1 << 30,
                        max_bytes=1 << 40,
                    )
                    states[node.name] = (node.replica.machine.digest(), tuple(page.items))
            if len(set(states.values())) > 1:
                raise Violation(
                    f"group {group}: the replicas' states differ at the end: {sorted(states)}"
                )

    def _check_workloads(self) -> None:
        finished: list[str] = []
        problems: list[str] = []

        async def check(client: overdb.Client) -> None:
            for workload in self.workloads:
                problem = ""
                for _ in range(5):
                    try:
                        await workload.check(client)
                        problem = ""
                        break
                    except (overdb.OutcomeUnknown, *NO_ANSWER) as error:
                        problem = f"no answer to a healed cluster's client: {error!r}"
                    except Exception as error:
                        problem = f"{error}" if isinstance(error, AssertionError) else repr(error)
                        break
                else:
                    problems.append(f"{workload.name}: {problem}")
                    continue
                if problem:
                    problems.append(f"{workload.name}: {problem}")
                finished.append(workload.name)

        self.cluster.client("checker", check)
        for _ in range(40):
            self._advance(0.5)
            if problems or len(finished) == len(self.workloads):
                break
        else:
            raise Violation("the healed cluster does not answer")
        if problems:
            raise Violation("; ".join(problems))
