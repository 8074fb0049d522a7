"""Transactions over groups that only read: double collect, through KV.Transact and Batch (PROTOCOL 2.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_router.compares import holds
from overdb_router.operations import Op
from overdb_router.strict_reads import StrictReads
from tests.unit.router.fakes import BatchClient, FakeCluster, running

Compare = kv_pb2.Compare


def reading(*keys: bytes, compares: tuple[Compare, ...] = ()) -> kv_pb2.TransactRequest:
    request = kv_pb2.TransactRequest(compares=compares)
    for key in keys:
        request.then.add().get.key = key
    return request


def sets(cluster: FakeCluster, group: int) -> list[shard_pb2.ReadSet]:
    """Every read set that the leader of a group was sent."""
    messages = cluster.leader(group).messages
    return [r.set for m in messages for r in m.reads.reads if r.HasField("set")]


def commands(cluster: FakeCluster, group: int) -> int:
    return sum(message.count for message in cluster.leader(group).messages)


def writing_before_round_two(
    cluster: FakeCluster, key: bytes, values: list[bytes | None]
) -> Callable[[shard_pb2.Read], None]:
    """Change a key of group 1 each time that it is asked the second time, as long as there are values."""

    def before(read: shard_pb2.Read) -> None:
        if read.set.versions and values:
            cluster.groups[1].state.write(key, values.pop(0))

    return before


def fallbacks_of(cluster: FakeCluster) -> list[Op]:
    """Have reads that give up refused and listed."""
    taken: list[Op] = []

    def fallback(op: Op, groups: list[int]) -> None:
        taken.append(op)
        assert groups == [0, 1]
        op.sink.answered(op, "transact", shard_pb2.Result(transact=kv_pb2.TransactResponse()))

    dispatcher = cluster.router.core.dispatcher
    limit = cluster.router.core.settings.request_bytes_max
    dispatcher.on_several = StrictReads(dispatcher, limit, fallback).submit
    return taken


def test_reads_over_groups_are_two_rounds_and_no_log_entry() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            keys = [cluster.key_of(group, n) for n in range(2) for group in (0, 1)]
            for number, key in enumerate(keys[:3]):
                cluster.groups[number % 2].state.write(key, b"%d" % number)
            newest = cluster.groups[1].state.clock = cluster.groups[0].state.clock
            response = await cluster.kv.Transact(reading(*keys, keys[0]))
            assert response.succeeded
            values = [(one.found, one.value) for one in response.results]
            expected = [(True, b"0"), (True, b"1"), (True, b"2"), (False, b""), (True, b"0")]
            assert values == expected
            assert response.version == newest
            for group in (0, 1):
                first, second = sets(cluster, group)
                assert len(first.keys) == 2
                assert not first.versions
                assert list(second.keys) == list(first.keys)
                assert second.clock == newest
                assert commands(cluster, group) == 0

    asyncio.run(scenario())


def test_the_branch_is_chosen_by_compares_of_all_groups() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[0].state.write(a, b"1")
            equal = Compare.OPERATOR_EQUAL
            missing = Compare(key=b, operator=equal, exists=False)
            request = reading(a, compares=(missing, Compare(key=a, operator=equal, value=b"1")))
            request.otherwise.add().get.key = b
            assert (await cluster.kv.Transact(request)).results[0].value == b"1"
            cluster.groups[1].state.write(b, b"2")
            response = await cluster.kv.Transact(request)
            assert not response.succeeded
            assert [one.value for one in response.results] == [b"2"]

    asyncio.run(scenario())


@pytest.mark.parametrize("slow", [0, 1])
def test_a_change_between_the_rounds_collects_again(slow: int) -> None:
    async def scenario() -> None:
        async with running() as cluster:
            cluster.leader(slow).delay_seconds = 0.02
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[1].state.write(b, b"old")
            cluster.leader(1).before_read = writing_before_round_two(cluster, b, [b"new"])
            response = await cluster.kv.Transact(reading(a, b))
            assert [one.value for one in response.results] == [b"", b"new"]
            assert len(sets(cluster, 1)) >= 4

    asyncio.run(scenario())


@pytest.mark.parametrize("before", [None, b"there"])
def test_a_delete_between_the_rounds_is_a_change(before: bytes | None) -> None:
    """Also of a key without a value, and a delete that is undone by a second tombstone."""

    async def scenario() -> None:
        async with running() as cluster:
            taken = fallbacks_of(cluster)
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[1].state.write(b, before)
            cluster.leader(1).before_read = writing_before_round_two(cluster, b, [None, None])
            response = await cluster.kv.Transact(reading(a, b))
            assert not any(one.found for one in response.results)
            assert response.results[1].version == 0
            assert response.version == cluster.groups[1].state.clock  # that of the tombstone
            assert not taken
            rounds = [list(one.versions) for one in sets(cluster, 1)]
            assert rounds[-1] == [response.version]

    asyncio.run(scenario())


def test_a_read_that_fails_too_often_becomes_a_transaction() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            taken = fallbacks_of(cluster)
            a, b = cluster.key_of(0), cluster.key_of(1)
            values: list[bytes | None] = [b"%d" % n for n in range(9)]
            cluster.leader(1).before_read = writing_before_round_two(cluster, b, values)
            await cluster.kv.Transact(reading(a, b))
            assert len(taken) == 1
            assert sum(not one.versions for one in sets(cluster, 0)) == 3
            assert not taken[0].done

    asyncio.run(scenario())


def test_what_writes_is_no_strict_read() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            taken = fallbacks_of(cluster)
            request = reading(cluster.key_of(0), cluster.key_of(1))
            request.otherwise.add().delete.key = cluster.key_of(0)
            await cluster.kv.Transact(request)
            assert len(taken) == 1
            assert not sets(cluster, 0)

    asyncio.run(scenario())


def test_a_group_that_is_behind_is_brought_to_what_was_read() -> None:
    """Without asking groups that the read has nothing to do with."""

    async def scenario() -> None:
        async with running(groups=3) as cluster:
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[0].state.clock = 7000
            cluster.groups[0].state.write(a, b"1")
            cluster.groups[2].leader = -1
            response = await cluster.kv.Transact(reading(a, b), timeout=3)
            assert response.version == 7001
            assert cluster.groups[1].state.clock == 7001
            assert [bool(one.clock) for one in sets(cluster, 1)] == [False, True, True]

    asyncio.run(scenario())


def test_batch_answers_strict_reads_among_the_rest() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[1].state.write(b, b"1")
            client = BatchClient(cluster)
            await client.send(
                *(
                    kv_pb2.BatchRequest.Entry(tag=tag, transact=reading(a, b))
                    for tag in range(1, 101)
                )
            )
            await client.receive(100)
            assert all(e.transact.results[1].value == b"1" for e in client.answers.values())
            await client.done()
            assert not await client.receive_one()

    asyncio.run(scenario())


def test_a_leader_change_between_the_rounds_loses_nothing() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[1].state.write(b, b"1")
            cluster.leader(1).drops = 1
            response = await cluster.kv.Transact(reading(a, b))
            assert response.results[1].value == b"1"

    asyncio.run(scenario())


def test_without_a_leader_nothing_was_done() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            cluster.groups[1].leader = -1
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Transact(
                    reading(cluster.key_of(0), cluster.key_of(1)), timeout=0.5
                )
            assert "unknown" not in str(refused.value.details())
            assert refused.value.code() is not grpc.StatusCode.INTERNAL

    asyncio.run(scenario())


def test_too_much_to_read_is_refused_with_the_limit() -> None:
    async def scenario() -> None:
        async with running(request_bytes_max=1 << 20, value_bytes_max=400_000) as cluster:
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[0].state.write(a, b"x" * 400_000)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Transact(reading(a, a, a, b))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "1200000 bytes, the limit is 1048576" in str(refused.value.details())

    asyncio.run(scenario())


def test_an_answer_that_a_plain_client_could_not_receive_is_refused() -> None:
    """Four values of 1 MiB are within the limit of values, and beyond it with what is around them."""

    async def scenario() -> None:
        async with running() as cluster:
            a, b = cluster.key_of(0), cluster.key_of(1)
            cluster.groups[0].state.write(a, b"x" * (1 << 20))
            cluster.groups[1].state.write(b, b"x" * (1 << 20))
            response = await cluster.kv.Transact(reading(a, a, b))
            assert response.ByteSize() < 4 << 20
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Transact(reading(a, a, b, b))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "with what is around them" in str(refused.value.details())
            thousand = await asyncio.gather(
                cluster.kv.Transact(reading(*[a] * 1000, b)), return_exceptions=True
            )
            assert "1049624576 bytes" in str(thousand[0])

    asyncio.run(scenario())


def test_an_answer_of_another_form_is_refused() -> None:
    async def scenario() -> None:
        async with running() as cluster:

            def tamper(response: shard_pb2.ShardResponse) -> None:
                for value in response.values:
                    if value.HasField("set"):
                        value.set.ClearField("versions")

            cluster.leader(1).tamper = tamper
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Transact(reading(cluster.key_of(0), cluster.key_of(1)))
            assert refused.value.code() is grpc.StatusCode.INTERNAL

    asyncio.run(scenario())


EQUAL, NOT_EQUAL = Compare.OPERATOR_EQUAL, Compare.OPERATOR_NOT_EQUAL
LESS, GREATER = Compare.OPERATOR_LESS, Compare.OPERATOR_GREATER
OPERATORS = (EQUAL, NOT_EQUAL, LESS, GREATER)


def test_compares_of_a_missing_key() -> None:
    """As inside a group: version 0, no value."""
    missing = kv_pb2.GetResponse()
    by_value = [holds(Compare(operator=o, value=b""), missing) for o in OPERATORS]
    assert by_value == [False, True, False, False]
    at_zero = [holds(Compare(operator=o, version=0), missing) for o in OPERATORS]
    assert at_zero == [True, False, False, False]
    assert holds(Compare(operator=LESS, version=1), missing)
    assert holds(Compare(operator=EQUAL, exists=False), missing)
    assert holds(Compare(operator=NOT_EQUAL, exists=True), missing)
    assert not holds(Compare(operator=EQUAL, exists=True), missing)


@settings(max_examples=200)
@given(st.binary(max_size=2), st.binary(max_size=2), st.integers(1, 3), st.integers(0, 4))
def test_compares_of_a_value(value: bytes, operand: bytes, version: int, other: int) -> None:
    read = kv_pb2.GetResponse(found=True, value=value, version=version)
    orders = {
        EQUAL: (value == operand, version == other),
        NOT_EQUAL: (value != operand, version != other),
        LESS: (value < operand, version < other),
        GREATER: (value > operand, version > other),
    }
    for operator, expected in orders.items():
        by_value = holds(Compare(operator=operator, value=operand), read)
        by_version = holds(Compare(operator=operator, version=other), read)
        assert (by_value, by_version) == expected
