"""Random schedules in which the members change too: all other checks hold (PROTOCOL 3, FAULTS 44-48)."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from overdb_node.raft.errors import MembershipRefused, NotLeader, Overloaded
from overdb_node.raft.membership import AddLearner, Change, Membership, Promote, Remove
from overdb_node.raft.types import Entry, Snapshot
from tests.paper.host import Disk, Host, encode_configuration
from tests.sizes import Sizes
from tests.unit.raft.checks import Checks, has
from tests.unit.raft.simulator import FAULTS, HEALING_ROUNDS_MAX, Faults, Simulation

IDS = 8  # replicas that there can ever be; the first three found the group
STEPS = 8000
CHANGE_PERCENT = 5.0
SEEDS = range(24)


class ChangingChecks(Checks):
    """The majority is that of the voters; which ones, the log says."""

    def __init__(self, disks: dict[int, Disk], hosts: dict[int, Host]) -> None:
        super().__init__(disks)
        self.hosts = hosts
        self._voters_seen: set[tuple[int, ...]] = set()

    def on_step(self, host: Host) -> None:
        super().on_step(host)
        if host.raft.is_leader:
            self._voters_seen.add(tuple(host.raft.voters))

    def _choose(self, host: Host, entry: Entry) -> None:
        assert entry.index == len(self._chosen_by), f"entry {entry.index} is applied out of order"
        self._voters_seen.update(
            tuple(h.raft.log.configuration.voters) for h in self.hosts.values()
        )
        holders = {i for i, disk in self.disks.items() if has(disk, entry.index, entry.term)}
        # A leader counted by the newest configuration in its log at that time, before this is applied.
        counted = sorted(voters for voters in self._voters_seen if voters)
        assert any(2 * len(holders & set(voters)) > len(voters) for voters in counted), (
            f"entry {entry.index} is applied, only {sorted(holders)} of {counted} have it on disk"
        )
        self.chosen[entry.index] = (entry.term, entry.payload)
        self._chosen_by.append(host.raft.term)
        self.read_floor = max(self.read_floor, entry.index)


class ChangingSimulation(Simulation):
    """A group of three, and five that may join. All of them run; who is a member is the log's to say."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, 3, FAULTS[seed % len(FAULTS)])
        self.checks = ChangingChecks(self.disks, self.hosts)
        self.changes: Counter[str] = Counter()
        self._choice = Random(-seed - 1)
        for replica_id in range(4, IDS + 1):
            self.disks[replica_id] = Disk(Snapshot(0, 0, 0, ()))
            self._start(replica_id)
        self.count = IDS

    def step(self) -> None:
        if self._choice.uniform(0, 100) < CHANGE_PERCENT:
            for host in self.up():
                if host.raft.is_leader:
                    self._change(host)
        super().step()

    def _change(self, host: Host) -> None:
        what = self._draw(host)
        if what == Remove(host.replica_id):
            # As production does: a leader that fails while it removes itself may be the only one that
            # could be elected, and does not campaign (3.6).
            others = [v for v in host.raft.voters if v != host.replica_id]
            if others:
                host.raft.transfer(self._choice.choice(others))
            host.pump()
            return
        try:
            before = host.raft.log.last_index
            host.raft.change_members(what, encode_configuration)
            self.changes[type(what).__name__] += host.raft.log.last_index > before
        except (MembershipRefused, NotLeader, Overloaded) as refused:
            self.changes[type(refused).__name__] += 1
        host.pump()
        self.checks.on_step(host)

    def _draw(self, host: Host) -> Change:
        configuration, choice = host.raft.log.configuration, self._choice
        known = {m.replica_id for m in configuration.members} | set(configuration.retired)
        new = sorted(set(self.disks) - known)
        learners = [m.replica_id for m in configuration.members if not m.voter]
        kind = choice.random()
        if kind < 0.4 and new:
            return AddLearner(new[0], f"replica-{new[0]}")
        if kind < 0.75 and learners:
            return Promote(choice.choice(learners))
        if len(configuration.members) > 3 or kind > 0.97:
            gone = choice.choice(configuration.members).replica_id
            return Remove(gone, forced=gone != host.replica_id and choice.random() < 0.5)
        return AddLearner(choice.choice([1, *new]), "elsewhere")

    def _transfer(self) -> None:
        for host in self.up():
            others = [v for v in host.raft.voters if v != host.replica_id]
            if host.raft.is_leader and others:
                host.raft.transfer(self.random.choice(others))
                self.happened["transfer"] += 1
                host.pump()

    def heal(self) -> None:
        """Without faults the members of the newest configuration agree, and go on."""
        self.faults = Faults(0, 0, 0, 0, 0, 0, 0, 0)
        self.cut = set()
        for replica_id in sorted(self.down):
            self._start(replica_id)
        for host in self.hosts.values():
            host.applies_at_once = True
            host.apply()
        goal = 0
        for self.healing_rounds in range(HEALING_ROUNDS_MAX):
            self._round()
            leaders = [h for h in self.hosts.values() if h.raft.is_leader]
            if len(leaders) != 1 or not leaders[0].raft.leading.committed_in_term:
                continue
            members = [self.hosts[m.replica_id] for m in leaders[0].raft.log.members]
            if not goal:
                self._ask()
                goal = leaders[0].raft.log.last_index
            elif len({h.state for h in members}) == 1 and members[0].state.index >= goal:
                break
        else:
            raise AssertionError(f"not healed after {HEALING_ROUNDS_MAX} heartbeats")
        self.checks.on_end(members)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_whose_members_change_loses_and_contradicts_nothing(
    seed: int, sizes: Sizes
) -> None:
    """The fixed seeds are run by the next test."""
    for block in range(sizes.pick(quick=1, full=10)):
        ChangingSimulation(sizes.first_seed + len(SEEDS) * block + seed).run(STEPS)


def test_these_schedules_change_members_and_meet_refusals() -> None:
    """A search in which nothing changes would be green, too."""
    met: Counter[str] = Counter()
    for seed in SEEDS:
        simulation = ChangingSimulation(seed)
        simulation.run(STEPS)
        met += simulation.changes
    assert met["AddLearner"] > 10
    assert met["Promote"] > 5
    assert met["Remove"] > 10
    for refusal in ("ChangeInProgress", "NotCommittedInTerm", "NotCaughtUp", "AddressConflict"):
        assert met[refusal] > 0, met


def test_several_changes_at_a_time_lose_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search finds what PROTOCOL 3.2 (!) is for: without the rule some seed goes red."""
    monkeypatch.setattr(Membership, "_refuse_out_of_turn", lambda *_: None)
    monkeypatch.setattr(Membership, "_refuse_unless_caught_up", lambda *_: None)
    for seed in range(60):
        try:
            ChangingSimulation(seed).run(STEPS)
        except Exception:  # an assertion of the checks, or a ProtocolViolation
            return
    raise AssertionError("no seed goes red without the rule: the search is blind")
