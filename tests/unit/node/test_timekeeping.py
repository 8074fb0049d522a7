"""A replica's clocks: what it stamps entries with, and what it says of a clock that is wrong (FAULTS 81)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from overdb.internal.v1 import log_pb2, raft_pb2, shard_pb2
from overdb_node import codec, timekeeping
from overdb_node.backend import ReplicaBackend
from overdb_node.metrics import NodeMetrics
from overdb_node.node import open_storage
from overdb_node.raft.group_time import HEARD_US_MAX
from overdb_node.raft.messages import Answer, Append, Message, TimeoutNow, VoteAnswer
from overdb_node.raft.types import EntryKind
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from overdb_node.timekeeping import CONFIRM_US, HAND_OVER_PAUSE_US, IDLE_US, Timekeeper
from overdb_node.transport import wire
from tests.unit.node.test_disk_stall import Caught, until

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_790_000_000 * SECOND


class Clocks:
    """The clocks of one machine: ``wall`` may be set, ``elapsed`` only goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = NOW
        self.elapsed = 500 * SECOND
        module = SimpleNamespace(time_ns=lambda: self.wall * 1000)
        monkeypatch.setattr(timekeeping, "time", module)
        monkeypatch.setattr(timekeeping, "elapsed_us", lambda: self.elapsed)

    def pass_by(self, microseconds: int) -> None:
        self.wall += microseconds
        self.elapsed += microseconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def timekeeper(*, leads: bool) -> Timekeeper:
    raft: Any = SimpleNamespace(replica_id=1, term=4, is_leader=leads, voters=[1, 2, 3])
    return Timekeeper(raft, 0)


def answer(wall_us: int, term: int = 4) -> Answer:
    return Answer(term, 1, True, 1, 1, 0, wall_us)


def ticks(keeper: Timekeeper, clocks: Clocks, microseconds: int) -> None:
    """Let the time pass in ticks, while the group goes on saying its time."""
    for _ in range(microseconds // 100_000):
        clocks.pass_by(100_000)
        keeper.tick()


def test_an_answer_carries_the_own_clock_and_a_heartbeat_the_groups(clocks: Clocks) -> None:
    keeper = timekeeper(leads=True)
    sent = keeper.outgoing(answer(0))
    assert isinstance(sent, Answer)
    assert sent.wall_us == NOW
    heartbeat = Append(4, 9, 5, (), 4)
    sent = keeper.outgoing(heartbeat)
    assert isinstance(sent, Append)
    assert sent.group_time_us == 0, "no quorum has said its clock"
    keeper.received(2, answer(NOW - SECOND))
    sent = keeper.outgoing(heartbeat)
    assert isinstance(sent, Append)
    assert sent.group_time_us == NOW - SECOND
    assert keeper.outgoing(TimeoutNow(4)) == TimeoutNow(4)
    assert clocks.wall == NOW


@pytest.mark.parametrize("leads", [True, False])
def test_what_was_heard_before_all_machines_slept_does_not_count(
    clocks: Clocks, leads: bool
) -> None:
    """No clock but the wall's has counted meanwhile: what was heard seems to be new."""
    keeper = timekeeper(leads=leads)

    def hear() -> None:
        keeper.received(2, answer(clocks.wall))
        keeper.received(2, Append(4, 9, 5, (), 4, clocks.wall))

    hear()
    clocks.pass_by(SECOND)
    assert keeper.group_time_us() == clocks.wall
    clocks.wall += 90 * SECOND
    assert keeper.group_time_us() is None
    hear()
    assert keeper.group_time_us() == clocks.wall


def test_a_clock_before_1970_is_still_a_clock(clocks: Clocks) -> None:
    """0 would be that of release 0.1.0, which leaves the time to the leader."""
    clocks.wall = -DAY
    sent = timekeeper(leads=False).outgoing(answer(0))
    assert isinstance(sent, Answer)
    assert sent.wall_us == 1


@pytest.mark.parametrize(
    "message",
    [
        Append(4, 9, 5, (), 4, group_time_us=NOW),
        Answer(4, 9, True, 5, 4, 100, wall_us=NOW),
        Append(4, 9, 5, (), 4),
        Answer(4, 9, True, 5, 4),
    ],
)
def test_clocks_cross_the_wire(message: Message) -> None:
    out = raft_pb2.RaftMessage()
    wire.encode(message, out)
    assert wire.decode(raft_pb2.RaftMessage.FromString(out.SerializeToString())) == message


def test_answers_of_another_term_and_to_one_that_does_not_lead_count_for_nothing(
    clocks: Clocks,
) -> None:
    keeper = timekeeper(leads=True)
    keeper.received(2, answer(NOW, term=3))
    assert keeper.group_time_us() is None
    follower = timekeeper(leads=False)
    follower.received(2, answer(NOW))
    assert follower.group_time_us() is None
    assert clocks.wall == NOW


def test_a_follower_knows_the_groups_time_by_heartbeats_and_not_for_longer(clocks: Clocks) -> None:
    keeper = timekeeper(leads=False)
    keeper.received(2, Append(4, 9, 5, (), 4, group_time_us=NOW - DAY))
    clocks.pass_by(SECOND)
    assert keeper.group_time_us() == NOW - DAY + SECOND
    assert keeper.offset_us == DAY
    clocks.pass_by(HEARD_US_MAX)
    assert keeper.group_time_us() is None
    assert keeper.offset_us == 0


@pytest.mark.parametrize(("offset", "words"), [(DAY, "86400 s ahead of"), (-DAY, "86400 s behind")])
def test_a_clock_that_stays_wrong_is_told_and_told_no_more_once_it_is_right(
    clocks: Clocks, offset: int, words: str
) -> None:
    keeper = timekeeper(leads=False)

    def hear(group_us: int) -> None:
        keeper.received(2, Append(4, 9, 5, (), 4, group_time_us=group_us))

    hear(clocks.wall - offset)
    ticks(keeper, clocks, CONFIRM_US)
    assert keeper.problem == "", "what was heard may be old for a moment"
    hear(clocks.wall - offset)
    ticks(keeper, clocks, 200_000)
    assert words in keeper.problem
    assert "set it" in keeper.problem
    assert not keeper.should_hand_over(), "it does not lead"
    hear(clocks.wall)
    ticks(keeper, clocks, CONFIRM_US)
    assert words in keeper.problem, "a new leader may know the wrong clock only"
    hear(clocks.wall)
    ticks(keeper, clocks, 200_000)
    assert keeper.problem == ""


def test_a_groups_time_is_called_wrong_by_a_quorum_of_clocks_that_agree(clocks: Clocks) -> None:
    """A new leader that has heard the wrong clock first knows two, and the smaller one is the median."""
    keeper = timekeeper(leads=True)
    state = machine(NOW)
    keeper.received(2, answer(NOW - DAY))
    assert keeper.group_time_us() == NOW - DAY
    assert not keeper.clocks_agree
    assert keeper.group_problem(state) == ""
    keeper.received(3, answer(NOW))
    assert keeper.clocks_agree
    assert keeper.group_problem(state) == ""
    state.physical = NOW + DAY
    assert "86400 s ahead" in keeper.group_problem(state)


def test_a_problem_stays_while_nothing_is_heard(clocks: Clocks) -> None:
    keeper = timekeeper(leads=False)
    keeper.received(2, Append(4, 9, 5, (), 4, group_time_us=NOW - DAY))
    ticks(keeper, clocks, CONFIRM_US + 200_000)
    assert keeper.problem
    ticks(keeper, clocks, 10 * SECOND)
    assert keeper.problem, "it was not heard that the clock is right again"


def test_a_leader_whose_clock_is_wrong_hands_over_and_tries_again_after_a_pause(
    clocks: Clocks,
) -> None:
    keeper = timekeeper(leads=True)

    def pass_by(microseconds: int) -> None:
        for _ in range(microseconds // 100_000):
            for follower in (2, 3):
                keeper.received(follower, answer(clocks.wall + DAY))
            clocks.pass_by(100_000)
            keeper.tick()

    pass_by(CONFIRM_US)
    assert not keeper.should_hand_over()
    pass_by(200_000)
    assert keeper.should_hand_over()
    assert keeper.clocks_that_are_right() == {2, 3}
    assert keeper.should_hand_over(), "until somebody answers to whom it can"
    keeper.hands_over()
    assert not keeper.should_hand_over()
    pass_by(HAND_OVER_PAUSE_US)
    assert keeper.should_hand_over()


def test_a_jump_of_the_clock_is_logged(clocks: Clocks, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = timekeeper(leads=False)
    ticks(keeper, clocks, SECOND)
    assert "clock_jumped" not in capsys.readouterr().out
    clocks.wall += DAY
    keeper.tick()
    assert "86400" in capsys.readouterr().out


# --- moving the time of an idle group ---------------------------------------------------------------

HOUR = 3600 * SECOND


def machine(physical: int, retention_us: int = HOUR) -> Any:
    return SimpleNamespace(physical=physical, retention_us=retention_us, client_id_lifetime_us=HOUR)


def idle_leader(clocks: Clocks) -> Timekeeper:
    raft: Any = SimpleNamespace(replica_id=1, term=4, is_leader=True, serves=True, voters=[1])
    assert clocks.wall
    return Timekeeper(raft, 0)


def test_the_time_of_an_idle_group_goes_on_while_something_may_wait_for_it(clocks: Clocks) -> None:
    """A full disk, for one, is freed by the end of the retention alone."""
    keeper, state = idle_leader(clocks), machine(NOW)
    entries = []
    for _ in range(3 * 3600):
        clocks.pass_by(SECOND)
        if keeper.should_move_time(state):
            assert not keeper.should_move_time(state), "one is on its way"
            state.physical = clocks.wall
            entries.append(clocks.wall - NOW)
    assert max(b - a for a, b in pairwise(entries)) <= IDLE_US + 2 * SECOND
    assert HOUR < entries[-1] <= 2 * HOUR + 2 * SECOND, "and then the group does nothing any more"
    keeper.worked()
    clocks.pass_by(IDLE_US)
    assert keeper.should_move_time(state)


def test_short_retentions_have_the_time_go_on_more_often_and_not_for_longer(clocks: Clocks) -> None:
    keeper, state = idle_leader(clocks), machine(NOW, 4 * SECOND)
    entries = []
    for _ in range(4 * 3600):
        clocks.pass_by(SECOND // 2)
        if keeper.should_move_time(state):
            state.physical = clocks.wall
            entries.append(clocks.wall - NOW)
    assert sum(at <= 8 * SECOND for at in entries) in range(4, 9)
    assert sum(at > 8 * SECOND for at in entries) <= 2 * HOUR // IDLE_US


def test_one_that_does_not_lead_moves_nothing(clocks: Clocks) -> None:
    keeper = timekeeper(leads=False)
    keeper._raft.serves = False  # type: ignore[misc]
    keeper.received(2, Append(4, 9, 5, (), 4, group_time_us=NOW))
    assert not keeper.should_move_time(machine(NOW - HOUR))
    assert not keeper.is_stale(machine(NOW - HOUR))
    assert clocks.wall == NOW


def test_a_version_chosen_now_is_stale_when_the_groups_time_is_further(clocks: Clocks) -> None:
    keeper = idle_leader(clocks)
    assert not keeper.is_stale(machine(NOW - SECOND))
    assert keeper.is_stale(machine(NOW - SECOND - 1))
    assert keeper.is_stale(machine(NOW - SECOND // 2 - 1, 2 * SECOND)), "a quarter of the retention"


def test_a_group_whose_time_is_ahead_of_its_clocks_is_told_with_the_way_back(
    clocks: Clocks,
) -> None:
    keeper = idle_leader(clocks)
    assert keeper.group_problem(machine(NOW + 10 * SECOND)) == ""
    told = keeper.group_problem(machine(NOW + DAY))
    assert "86400 s ahead" in told
    assert "`overdb time repair --group 0`" in told
    assert timekeeper(leads=False).group_problem(machine(NOW + DAY)) == ""


# --- in a replica --------------------------------------------------------------------------------


class Sent:
    """Stands for the links to the other replicas."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Message]] = []

    def send(self, to: int, message: Message) -> None:
        self.messages.append((to, message))


def test_a_new_leader_stamps_nothing_of_a_client_before_a_quorum_has_said_its_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL 2.1: the limits are stamped 0; requests wait, and get the group's time, not the leader's."""

    async def run() -> None:
        settings = NodeSettings.model_validate(
            {
                "node_id": 1,
                "groups": 1,
                "members": "1=127.0.0.1:1,2=127.0.0.1:1,3=127.0.0.1:1",
                "data": tmp_path / "node",
            }
        )
        metrics = NodeMetrics(CollectorRegistry(), 0, 1)
        replica = Replica(settings, open_storage(settings), metrics, lambda _: None)
        sent = Sent()
        monkeypatch.setattr(replica.peers, "send", sent.send)
        replica.admission.established = True
        replica.schedule_turn()
        try:
            raft = replica.raft
            raft.election._pre_campaign()
            replica.receive(2, [VoteAnswer(raft.term + 1, True, pre=True)])
            term = raft.term
            await until(raft.hard_state_is_durable)
            replica.receive(2, [VoteAnswer(term, True)])
            assert raft.is_leader
            answers = Caught()
            commands = log_pb2.Commands(
                commands=[log_pb2.Command(compare=log_pb2.CompareReplicas())]
            )
            replica.propose(commands.SerializeToString(), 7, answers)
            await until(lambda: raft.durable == raft.log.last_index)
            stamps = [codec.decode_envelope(entry.payload)[0] for entry in _commands_of(replica)]
            assert stamps == [0], "only the limits"
            behind = timekeeping.wall_us() - DAY
            said = Answer(term, raft.leading.round, False, 0, 0, 0, behind)
            replica.receive(2, [said, replace(said, wall_us=behind)])
            await until(lambda: len(_commands_of(replica)) == 2)
            stamp, _ = codec.decode_envelope(_commands_of(replica)[1].payload)
            assert behind <= stamp < behind + 60 * SECOND
            assert answers.caught == []
        finally:
            await replica.stop()

    asyncio.run(run())


def _commands_of(replica: Replica) -> list[Any]:
    log = replica.raft.log
    entries = log.slice(log.first_index + 1, log.last_index)
    return [entry for entry in entries if entry.kind is EntryKind.COMMANDS]


def test_what_waits_for_the_time_is_refused_when_leadership_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is in a log: the router asks the next leader."""

    async def run() -> None:
        settings = NodeSettings.model_validate(
            {"node_id": 1, "groups": 1, "members": "1=127.0.0.1:1", "data": tmp_path / "node"}
        )
        metrics = NodeMetrics(CollectorRegistry(), 0, 1)
        replica = Replica(settings, open_storage(settings), metrics, lambda _: None)
        replica.start()
        try:
            await until(lambda: replica.raft.is_leader and replica.raft.applied > 1)
            monkeypatch.setattr(replica.timekeeper, "group_time_us", lambda: None)
            answers = Caught()
            replica.propose(b"", 7, answers)
            last = replica.raft.log.last_index
            replica._turn()
            assert answers.caught == []
            assert replica.raft.log.last_index == last
            replica.raft.step_down()
            replica._turn()
            assert answers.caught[0].failure.reason == shard_pb2.Failure.REASON_NOT_LEADER
        finally:
            await replica.stop()

    asyncio.run(run())


def test_a_question_for_the_clock_moves_the_time_of_an_idle_group_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL 2.7: else the version is out of date when it is read at."""

    async def run() -> None:
        settings = NodeSettings.model_validate(
            {"node_id": 1, "groups": 1, "members": "1=127.0.0.1:1", "data": tmp_path / "node"}
        )
        metrics = NodeMetrics(CollectorRegistry(), 0, 1)
        replica = Replica(settings, open_storage(settings), metrics, lambda _: None)
        replica.start()
        try:
            await until(lambda: replica.raft.is_leader and replica.raft.applied > 1)
            later = timekeeping.wall_us() + 2 * HOUR
            monkeypatch.setattr(timekeeping, "wall_us", lambda: later)
            question = shard_pb2.DescribeRequest(linearizable=True)
            answers = await asyncio.gather(
                *(ReplicaBackend(replica).describe(question) for _ in "ab")
            )
            assert all(answer.clock >= later for answer in answers)
            assert all(answer.physical == later for answer in answers)
            last = replica.raft.log.last_index
            answer = await ReplicaBackend(replica).describe(question)
            assert answer.clock >= later
            assert replica.raft.log.last_index == last, "once is enough"
        finally:
            await replica.stop()

    asyncio.run(run())


def test_the_time_of_a_group_is_set_back_by_its_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        settings = NodeSettings.model_validate(
            {"node_id": 1, "groups": 1, "members": "1=127.0.0.1:1", "data": tmp_path / "node"}
        )
        metrics = NodeMetrics(CollectorRegistry(), 0, 1)
        replica = Replica(settings, open_storage(settings), metrics, lambda _: None)
        backend = ReplicaBackend(replica)
        right = timekeeping.wall_us()
        request = shard_pb2.RepairTimeRequest()
        replica.start()
        try:
            await until(lambda: replica.raft.is_leader and replica.machine.level >= 1)
            monkeypatch.setattr(timekeeping, "wall_us", lambda: right + DAY)
            await backend.describe(shard_pb2.DescribeRequest(linearizable=True))
            assert replica.machine.physical == right + DAY
            refused = await backend.repair_time(request)
            assert refused.error.code == 9, "its clocks still say so"
            monkeypatch.setattr(timekeeping, "wall_us", lambda: right + SECOND)
            assert "86399 s ahead" in replica.problem
            with monkeypatch.context() as patch:
                patch.setattr(timekeeping.Timekeeper, "clocks_agree", False)
                assert replica.problem == ""
                refused = await backend.repair_time(request)
                assert "do not agree" in refused.error.message
                assert replica.machine.physical == right + DAY
            done = await backend.repair_time(request)
            assert (done.before_us, done.after_us) == (right + DAY, right + SECOND)
            assert replica.machine.physical == right + SECOND
            assert replica.machine.clock > right + DAY
            assert replica.problem == ""
            other = await backend.repair_time(shard_pb2.RepairTimeRequest(group=1))
            assert other.failure.reason == shard_pb2.Failure.REASON_WRONG_GROUP_ID
        finally:
            await replica.stop()

    asyncio.run(run())
