"""Changes of the members that are asked for twice, or of a new leader (PROTOCOL 3.2, 3.4)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from overdb.internal.v1 import shard_pb2
from overdb_node.raft.errors import ChangeInProgress
from overdb_node.replica import Replica
from tests.unit.node.test_comparing import Running, group
from tests.unit.node.test_disk_stall import until

_Reason = shard_pb2.Failure.Reason
_NOT_COMMITTED_YET = 4


def removal(replica: Replica) -> shard_pb2.ChangeMembersRequest:
    gone = shard_pb2.RemoveReplica(id=replica.settings.node_id)
    return shard_pb2.ChangeMembersRequest(group=0, remove=gone)


async def asked_until_done(
    running: Running, request: shard_pb2.ChangeMembersRequest
) -> shard_pb2.ChangeMembersResponse:
    """Ask whoever leads, as a router does, while it does not lead or says to ask again."""
    async with asyncio.timeout(60):
        while True:
            leader = await running.led()
            answer = await leader.membership.change(request)
            if not answer.HasField("failure") and answer.error.code != _NOT_COMMITTED_YET:
                return answer
            await asyncio.sleep(0.01)


def test_a_leader_s_removal_that_is_asked_for_again_waits_for_the_next_leader(
    tmp_path: Path,
) -> None:
    """A router that asks again meets the hand-over that the first copy began."""

    async def run() -> None:
        async with group(tmp_path, 3) as running:
            await running.put(b"k")
            leader = await running.led()
            answers = [await leader.membership.change(removal(leader)) for _ in range(2)]
            assert leader.raft.leading.transfer_to, "the hand-over was over too soon"
            for answer in answers:
                assert answer.failure.reason == _Reason.REASON_NOT_LEADER, answer
                assert not answer.HasField("error"), answer
            done = await asked_until_done(running, removal(leader))
            left = {1, 2, 3} - {leader.settings.node_id}
            assert {member.id for member in done.members} == left, done
            again = await asked_until_done(running, removal(leader))
            assert {member.id for member in again.members} == left, again

    asyncio.run(run())


def test_another_change_is_refused_while_leadership_is_handed_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with group(tmp_path, 3) as running:
            await running.put(b"k")
            leader = await running.led()
            other = next(one for one in running.replicas.values() if one is not leader)
            leader.transfer_to(other.settings.node_id)
            answer = await leader.membership.change(removal(other))
            assert answer.reason == "CHANGE_IN_PROGRESS"

    asyncio.run(run())


def test_a_new_leader_waits_until_it_knows_what_was_committed_before_its_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that was answered may be uncommitted for the next leader for a round trip."""

    async def run() -> None:
        async with group(tmp_path, 3) as running:
            await running.put(b"k")
            leader = await running.led()
            others = [one for one in running.replicas.values() if one is not leader]
            change_members = leader.raft.change_members
            refusals = [ChangeInProgress("another change is not committed yet")]

            def refusing_once(*arguments: Any) -> int:
                if refusals:
                    raise refusals.pop()
                return change_members(*arguments)

            monkeypatch.setattr(leader.raft, "change_members", refusing_once)
            monkeypatch.setattr(type(leader.raft.leading), "committed_in_term", False)
            asked = asyncio.create_task(leader.membership.change(removal(others[0])))
            await until(lambda: not refusals)
            assert not asked.done(), asked.result()
            monkeypatch.undo()
            answer = await asked
            assert not answer.HasField("error"), answer
            refusals.append(ChangeInProgress("another change is not committed yet"))
            monkeypatch.setattr(leader.raft, "change_members", refusing_once)
            answer = await leader.membership.change(removal(others[1]))
            assert answer.reason == "CHANGE_IN_PROGRESS", "it is no new leader"

    asyncio.run(run())
