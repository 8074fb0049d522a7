"""Transactions over several groups through a router (PROTOCOL 2.3, 2.4)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_router.coordinator import SIGN_OF_LIFE_SECONDS
from overdb_router.ids import uuid7
from tests.unit.router.fakes import BatchClient, FakeCluster, running, until
from tests.unit.router.txn.participant import FakeParticipant

Vote = shard_pb2.Vote
Code = grpc.StatusCode


@contextlib.asynccontextmanager
async def taking_part(
    **options: Any,
) -> AsyncIterator[tuple[FakeCluster, list[FakeParticipant]]]:
    async with running(**options) as cluster:
        yield cluster, [FakeParticipant(group) for group in cluster.groups]


def puts(cluster: FakeCluster, value: bytes = b"v", number: int = 0) -> kv_pb2.TransactRequest:
    """A write of one key in each group."""
    request = kv_pb2.TransactRequest()
    for group in cluster.groups:
        put = request.then.add().put
        put.key, put.value = cluster.key_of(group.number, number), value
    return request


def own(number: int = 1) -> kv_pb2.RequestId:
    client_id = uuid7(int(time.time() * 1000), b"r" * 10)
    return kv_pb2.RequestId(client_id=client_id, request_number=number)


def refused(attempt: int = 0, **fields: Any) -> shard_pb2.Result:
    vote = Vote(kind=Vote.KIND_REFUSED, attempt=attempt, again=True, key=b"\xffkey", **fields)
    vote.rival.client_id, vote.rival.request_number = b"\x07" * 16, 5
    return shard_pb2.Result(vote=vote)


async def fails(call: Any) -> tuple[Code, str, dict[str, str]]:
    """Return the code, the message and the metadata of the ErrorInfo, if there is one."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    metadata: dict[str, str] = {}
    for key, value in failure.value.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    metadata = {"reason": info.reason, **info.metadata}
    return failure.value.code(), str(failure.value.details()), metadata


def idle(cluster: FakeCluster) -> bool:
    """Whether nothing of any transaction is left in the router."""
    coordinator = cluster.router.coordinator
    assert coordinator.open >= 0
    assert coordinator.background >= 0
    return (
        not coordinator.open
        and not coordinator.open_bytes
        and not coordinator.background
        and not len(coordinator.sequencer)
        and not any(
            pair.leader.waiting_bytes for pair in cluster.router.core.dispatcher.links.values()
        )
    )


def test_it_commits_in_one_round_and_cleans_up_behind_the_answer() -> None:
    async def scenario() -> None:
        async with taking_part(groups=3) as (cluster, participants):
            request = puts(cluster)
            response = await cluster.kv.Transact(request)
            assert response.succeeded
            assert [result.version for result in response.results] == [response.version] * 3
            await until(lambda: idle(cluster))
            for participant in participants:
                assert participant.commands == ["prepare 0", "resolve 0", "forget 0"]
                assert not participant.held
            again = await cluster.kv.Transact(request)  # an id of its own: another transaction
            assert all(result.found for result in again.results)
            assert again.version > response.version

    asyncio.run(scenario())


def test_a_retry_with_the_same_id_gets_the_same_answer_and_does_not_run_again() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, _):
            request = puts(cluster)
            request.id.CopyFrom(own())
            responses = await asyncio.gather(*(cluster.kv.Transact(request) for _ in range(5)))
            responses.append(await cluster.kv.Transact(request))
            assert all(response == responses[0] for response in responses)
            assert [group.state.runs for group in cluster.groups] == [1, 1]
            request.then[0].put.value = b"another"
            code, _, _ = await fails(cluster.kv.Transact(request))
            assert code is Code.INVALID_ARGUMENT
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


def test_behind_one_router_nothing_dies() -> None:
    """PROTOCOL 2.4: what conflicts is held back, and Resolve goes before the next Prepare."""

    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            for replica in cluster.replicas:
                replica.delay_seconds = 0.003
            client = BatchClient(cluster)
            entries = [
                kv_pb2.BatchRequest.Entry(tag=n, transact=puts(cluster, b"%d" % n))
                for n in range(60)
            ]
            await client.send(*entries)
            await client.receive(60)
            versions = [client.answers[n].transact.version for n in range(60)]
            assert versions == sorted(set(versions)), "in the order they came in"
            for participant in participants:
                assert not [one for one in participant.commands if one.endswith(" 1")]
            await until(lambda: idle(cluster))
            counted = cluster.router.core.metrics.requests
            await client.done()
            await until(lambda: counted.get(("Transact", 0)) == 60)

    asyncio.run(scenario())


def test_independent_ones_travel_together() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, _):
            before = len(cluster.leader(0).messages)
            client = BatchClient(cluster)
            requests = [puts(cluster, number=n) for n in range(50)]
            entries = [
                kv_pb2.BatchRequest.Entry(tag=n, transact=request)
                for n, request in enumerate(requests)
            ]
            await client.send(*entries)
            await client.receive(50)
            await until(lambda: idle(cluster))
            assert len(cluster.leader(0).messages) - before <= 6

    asyncio.run(scenario())


def test_a_rival_is_waited_for_and_the_transaction_tried_again() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            participants[1].script = [refused(0), refused(1)]
            assert (await cluster.kv.Transact(puts(cluster))).succeeded
            await until(lambda: idle(cluster))
            assert participants[0].commands == [
                *("prepare 0", "resolve 0", "prepare 1", "resolve 1"),
                *("prepare 2", "resolve 2", "forget 2"),
            ]
            assert cluster.router.coordinator.attempts_aborted == 2

    asyncio.run(scenario())


def test_a_newer_attempt_is_joined() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            vote = Vote(kind=Vote.KIND_SUPERSEDED, attempt=4)
            participants[1].script = [shard_pb2.Result(vote=vote)]
            request = puts(cluster)
            request.id.CopyFrom(own())
            assert (await cluster.kv.Transact(request)).succeeded
            await until(lambda: idle(cluster))
            assert participants[0].commands == ["prepare 0", "prepare 4", "resolve 4", "forget 4"]

    asyncio.run(scenario())


@pytest.mark.parametrize("given", [False, True])
def test_a_rival_that_stays_is_named(given: bool) -> None:
    """ABORTED only where nobody else can run the next attempt; else it is unknown (2.3)."""

    async def scenario() -> None:
        async with taking_part(request_seconds_max=0.3) as (cluster, participants):
            participants[1].script = [refused(attempt) for attempt in range(100)]
            request = puts(cluster)
            if given:
                request.id.CopyFrom(own())
            code, text, metadata = await fails(cluster.kv.Transact(request))
            assert f"{'07' * 16}/5" in text
            assert "of group 1" in text
            assert metadata["rival"] == f"{'07' * 16}/5"
            assert metadata["key"] == "\\xffkey"
            assert metadata["group"] == "1"
            assert int(metadata["waited_ms"]) >= 250
            assert int(metadata["attempts"]) > 1
            if given:
                assert code is Code.DEADLINE_EXCEEDED
                assert "same id" in text
            elif code is Code.ABORTED:  # nearly always: it was in backoff when the time ran out
                assert metadata["reason"] == "RIVAL_TRANSACTION"
                assert text.startswith("not run")
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


def test_a_participant_that_is_silent_makes_it_unknown_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with taking_part(request_seconds_max=0.3) as (cluster, participants):
            for replica in cluster.groups[1].replicas:
                replica.awake.clear()
            code, text, _ = await fails(cluster.kv.Transact(puts(cluster)))
            assert code is Code.DEADLINE_EXCEEDED
            assert "no vote from group 1" in text
            assert set(participants[0].commands) == {"prepare 0"}
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


def test_those_who_voted_hear_of_the_router_while_votes_are_missing() -> None:
    """PROTOCOL 2.5: a repeated Prepare is a sign of life."""

    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            for replica in cluster.groups[1].replicas:
                replica.awake.clear()
            calling = asyncio.create_task(_transact(cluster))
            await until(lambda: len(participants[0].commands) >= 3)
            for replica in cluster.groups[1].replicas:
                replica.awake.set()
            assert (await calling).succeeded
            await until(lambda: idle(cluster))
            assert set(participants[0].commands) == {"prepare 0", "resolve 0", "forget 0"}
            assert [group.state.runs for group in cluster.groups] == [1, 1]

    asyncio.run(scenario())


def test_what_was_held_back_until_its_deadline_has_not_run() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            for replica in cluster.groups[1].replicas:
                replica.awake.clear()
            client = BatchClient(cluster)
            first, second = puts(cluster), puts(cluster)
            await client.send(
                kv_pb2.BatchRequest.Entry(tag=1, transact=first, timeout_ms=600),
                kv_pb2.BatchRequest.Entry(tag=2, transact=second, timeout_ms=200),
            )
            await client.receive(1)
            error = client.answers[2].error
            assert error.code == Code.UNAVAILABLE.value[0]
            assert "nothing was done" in error.message
            await client.receive(2)
            assert client.answers[1].error.code == Code.DEADLINE_EXCEEDED.value[0]
            assert set(participants[0].commands) == {"prepare 0"}
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


def test_what_reached_nobody_has_not_run() -> None:
    async def scenario() -> None:
        async with taking_part(request_seconds_max=0.4) as (cluster, _):
            for replica in cluster.replicas:
                await replica.kill()
            await until(lambda: not cluster.router.core.topology.serving)
            code, text, _ = await fails(cluster.kv.Transact(puts(cluster)))
            assert code is Code.UNAVAILABLE
            assert "nothing was done" in text
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


def test_an_error_of_an_operation_is_the_answer_and_is_resolved_without_effect() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            vote = Vote(kind=Vote.KIND_PREPARED, holds=True, version=2000)
            vote.then.add()
            vote.then_error.code = Code.OUT_OF_RANGE.value[0]
            vote.then_error.message = "the sum is too large"
            participants[1].script = [shard_pb2.Result(vote=vote)]
            code, text, _ = await fails(cluster.kv.Transact(puts(cluster)))
            assert (code, text) == (Code.OUT_OF_RANGE, "the sum is too large")
            await until(lambda: idle(cluster))
            assert cluster.groups[0].state.runs == 0
            assert not participants[0].held

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Vote.KIND_STALE, Code.FAILED_PRECONDITION),
        (Vote.KIND_REUSED, Code.INVALID_ARGUMENT),
        (Vote.KIND_WAITING, Code.INTERNAL),
    ],
)
def test_what_is_no_vote_ends_it_without_a_resolve(kind: Vote.Kind.ValueType, code: Code) -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            participants[1].script = [shard_pb2.Result(vote=Vote(kind=kind))]
            said, text, _ = await fails(cluster.kv.Transact(puts(cluster)))
            assert said is code
            assert text
            await until(lambda: idle(cluster))
            assert participants[0].commands == ["prepare 0"]

    asyncio.run(scenario())


def test_a_full_group_is_asked_again_and_when_all_are_full_nothing_was_done() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, _):
            full = shard_pb2.Failure(reason=shard_pb2.Failure.REASON_OVERLOADED, message="full")
            for replica in cluster.groups[1].replicas:
                replica.failure = full
            calling = asyncio.create_task(_transact(cluster))
            await asyncio.sleep(0.15)
            assert not calling.done()
            for replica in cluster.groups[1].replicas:
                replica.failure = None
            assert (await calling).succeeded
            for replica in cluster.replicas:
                replica.failure = full
            code, _, _ = await fails(_transact(cluster))
            assert code is Code.RESOURCE_EXHAUSTED
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


async def _transact(cluster: FakeCluster) -> kv_pb2.TransactResponse:
    return await cluster.kv.Transact(puts(cluster))


def test_open_transactions_are_bounded() -> None:
    async def scenario() -> None:
        async with taking_part(transactions_open_max=2) as (cluster, _):
            for replica in cluster.groups[1].replicas:
                replica.awake.clear()
            client = BatchClient(cluster)
            entries = [
                kv_pb2.BatchRequest.Entry(tag=n, transact=puts(cluster, number=n), timeout_ms=300)
                for n in range(3)
            ]
            await client.send(*entries)
            await client.receive(1)
            error = client.answers[2].error
            assert error.code == Code.RESOURCE_EXHAUSTED.value[0]
            assert "limit is 2" in error.message
            await client.receive(3)
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


def test_a_group_that_changes_its_leader_in_between_votes_again() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            cluster.leader(1).drops = 1
            assert (await cluster.kv.Transact(puts(cluster))).succeeded
            await until(lambda: idle(cluster))
            assert participants[1].commands.count("prepare 0") == 2
            assert cluster.groups[1].state.runs == 1

    asyncio.run(scenario())


def test_a_stopping_router_resolves_what_it_committed() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            for replica in cluster.replicas:
                replica.delay_seconds = 0.1
            await cluster.kv.Transact(puts(cluster))
            await cluster.router.stop()
            for participant in participants:
                assert participant.commands == ["prepare 0", "resolve 0", "forget 0"]

    asyncio.run(scenario())


def test_a_sign_of_life_goes_to_those_who_voted_alone() -> None:
    """It has no operations: a group that holds no vote of it would refuse it as malformed."""

    async def scenario() -> None:
        async with taking_part(groups=2) as (cluster, participants):
            for replica in cluster.groups[0].replicas:
                replica.delay_seconds = 3 * SIGN_OF_LIFE_SECONDS
            moved = shard_pb2.Result(wrong_group=shard_pb2.WrongGroup(epoch=1))
            participants[1].script = [moved]
            with contextlib.suppress(grpc.aio.AioRpcError):
                await cluster.kv.Transact(puts(cluster), timeout=5 * SIGN_OF_LIFE_SECONDS)
            assert participants[1].commands == ["prepare 0"]

    asyncio.run(scenario())
