"""A leader finishes what a router left open (PROTOCOL 2.5, 2.10), on real state machines of two groups."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_node import codec
from overdb_node.finishing import Finisher, Overdue
from overdb_node.machine.records import Transaction
from overdb_node.machine.types import Operation, OperationKind, Outcome, Prepare, VoteKind
from overdb_node.transport.shard_service import Answers
from tests.unit.machine.helpers import NOW, Group
from tests.unit.machine.test_participant import (
    acknowledged,
    commit,
    forget,
    identity,
    prepare,
    put,
    vote,
)


def apply(group: Group, wire: bytes) -> list[shard_pb2.Result]:
    """As a leader's log would: from the bytes of a message to the results on the wire."""
    _, commands = codec.decode_envelope(codec.encode_envelope(NOW, wire))
    results = []
    for result in group.entry(*commands):
        results.append(shard_pb2.Result())
        codec.fill_result(results[-1], result)
    return results


class Cluster:
    """The finisher of group 0, and both groups' machines."""

    def __init__(self) -> None:
        self.own, self.other = Group(), Group()
        self.reachable = True
        self.sent: list[str] = []
        settings = SimpleNamespace(group=0, seeds="", finish_seconds=1.0, forget_seconds=2.0)
        self.replica: Any = SimpleNamespace(
            settings=settings,
            raft=SimpleNamespace(serves=True, installing=None),
            machine=self.own.machine,
            propose=self._propose,
        )
        self.finisher = Finisher(cast("Any", self.replica))
        self.finisher._groups.submit = self._submit  # type: ignore[method-assign]

    def _propose(self, wire: bytes, sequence: int, answers: Answers) -> None:
        self.sent += _kinds(0, log_pb2.Commands.FromString(wire).commands)
        answers.send(shard_pb2.ShardResponse(sequence=sequence, results=apply(self.own, wire)))

    async def _submit(
        self, group: int, commands: Sequence[log_pb2.Command]
    ) -> list[shard_pb2.Result] | None:
        self.sent += _kinds(group, commands)
        if not self.reachable:
            return None
        return apply(self.other, log_pb2.Commands(commands=commands).SerializeToString())

    async def finish(self) -> None:
        participant = self.own.machine.participant
        await self.finisher._run(list(participant.open.values()), [])


def _kinds(group: int, commands: Sequence[log_pb2.Command]) -> list[str]:
    return [f"{group} {command.WhichOneof('command')}" for command in commands]


COMMAND = prepare(1, put(b"a", b"1"))


def run(scenario: Any) -> None:
    async def main() -> None:
        await scenario(Cluster())

    asyncio.run(main())


def test_all_votes_are_there_so_it_is_committed_everywhere_and_forgotten() -> None:
    async def scenario(cluster: Cluster) -> None:
        for group in (cluster.own, cluster.other):
            group.one(COMMAND)
        await cluster.finish()
        for group in (cluster.own, cluster.other):
            assert group.value(b"a") == b"1"
            (record,) = group.machine.participant.transactions()
            assert record.forget
        assert [one.split()[1] for one in cluster.sent] == ["inquire"] + ["resolve"] * 2 + [
            "forget"
        ] * 2

    run(scenario)


def test_a_vote_that_was_never_given_is_fenced_off_and_it_is_aborted() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.own.one(COMMAND)
        await cluster.finish()
        assert not cluster.own.machine.participant.open
        assert cluster.own.value(b"a") is None
        assert (
            vote(cluster.other.one(COMMAND)).kind is VoteKind.REFUSED
        )  # the Prepare comes too late

    run(scenario)


def test_without_an_answer_it_stays_open_and_nothing_is_told() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.own.one(COMMAND)
        cluster.reachable = False
        await cluster.finish()
        assert set(cluster.own.machine.participant.open) == {identity(COMMAND)}
        assert cluster.sent == ["1 inquire"]
        cluster.reachable = True
        await cluster.finish()
        assert not cluster.own.machine.participant.open

    run(scenario)


def test_answers_count_only_while_the_own_vote_is_open() -> None:
    """(!) The router was alive after all, and the other group has forgotten: it says Refused."""

    async def scenario(cluster: Cluster) -> None:
        versions = [vote(group.one(COMMAND)).version for group in (cluster.own, cluster.other)]
        due = list(cluster.own.machine.participant.open.values())
        for group in (cluster.own, cluster.other):
            group.one(commit(COMMAND, max(versions)))
        cluster.other.one(forget(COMMAND))
        acknowledged(cluster.other)
        await cluster.finisher._run(due, [])
        assert cluster.sent == ["1 inquire"]
        assert not cluster.own.machine.participant.alarms

    run(scenario)


def test_an_outcome_that_others_may_not_have_is_told_again_and_forgotten() -> None:
    """2.10: the router died between the Resolves."""

    async def scenario(cluster: Cluster) -> None:
        versions = [vote(group.one(COMMAND)).version for group in (cluster.own, cluster.other)]
        cluster.own.one(commit(COMMAND, max(versions)))
        known = list(cluster.own.machine.participant.unforgotten.values())
        await cluster.finisher._run([], known)
        assert cluster.other.value(b"a") == b"1"
        for group in (cluster.own, cluster.other):
            assert not group.machine.participant.unforgotten

    run(scenario)


def test_an_operation_that_cannot_run_comes_to_the_same_for_every_finisher() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.other.one(prepare(5, put(b"n", b"text")))
        at = vote(cluster.other.one(prepare(5, put(b"n", b"text")))).version
        cluster.other.one(commit(prepare(5), at))
        adding: Prepare = prepare(1, _add(b"n"))
        cluster.own.one(COMMAND)
        cluster.other.one(adding)
        await cluster.finish()
        for group in (cluster.own, cluster.other):
            record = group.machine.participant.find_id(identity(COMMAND))
            assert record is not None
            assert record.vote is not None
            assert record.vote.outcome is Outcome.NONE
        assert cluster.own.value(b"a") is None

    run(scenario)


def _add(key: bytes) -> Operation:
    return Operation(OperationKind.ADD, key, delta=1)


def test_a_sign_of_life_starts_the_wait_anew() -> None:
    group = Group()
    group.one(COMMAND)
    participant = group.machine.participant
    overdue = Overdue(1.0)
    assert not overdue.pick(participant.open, 10.0)
    assert not overdue.pick(participant.open, 10.9)
    group.one(COMMAND)  # the router sends its Prepare again
    assert not overdue.pick(participant.open, 11.1)
    assert not overdue.pick(participant.open, 12.0)
    assert [one.id for one in overdue.pick(participant.open, 12.2)] == [identity(COMMAND)]


def test_one_whose_outcome_was_not_believed_is_finished_at_the_next_tick() -> None:
    overdue = Overdue(1000.0)
    watched = {one.id: one for one in _two_open()}
    first, second = watched
    assert overdue.pick(watched, 10.0) == []
    overdue.hurried.add(second)
    assert overdue.pick(watched, 10.1) == [watched[second]]
    assert overdue.pick(watched, 10.2) == []
    assert first in watched


def _two_open() -> list[Transaction]:
    group = Group()
    for number in (1, 2):
        vote(group.one(prepare(number, put(b"k%d" % number))))
    return list(group.machine.participant.open.values())


def test_a_message_of_a_later_version_is_refused_and_ends_nobody() -> None:
    """Enums are open on the wire: a number that is not known must not stop a committed entry."""
    resolve = log_pb2.Command()
    resolve.ParseFromString(log_pb2.Command(resolve=log_pb2.Resolve(attempt=1)).SerializeToString())
    resolve.resolve.MergeFromString(b"\x18\x09")  # branch = 9
    wire = log_pb2.Commands(commands=[resolve]).SerializeToString()
    (result,) = apply(Group(), wire)
    assert result.HasField("error")


def test_a_group_that_does_not_answer_holds_up_only_what_it_takes_part_in() -> None:
    async def scenario(cluster: Cluster) -> None:
        stuck = asyncio.Event()
        submit = cluster.finisher._groups.submit

        async def slow(group: int, commands: Sequence[log_pb2.Command]) -> Any:
            if group == 2:
                await stuck.wait()
            return await submit(group, commands)

        cluster.finisher._groups.submit = slow  # type: ignore[method-assign]
        with_dead = prepare(2, put(b"b"))._replace(participants=(0, 2))
        cluster.own.one(with_dead)
        for group in (cluster.own, cluster.other):
            group.one(COMMAND)
        now = asyncio.get_running_loop().time()
        cluster.finisher.tick()
        for identity_, (mark, _) in list(cluster.finisher._open._since.items()):
            cluster.finisher._open._since[identity_] = (mark, now - 10)
        cluster.finisher.tick()
        async with asyncio.timeout(5):
            while identity(COMMAND) in cluster.own.machine.participant.open:
                await asyncio.sleep(0)
        assert identity(with_dead) in cluster.own.machine.participant.open
        await cluster.finisher.close()

    run(scenario)
