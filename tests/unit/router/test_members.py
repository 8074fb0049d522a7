"""Changes of the members through a router: who is asked, what is answered, what routers learn of it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from overdb.internal.v1 import shard_pb2
from overdb.v1 import cluster_pb2, kv_pb2
from tests.unit.router.fakes import running, until

Changed = shard_pb2.ChangeMembersResponse
Failure = shard_pb2.Failure


def add(
    group: int = 0,
    replica_id: int = 99,
    address: str = "127.0.0.1:7499",
) -> cluster_pb2.AddMemberRequest:
    return cluster_pb2.AddMemberRequest(group=group, id=replica_id, address=address)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, Any]:
    """Code, text and first detail of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    error = failed.value
    detail = error_details_pb2.ErrorInfo()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            (packed,) = status_pb2.Status.FromString(value).details
            packed.Unpack(detail)
    return error.code(), error.details() or "", detail


def test_a_change_goes_to_the_leader_and_again_to_the_next_one() -> None:
    """A leader that lost its office, or its process, in the middle: asked again, it is not made twice."""

    async def scenario() -> None:
        async with running() as cluster:
            group = cluster.groups[0]
            first = group.replicas[group.leader]
            first.change_answers.append(Changed(failure=Failure(reason=Failure.REASON_NOT_LEADER)))
            answer = await cluster.admin.AddMember(add(), timeout=5)
            assert answer.members.group == 0
            assert len(first.changes) == 2
            assert first.changes[1].add == shard_pb2.AddLearner(id=99, address="127.0.0.1:7499")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "reason"),
    [(9, "QUORUM_AT_RISK"), (10, "CHANGE_IN_PROGRESS"), (5, "NO_SUCH_MEMBER")],
)
def test_what_the_leader_refuses_is_told_with_its_reason(code: int, reason: str) -> None:
    async def scenario() -> None:
        async with running() as cluster:
            group = cluster.groups[1]
            error = kv_pb2.Error(code=code, message="because")
            leader = group.replicas[group.leader]
            leader.change_answers.append(Changed(error=error, reason=reason))
            request = cluster_pb2.RemoveMemberRequest(group=1, id=12, force=True)
            status, said, detail = await refusal(cluster.admin.RemoveMember(request, timeout=5))
            assert (status.value[0], said) == (code, "group 1: because")
            assert (detail.reason, detail.domain) == (reason, "overdb")
            assert leader.changes[0].remove == shard_pb2.RemoveReplica(id=12, force=True)

    asyncio.run(scenario())


def test_a_change_that_is_begun_and_not_known_to_be_committed_is_no_refusal() -> None:
    """DEADLINE_EXCEEDED, and it says that asking again is safe (FAULTS 50, 52)."""

    async def scenario() -> None:
        # The router's limit is the shorter one by far: its answer comes while the client still waits.
        async with running(request_seconds_max=0.5) as cluster:
            group = cluster.groups[0]
            late = Changed(error=kv_pb2.Error(code=4, message="later"))
            group.replicas[group.leader].change_answers.extend([late] * 10_000)
            request = cluster_pb2.PromoteMemberRequest(group=0, id=3)
            status, said, _ = await refusal(cluster.admin.PromoteMember(request, timeout=10))
            assert status is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "retry, it is not made twice" in said

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (add(replica_id=0), grpc.StatusCode.INVALID_ARGUMENT, "id: 0 is not between 1"),
        (add(address="here"), grpc.StatusCode.INVALID_ARGUMENT, "not of the form host:port"),
        (add(address="0.0.0.0:1"), grpc.StatusCode.INVALID_ARGUMENT, "others can reach"),
        (add(group=7), grpc.StatusCode.NOT_FOUND, "there is no group 7; known groups: 0, 1"),
        (add(replica_id=11), grpc.StatusCode.FAILED_PRECONDITION, "a member of group 1"),
    ],
)
def test_what_cannot_be_is_refused_without_asking(
    request_: cluster_pb2.AddMemberRequest, code: grpc.StatusCode, said: str
) -> None:
    async def scenario() -> None:
        async with running() as cluster:
            found, text, _ = await refusal(cluster.admin.AddMember(request_, timeout=5))
            assert found is code
            assert said in text
            assert not any(r.changes for r in cluster.replicas)

    asyncio.run(scenario())


def test_a_group_without_a_leader_is_unavailable() -> None:
    async def scenario() -> None:
        async with running(request_seconds_max=0.5) as cluster:
            for replica in cluster.groups[0].replicas:
                await replica.kill()
            await until(lambda: not cluster.router.core.topology.serving)
            status, said, _ = await refusal(cluster.admin.AddMember(add(), timeout=10))
            assert status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            assert "group 0" in said

    asyncio.run(scenario())


def test_members_are_those_of_the_leader_and_of_newer_followers_while_there_is_none() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            await cluster.stop_polling()
            topology = cluster.router.core.topology
            view = topology.groups[0]
            new = [shard_pb2.Member(id=50, address="127.0.0.1:1", voter=True)]
            told = await cluster.router.core.channels.replica(cluster.leader().address).describe(
                0, 1
            )
            told.replica_id, told.role, told.members_index, told.leader_id = 50, "follower", 9, 0
            del told.members[:]
            told.members.extend(new)
            before = view.members
            topology.learn("127.0.0.1:1", told)
            assert view.members == before  # a leader answers: what a follower has may be cut yet
            view.reachable = False
            topology.learn("127.0.0.1:1", told)
            assert [member.replica_id for member in view.members] == [50]

    asyncio.run(scenario())
