"""Answers that follow later, because a transaction holds a key (PROTOCOL 2.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_router.group_link import GroupLink
from overdb_router.late import LateOps
from overdb_router.operations import Kind, Op
from tests.unit.router.fakes import BatchClient, FakeCluster, FakeReplica, get, put, running, until

DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
Late = shard_pb2.Late


class Holding:
    """Makes a replica answer "later" for some positions of each message, and keeps what it will say."""

    def __init__(self, replica: FakeReplica, held: Callable[[int], bool] = lambda _: True) -> None:
        self._replica = replica
        self._held = held
        self.late: list[shard_pb2.ShardResponse] = []
        replica.tamper = self._tamper
        replica.shortens = False  # what is held up is no plain answer

    def _tamper(self, response: shard_pb2.ShardResponse) -> None:
        later = shard_pb2.ShardResponse(sequence=response.sequence)
        for position, result in enumerate(response.results):
            if self._held(position):
                later.late.add(position=position).result.CopyFrom(result)
                result.pending.SetInParent()
        for position, value in enumerate(response.values):
            if self._held(position):
                later.late.add(position=position).value.CopyFrom(value)
                value.Clear()
                value.pending.SetInParent()
        if later.late:
            self.late.append(later)

    def has_told(self, cluster: FakeCluster) -> bool:
        """Whether all that it holds was answered by "later", and the router has heard so."""
        return bool(self.late) and link(cluster).messages_in_flight == 0

    async def let_go(self) -> None:
        self._replica.tamper = None
        for later in self.late:
            await self._replica.send_late(later)
        self.late.clear()


def link(cluster: FakeCluster) -> GroupLink:
    return cluster.router.core.dispatcher.links[0].leader


def test_what_is_held_up_holds_up_nothing_else() -> None:
    """messages_in_flight_max is 1: a pending request does not fill the window."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            holding = Holding(cluster.leader(), lambda position: position == 1)
            client = BatchClient(cluster)
            await client.send(
                put(0, b"a"), put(1, b"b"), put(2, b"c"), get(10, b"a"), get(11, b"b")
            )
            await client.receive(3)
            assert set(client.answers) == {0, 2, 10}
            assert link(cluster).messages_in_flight == 0
            assert link(cluster).waiting_bytes > 0
            await client.send(put(3, b"d"), get(12, b"d"))
            await client.receive(5)
            searches = cluster.router.core.topology.leader_changes
            await asyncio.sleep(0.3)  # three times stall_seconds
            assert cluster.router.core.topology.leader_changes == searches
            assert len(cluster.leader().streams) == 1
            await holding.let_go()
            await client.receive(7)
            assert client.answers[1].put.version
            assert client.answers[11].WhichOneof("response") == "get"
            assert link(cluster).waiting_bytes == 0

    asyncio.run(scenario())


def test_it_is_sent_again_to_the_next_leader_and_before_what_waits() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            holding = Holding(cluster.leader())
            client = BatchClient(cluster)
            await client.send(put(0, b"a"), put(1, b"b"), get(2, b"a"))
            await until(lambda: len(holding.late) == 2)
            old = cluster.leader()
            cluster.groups[0].elect(1)
            await old.kill()
            await client.receive(3)
            assert client.answers[2].get.found
            assert cluster.groups[0].state.runs == 2
            [commands] = [one for one in cluster.leader().messages if one.commands]
            sent = log_pb2.Commands.FromString(commands.commands).commands
            assert [one.put.key for one in sent] == [b"a", b"b"]
            assert link(cluster).waiting_bytes == 0

    asyncio.run(scenario())


def test_at_its_deadline_a_write_is_unknown_and_a_late_answer_goes_nowhere() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            holding = Holding(cluster.leader())
            client = BatchClient(cluster)
            await client.send(put(0, b"a", timeout_ms=1000), get(1, b"a", timeout_ms=1000))
            await until(lambda: len(holding.late) == 2 and holding.has_told(cluster))
            assert not client.answers
            await client.receive(2)
            assert client.answers[0].error.code == DEADLINE_EXCEEDED
            assert "a transaction was in the way" in client.answers[0].error.message
            assert "same id" in client.answers[0].error.message
            assert client.answers[1].error.code == DEADLINE_EXCEEDED
            assert link(cluster).waiting_bytes == 0
            await holding.let_go()
            await client.send(put(2, b"b"))
            await client.receive(3)
            assert client.answers[2].HasField("put")

    asyncio.run(scenario())


def test_a_late_refusal_is_a_refusal() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            holding = Holding(cluster.leader())
            client = BatchClient(cluster)
            await client.send(put(0, b"a"))
            await until(lambda: holding.has_told(cluster))
            [late] = holding.late[0].late
            late.result.error.code = grpc.StatusCode.OUT_OF_RANGE.value[0]
            await holding.let_go()
            await client.receive(1)
            assert client.answers[0].error.code == grpc.StatusCode.OUT_OF_RANGE.value[0]

    asyncio.run(scenario())


def test_a_leader_that_steps_down_makes_it_go_to_the_next_one() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            holding = Holding(cluster.leader())
            client = BatchClient(cluster)
            await client.send(put(0, b"a"))
            await until(lambda: holding.has_told(cluster))
            old = cluster.leader()
            cluster.groups[0].elect(2)
            failure = shard_pb2.Failure(reason=shard_pb2.Failure.REASON_NOT_LEADER)
            [late] = holding.late
            del late.late[:]
            late.failure.CopyFrom(failure)
            await old.send_late(late)
            await client.receive(1)
            assert client.answers[0].HasField("put")
            assert cluster.groups[0].state.runs == 1

    asyncio.run(scenario())


def test_pending_requests_count_in_the_bound() -> None:
    async def scenario() -> None:
        async with running(groups=1, queued_bytes_max=1 << 20) as cluster:
            holding = Holding(cluster.leader())
            client = BatchClient(cluster)
            await client.send(put(0, b"a", b"x" * 900_000))
            await until(lambda: holding.has_told(cluster))
            await client.send(put(1, b"b", b"x" * 900_000))
            await client.receive(1)
            assert client.answers[1].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            await holding.let_go()
            await client.receive(2)

    asyncio.run(scenario())


def test_a_late_answer_that_is_too_large_ends_the_request() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            holding = Holding(cluster.leader())
            client = BatchClient(cluster)
            await client.send(put(0, b"a"), put(1, b"b"))
            await until(lambda: holding.has_told(cluster))
            group = link(cluster)
            group.answer_too_large("32 MiB")
            group.stream_ended()  # it asks for less at a time
            await until(lambda: len(holding.late) == 3 and holding.has_told(cluster))
            group.answer_too_large("32 MiB")
            await client.receive(2)
            assert client.answers[1].error.code == grpc.StatusCode.INTERNAL.value[0]
            assert group.waiting_bytes == 0

    asyncio.run(scenario())


class _NoSink:
    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None: ...

    def written(self, op: Op, version: int) -> None: ...

    def read(self, op: Op, value: shard_pb2.Value) -> None: ...

    def got(self, op: Op, content: bytes, version: int) -> None: ...

    def refused(self, op: Op, refusal: object) -> None: ...


def test_late_requests_are_kept_by_message_and_position() -> None:
    late = LateOps()
    ops = [
        Op(Kind.PUT, kv_pb2.PutRequest(), 10, deadline, _NoSink()) for deadline in (3.0, 1.0, 2.0)
    ]
    for position, op in enumerate(ops):
        late.add(7, position, op)
    assert late.bytes == 30
    assert 7 in late
    assert late.expired(0.5) == []
    assert late.expired(2.0) == ops[1:]
    assert late.expired(2.0) == []
    assert late.take(7, 1) is None
    assert late.take(8, 0) is None
    assert late.take(7, 0) is ops[0]
    assert not late
    assert late.bytes == 0
    late.add(9, 1, ops[1])
    late.add(9, 0, ops[0])
    assert late.take_all() == {9: [ops[0], ops[1]]}
    assert not late
    assert late.bytes == 0
