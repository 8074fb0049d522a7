"""KV.TransactionStatus and Cluster.Transactions: what all groups' answers come to (PROTOCOL 2.3, 2.10)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import cluster_pb2, kv_pb2
from overdb_router.status import merge
from tests.unit.router.fakes import FakeCluster, running, until

Found = shard_pb2.Found
Vote = shard_pb2.Vote
Status = kv_pb2.TransactionStatusResponse
Result = kv_pb2.OperationResult

ID = kv_pb2.RequestId(client_id=b"\x01" * 6 + b"\x70" + b"\x01" * 9, request_number=7)
IDENTITY = (ID.client_id, ID.request_number)


def vote(kind: Vote.Kind.ValueType = Vote.KIND_PREPARED, **options: Any) -> Found:
    """Group 0 puts at position 1 and gets at 0, otherwise nothing; see ``other``."""
    values: dict[str, Any] = {
        "kind": kind,
        "holds": True,
        "version": 50,
        "participants": [0, 2],
        "then": [Result(found=True, value=b"a", version=3), Result(found=False)],
        "then_positions": [0, 1],
        "then_writes": [False, True],
    }
    return Found(transaction=Vote(**(values | options)))


def other(kind: Vote.Kind.ValueType = Vote.KIND_PREPARED, **options: Any) -> Found:
    """Group 2 adds at position 2 and gets its own sum at 3; otherwise it gets a missing key at 0."""
    values: dict[str, Any] = {
        "version": 70,
        "then": [Result(found=True, value=b"4"), Result(found=True, value=b"4")],
        "then_positions": [2, 3],
        "then_writes": [True, False],
        "otherwise": [Result()],
        "otherwise_positions": [0],
        "otherwise_writes": [False],
    }
    return vote(kind, **(values | options))


def merged(zero: Found, two: Found) -> Status:
    answer = merge({0: zero, 1: Found(), 2: two})
    assert answer is not None
    return answer


COMMITTED = kv_pb2.TransactResponse(
    succeeded=True,
    version=70,
    results=[
        Result(found=True, value=b"a", version=3),
        Result(version=70),
        Result(found=True, value=b"4", version=70),
        Result(found=True, value=b"4", version=70),
    ],
)


def test_no_record_anywhere_is_unknown_whether_closed_or_not() -> None:
    assert merged(Found(), Found()).status == Status.STATUS_UNKNOWN
    assert merged(Found(closed=True), Found(closed=True)).status == Status.STATUS_UNKNOWN


def test_all_votes_are_the_commit_before_any_outcome_is_stored() -> None:
    answer = merged(vote(), other())
    assert answer.status == Status.STATUS_COMMITTED
    assert answer.response == COMMITTED


@pytest.mark.parametrize("both", [False, True])
def test_a_stored_outcome_gives_the_same_answer(both: bool) -> None:
    outcome: dict[str, Any] = {
        "resolved": True,
        "branch": log_pb2.BRANCH_THEN,
        "commit_version": 70,
    }
    answer = merged(vote(**outcome), other(**(outcome if both else {})))
    assert answer == Status(status=Status.STATUS_COMMITTED, response=COMMITTED)


def test_one_group_whose_compares_fail_takes_the_other_branch() -> None:
    answer = merged(vote(), other(holds=False))
    assert answer.status == Status.STATUS_COMMITTED
    assert answer.response == kv_pb2.TransactResponse(version=70, results=[Result()])


def test_a_branch_that_cannot_run_did_nothing() -> None:
    error = kv_pb2.Error(code=3)
    assert merged(vote(), other(then_error=error)).status == Status.STATUS_ABORTED
    assert merged(vote(), other(otherwise_error=error)).status == Status.STATUS_COMMITTED
    resolved = vote(resolved=True, branch=log_pb2.BRANCH_NONE, commit_version=70)
    assert merged(resolved, other()).status == Status.STATUS_ABORTED


@pytest.mark.parametrize("two", [Found(), Found(transaction=Vote(kind=Vote.KIND_WAITING))])
def test_a_missing_vote_is_open(two: Found) -> None:
    assert merged(vote(), two).status == Status.STATUS_OPEN


@pytest.mark.parametrize(
    "aborted",
    [
        vote(Vote.KIND_REFUSED),
        vote(resolved=True, branch=log_pb2.BRANCH_UNSPECIFIED),
    ],
)
def test_an_aborted_attempt_is_open_until_its_id_is_closed_at_every_participant(
    aborted: Found,
) -> None:
    """Another router may be running the next attempt (PROTOCOL 2.3)."""
    assert merged(aborted, other()).status == Status.STATUS_OPEN
    aborted.closed = True
    assert merged(aborted, other()).status == Status.STATUS_OPEN
    assert merged(aborted, Found(closed=True)).status == Status.STATUS_ABORTED
    closed = other()
    closed.closed = True
    assert merged(aborted, closed).status == Status.STATUS_ABORTED


def test_a_fence_that_knows_no_participants_does_not_say_aborted() -> None:
    """An abort left it; another attempt may be under way in groups that it does not know of."""
    fence = Found(transaction=Vote(kind=Vote.KIND_REFUSED, again=True), closed=True)
    assert merged(Found(), fence).status == Status.STATUS_OPEN


def test_only_the_newest_attempt_counts() -> None:
    assert merged(vote(), other(attempt=1)).status == Status.STATUS_OPEN
    assert merged(vote(attempt=1), other(attempt=1)).status == Status.STATUS_COMMITTED
    refused = vote(Vote.KIND_REFUSED, attempt=0)
    assert merged(refused, other(attempt=1)).status == Status.STATUS_OPEN


def test_open_and_closed_is_still_open_while_nobody_refused() -> None:
    two = Found(closed=True)
    assert merged(vote(), two).status == Status.STATUS_OPEN


def test_a_group_that_was_asked_before_its_vote_is_asked_again() -> None:
    resolved = other(resolved=True, branch=log_pb2.BRANCH_THEN, commit_version=70)
    assert merge({0: Found(), 2: resolved}) is None
    assert merge({0: vote(Vote.KIND_WAITING), 2: resolved}) is None
    forgotten = merge({0: Found(closed=True), 2: resolved})
    assert forgotten == Status(status=Status.STATUS_COMMITTED)


def test_a_request_inside_one_group() -> None:
    def of(**result: Any) -> Status:
        return merged(Found(), Found(result=shard_pb2.Result(**result)))

    committed = Status.STATUS_COMMITTED
    done = Status(status=committed, response=kv_pb2.TransactResponse(succeeded=True, version=9))
    assert of(put=kv_pb2.PutResponse(version=9)) == done
    assert of(delete=kv_pb2.DeleteResponse(version=9, existed=True)) == done
    assert of(transact=COMMITTED) == Status(status=committed, response=COMMITTED)
    assert of(error=kv_pb2.Error(code=3)).status == Status.STATUS_ABORTED
    assert of(pending=shard_pb2.Pending()).status == Status.STATUS_OPEN


# --- through the router -------------------------------------------------------------------------------


async def ask(cluster: FakeCluster, timeout: float = 5.0) -> Status:
    request = kv_pb2.TransactionStatusRequest(id=ID)
    return await cluster.kv.TransactionStatus(request, timeout=timeout)


def test_every_leader_is_asked() -> None:
    async def scenario() -> None:
        async with running(groups=3) as cluster:
            assert (await ask(cluster)).status == Status.STATUS_UNKNOWN
            key = cluster.key_of(2)
            put = await cluster.kv.Put(kv_pb2.PutRequest(key=key, id=ID))
            answer = await ask(cluster)
            assert answer.status == Status.STATUS_COMMITTED
            assert answer.response.version == put.version

    asyncio.run(scenario())


def test_groups_that_disagree_are_asked_until_they_do_not() -> None:
    async def scenario() -> None:
        async with running(groups=3) as cluster:
            resolved = other(resolved=True, branch=log_pb2.BRANCH_THEN, commit_version=70)
            cluster.groups[2].found[IDENTITY] = resolved
            asking = asyncio.ensure_future(ask(cluster))
            leader = cluster.leader(0)
            await until(lambda: sum(len(m.reads.reads) for m in leader.messages) > 1)
            cluster.groups[0].found[IDENTITY] = vote()
            assert (await asking).response == COMMITTED

    asyncio.run(scenario())


def test_groups_that_go_on_to_disagree_are_unavailable() -> None:
    """The router's limit is the shorter one by far: its answer comes while the client still waits."""

    async def scenario() -> None:
        async with running(groups=3, request_seconds_max=0.3) as cluster:
            resolved = other(resolved=True, branch=log_pb2.BRANCH_THEN, commit_version=70)
            cluster.groups[2].found[IDENTITY] = resolved
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(cluster, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


@pytest.mark.parametrize("asleep", [False, True])
def test_a_group_that_does_not_answer_is_unavailable(asleep: bool) -> None:
    """UNKNOWN would be a lie."""

    async def scenario() -> None:
        async with running(request_seconds_max=0.3) as cluster:
            if asleep:
                cluster.leader(1).awake.clear()
            else:
                cluster.groups[1].leader = -1
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(cluster, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_an_id_without_number_is_refused() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.TransactionStatus(kv_pb2.TransactionStatusRequest())
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(scenario())


def test_open_transactions_of_all_groups_are_listed() -> None:
    async def scenario() -> None:
        async with running(poll_seconds=60.0, describe_seconds_max=5.0) as cluster:
            one = cluster_pb2.OpenTransaction(
                id=ID, state=cluster_pb2.OpenTransaction.STATE_PREPARED, participants=[0, 1]
            )
            cluster.groups[0].open_transactions = [one]
            cluster.groups[0].elect(1)  # the router hears of it now
            answer = await cluster.admin.Transactions(cluster_pb2.TransactionsRequest())
            assert [g.group for g in answer.groups] == [0, 1]
            assert [g.reachable for g in answer.groups] == [True, True]
            assert list(answer.groups[0].transactions) == [one]
            assert answer.groups[0].count == 1
            only = await cluster.admin.Transactions(cluster_pb2.TransactionsRequest(group=0))
            assert [g.group for g in only.groups] == [0]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.admin.Transactions(cluster_pb2.TransactionsRequest(group=9))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(scenario())


@pytest.mark.parametrize("hangs", [False, True])
def test_a_group_whose_leader_does_not_answer_is_not_reachable(hangs: bool) -> None:
    """The other one is listed all the same."""

    async def scenario() -> None:
        async with running(describe_seconds_max=4.0) as cluster:  # for the group that does answer
            if hangs:
                cluster.leader(1).awake.clear()
            else:
                cluster.groups[1].leader = -1
            answer = await cluster.admin.Transactions(cluster_pb2.TransactionsRequest(), timeout=10)
            assert [g.reachable for g in answer.groups] == [True, False]

    asyncio.run(scenario())
