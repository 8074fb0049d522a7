"""Random schedules over the pure core: a group of replicas, a bad network, crashes, one seed.

Everything that happens is drawn from one ``Random``: the same seed gives the same trace. The network
loses, duplicates, reorders and delays; a crash drops what is not fsynced; partitions cut both ways or
one way; replicas compact and stream snapshots in chunks; leadership is handed over. ``Checks`` looks
at every step. A run ends with healing: without faults everything must converge and serve.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from overdb_node.raft.errors import NotLeader, Overloaded, ProtocolViolation
from overdb_node.raft.messages import Append, Message
from overdb_node.raft.output import EventKind
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import Snapshot
from tests.paper.host import Disk, Host, members_of
from tests.unit.raft.checks import Checks

NETWORK_MESSAGES_MAX = 300
HEALING_ROUNDS_MAX = 400
QUICK = RaftSettings(
    heartbeat_ticks=1,
    election_ticks_min=5,
    election_ticks_max=10,
    append_bytes_max=12,
    inflight_bytes_max=400,
    committed_bytes_max=12,
    chunk_retry_ticks=5,
)
# Entries are evicted, read back and held back, and followers are given up, all the time.
SMALL = replace(
    QUICK,
    log_memory_bytes_max=1200,
    unapplied_bytes_max=2400,
    fetch_bytes_max=12,
    chunk_window_bytes=48,
    kept_bytes_max=80,
    keep_silent_ticks=12,
    stall_ticks_max=40,
    slow_ticks_max=30,
    rest_ticks=15,
)


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad it is: probabilities in percent, of a message or of a step."""

    loss: float = 8
    duplication: float = 8
    reordering: float = 60
    crash: float = 0.8
    partition: float = 0.5
    transfer: float = 0.4
    compaction: float = 1.5
    pause: float = 0.4  # time passes for most, not for leaders: they stood still meanwhile
    delivery: float = 50  # of the steps that are no fault: one message,
    disk: float = 28  # one piece of disk work somewhere,
    tick: float = 10  # one tick somewhere,
    slowness: float = 3  # somewhere applying stops or goes on; the rest: leaders are asked


FAULTS = (
    Faults(),
    Faults(loss=1, duplication=1, reordering=10, crash=0.1, partition=0.1, transfer=0.1),
    Faults(loss=2, duplication=20, reordering=90, crash=0.2, partition=1, compaction=3, pause=1),
    Faults(loss=15, duplication=2, reordering=30, crash=0.4, partition=1, compaction=0.3),
    Faults(loss=1, duplication=1, reordering=20, crash=2, partition=0.5, transfer=2, pause=1),
    Faults(loss=3, duplication=3, reordering=50, crash=0.1, partition=2, compaction=4),
    Faults(loss=1, reordering=80, crash=0.3, partition=1.2, disk=10, tick=6, delivery=64),
    Faults(loss=0, duplication=15, reordering=90, crash=0.3, tick=5, partition=1.2, delivery=60),
)


@dataclass(frozen=True, slots=True)
class ReadAsked:
    """A read, and how new a state must be that answers it (linearizability)."""

    number: int
    floor: int


class Simulation:
    """One group under one seed."""

    def __init__(
        self,
        seed: int,
        count: int | None = None,
        faults: Faults | None = None,
        *,
        traced: bool = False,
    ) -> None:
        self.random = Random(seed)
        self.count = count or (3, 5, 3, 2, 3, 5, 1)[seed % 7]
        self.faults = faults or FAULTS[seed % len(FAULTS)]
        self.settings = SMALL if seed // 2 % 2 else QUICK
        self.network: list[tuple[int, int, Message]] = []
        self.cut: set[tuple[int, int]] = set()  # links (from, to) that carry nothing
        self.down: set[int] = set()
        self.hosts: dict[int, Host] = {}
        self.happened: Counter[str] = Counter()
        self.trace: list[str] | None = [] if traced else None
        self.healing_rounds = 0
        self._number = 0
        self._touched: Host | None = None
        genesis = Snapshot(0, 0, 0, members_of(self.count))
        self.disks = {i: Disk(genesis) for i in range(1, self.count + 1)}
        self.checks = Checks(self.disks)
        for replica_id in self.disks:
            self._start(replica_id)

    # --- replicas -------------------------------------------------------------------------------

    def _start(self, replica_id: int) -> None:
        random = Random(self.random.getrandbits(64))
        host = Host(replica_id, self.disks[replica_id], random, self._send, self.settings)
        host.on_applied = lambda _, entry, state: self.checks.on_applied(host, entry, state)
        host.on_answered = self._on_answered
        self.hosts[replica_id] = host
        self.down.discard(replica_id)
        self.checks.on_restart(host)
        host.pump()

    def _crash(self, replica_id: int) -> None:
        """Drop the process: what waits for the disk, and memory; some of the state was flushed."""
        host = self.hosts[replica_id]
        self._collect_events(host)
        if self.random.random() < 0.3:
            host.flush()
        self.down.add(replica_id)
        self.happened["crash"] += 1

    def _send(self, sender: int, to: int, message: Message) -> None:
        self.checks.on_sent(sender, to, message)
        self.happened[type(message).__name__] += 1
        if isinstance(message, Append) and message.entries:
            evicted = self.hosts[sender].raft.log.evicted_index if sender in self.hosts else 0
            self.happened["entries read back"] += message.first_index <= evicted
        faults, random = self.faults, self.random
        if (sender, to) in self.cut or random.uniform(0, 100) < faults.loss:
            return
        self.network.append((sender, to, message))
        if random.uniform(0, 100) < faults.duplication:
            self.network.append((sender, to, message))

    def _on_answered(self, _: int, read: object, index: int) -> None:
        assert isinstance(read, ReadAsked)
        self.checks.on_read(read.floor, index)
        self.happened["read"] += 1

    def up(self) -> list[Host]:
        return [host for i, host in self.hosts.items() if i not in self.down]

    # --- steps ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Do one thing at random."""
        random, faults = self.random, self.faults
        self._touched = None
        what = random.uniform(0, 100)
        if what < faults.crash:
            self._crash_or_start()
        elif (what := what - faults.crash) < faults.partition:
            self._partition()
        elif (what := what - faults.partition) < faults.transfer:
            self._transfer()
        elif (what := what - faults.transfer) < faults.compaction:
            self._compact()
        elif what - faults.compaction < faults.pause:
            self._pause()
        else:
            self._ordinary(random.uniform(0, 100))
        if self._touched is not None:
            self.checks.on_step(self._touched)

    def _ordinary(self, what: float) -> None:
        """A step that is no fault; ``what`` in percent."""
        up, faults = self.up(), self.faults
        if not up or what < faults.delivery:
            self._deliver()
            return
        self._touched = host = self.random.choice(up)
        if (what := what - faults.delivery) < faults.disk:
            host.disk_step()
        elif (what := what - faults.disk) < faults.tick:
            self._note("tick", host.replica_id)
            host.raft.tick()
            host.pump()
        elif what - faults.tick < faults.slowness:
            host.applies_at_once = not host.applies_at_once
            if host.applies_at_once:
                host.apply()
        else:
            self._ask()

    def _note(self, *what: object) -> None:
        if self.trace is not None:
            self.trace.append(" ".join(map(str, what)))

    def _deliver(self) -> None:
        random, network = self.random, self.network
        if not network:
            return
        any_one = random.uniform(0, 100) < self.faults.reordering
        sender, to, message = network.pop(random.randrange(len(network)) if any_one else 0)
        if len(network) > NETWORK_MESSAGES_MAX:
            del network[: NETWORK_MESSAGES_MAX // 2]
        self._note(sender, ">", to, message)
        if to not in self.down:
            self._touched = host = self.hosts[to]
            host.raft.receive(sender, message)
            host.pump()

    def _ask(self) -> None:
        """Ask every leader, the deposed ones included, for a write and a read."""
        for host in self.up():
            if not host.raft.is_leader:
                continue
            self._number += 1
            try:
                host.raft.propose([b"%d" % self._number])
            except (NotLeader, Overloaded):
                self.happened["refused"] += 1
            host.raft.read(ReadAsked(self._number, self.checks.read_floor))
            host.pump()

    def _crash_or_start(self) -> None:
        random = self.random
        if self.down and random.random() < 0.75:
            replica_id = random.choice(sorted(self.down))
        else:
            replica_id = random.randrange(1, self.count + 1)
        if replica_id in self.down:
            self._note("start", replica_id)
            self._start(replica_id)
        else:
            self._note("crash", replica_id)
            self._crash(replica_id)

    def _partition(self) -> None:
        random = self.random
        ids = list(self.disks)
        kind = random.random()
        leaders = [host.replica_id for host in self.up() if host.raft.is_leader]
        if kind < 0.4 or self.count == 1:
            self.cut = set()
        elif kind < 0.8:
            side = set(random.sample(ids, random.randint(1, self.count - 1)))
            alone = leaders and random.random() < 0.7
            if alone:
                side = {leaders[0], *random.sample(ids, random.randint(0, (self.count - 1) // 2))}
            self.cut = {(a, b) for a in ids for b in ids if (a in side) != (b in side)}
            if alone:
                self._go_on_alone(self.hosts[leaders[0]])
        else:  # some links in one direction
            links = [(a, b) for a in ids for b in ids if a != b]
            self.cut = set(random.sample(links, random.randint(1, max(1, len(links) // 2))))
        self.happened["partition"] += bool(self.cut)

    def _go_on_alone(self, leader: Host) -> None:
        """Entries that only ``leader`` writes, and no sign of it for an election timeout elsewhere."""
        for _ in range(self.random.randint(0, 4)):
            self._ask()
            leader.disk_step()
        self._pause()

    def _transfer(self) -> None:
        for host in self.up():
            if host.raft.is_leader and self.count > 1:
                others = [i for i in self.disks if i != host.replica_id]
                host.raft.transfer(self.random.choice(others))
                self.happened["transfer"] += 1
                host.pump()

    def _pause(self) -> None:
        """Leaders stand still while others count an election timeout, all in one step."""
        for host in self.up():
            most = QUICK.election_ticks_max
            ticks = 0 if host.raft.is_leader else self.random.randint(most // 2, most)
            self._note("pause", host.replica_id, ticks)
            for _ in range(ticks):
                host.raft.tick()
                host.pump()
        self.happened["pause"] += 1

    def _compact(self) -> None:
        up = self.up()
        if up and (host := self.random.choice(up)).compact():
            self._note("compact", host.replica_id, host.state.index)
            self.happened["compaction"] += 1

    # --- runs -----------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """``steps`` of trouble, then healing."""
        for _ in range(steps):
            self.step()
        self.heal()

    def heal(self) -> None:
        """Without faults: a leader, a write and a read through it, and equal logs everywhere."""
        self.faults = Faults(0, 0, 0, 0, 0, 0, 0, 0)
        self.cut = set()
        for replica_id in sorted(self.down):
            self._start(replica_id)
        for host in self.hosts.values():
            host.applies_at_once = True
            host.apply()
        reads_before = self.happened["read"]
        goal: int | None = None
        for self.healing_rounds in range(HEALING_ROUNDS_MAX):
            self._round()
            leaders = [h for h in self.hosts.values() if h.raft.is_leader]
            if len(leaders) != 1 or not leaders[0].raft.leading.committed_in_term:
                continue
            if goal is None:
                self._ask()
                goal = leaders[0].raft.log.last_index
            elif self._converged(goal) and self.happened["read"] > reads_before:
                break
        else:
            raise AssertionError(f"not healed after {HEALING_ROUNDS_MAX} heartbeats")
        for host in self.hosts.values():
            self._collect_events(host)
        self.checks.on_end(list(self.hosts.values()))

    def _converged(self, goal: int) -> bool:
        states = {host.state for host in self.hosts.values()}
        return len(states) == 1 and min(states).index >= goal

    def _round(self) -> None:
        """A tick for everyone, then everything that follows from it."""
        for host in self.hosts.values():
            host.raft.tick()
            host.pump()
        for _ in range(2000):
            for host in self.hosts.values():
                host.settle()
                self.checks.on_step(host)
            if not self.network:
                return
            self._deliver()
        raise AssertionError("messages without end between two ticks")

    def _collect_events(self, host: Host) -> None:
        for event in host.events:
            self.happened[event.kind.value] += 1
            assert event.kind is not EventKind.REPLICA_DAMAGED, "a false alarm of the tripwire"
            assert event.kind is not EventKind.MESSAGE_REFUSED, f"two leaders: {event.detail}"
        host.events.clear()


def run_seed(
    seed: int, steps: int, count: int | None = None, faults: Faults | None = None
) -> Simulation:
    """Run one seed; a failure names it."""
    simulation = Simulation(seed, count, faults)
    try:
        simulation.run(steps)
    except Exception as error:
        error.add_note(f"seed {seed}, {simulation.count} replicas, {steps} steps")
        raise
    return simulation


def first_red_seed(
    seeds: Iterable[int], steps: int, count: int | None = None, faults: Faults | None = None
) -> tuple[int, Exception] | None:
    """The first seed that fails, and how; None if all of them pass."""
    for seed in seeds:
        try:
            run_seed(seed, steps, count, faults)
        except (AssertionError, ProtocolViolation) as error:
            return seed, error
    return None


def main(arguments: list[str]) -> None:
    """``python -m tests.unit.raft.simulator FIRST END [STEPS]``: run more seeds than the tests do."""
    first, end = int(arguments[0]), int(arguments[1])
    steps = int(arguments[2]) if len(arguments) > 2 else 5000
    happened: Counter[str] = Counter()
    for seed in range(first, end):
        happened += run_seed(seed, steps).happened
    print(f"seeds {first} to {end - 1}, {steps} steps each: {dict(happened)}")


if __name__ == "__main__":
    main(sys.argv[1:])
