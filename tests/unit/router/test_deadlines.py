"""What is told when there is no answer in time: unknown, or certainly not done (FAULTS 50, 52)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_router.kv_service import KVService
from tests.unit.router.fakes import BatchClient, FakeCluster, get, put, running, until

DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_a_write_that_was_sent_has_an_unknown_outcome() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            cluster.leader().awake.clear()
            client = BatchClient(cluster)
            await client.send(put(1, b"a", timeout_ms=300))
            await client.receive(1)
            error = client.answers[1].error
            assert error.code == DEADLINE_EXCEEDED
            assert "outcome unknown" in error.message
            assert "same id" in error.message
            assert len(cluster.leader().messages) == 1

    asyncio.run(scenario())


def test_a_write_that_was_never_sent_is_unavailable_and_never_runs() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await _lose_leader(cluster)
            client = BatchClient(cluster)
            await client.send(put(1, b"a", timeout_ms=200), put(2, b"b", timeout_ms=4000))
            await client.receive(1)
            error = client.answers[1].error
            assert error.code == UNAVAILABLE
            assert "no leader for group 0" in error.message
            cluster.groups[0].elect(1)
            await client.receive(2)
            assert cluster.groups[0].state.order == [b"b"]

    asyncio.run(scenario())


def test_a_read_that_was_sent_is_not_called_unknown() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            cluster.leader().awake.clear()
            client = BatchClient(cluster)
            await client.send(get(1, b"a", timeout_ms=200))
            await client.receive(1)
            assert client.answers[1].error.code == DEADLINE_EXCEEDED
            assert "unknown" not in client.answers[1].error.message

    asyncio.run(scenario())


def test_each_entry_has_its_own_deadline_and_the_routers_limit_caps_it() -> None:
    async def scenario() -> None:
        async with running(groups=1, request_seconds_max=0.6) as cluster:
            cluster.leader().awake.clear()
            client = BatchClient(cluster)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await client.send(put(1, b"a", timeout_ms=100), put(2, b"a", timeout_ms=60_000))
            await client.receive(1)
            assert list(client.answers) == [1]
            await client.receive(2)
            assert 0.55 < loop.time() - began < 30

    asyncio.run(scenario())


def test_an_answer_after_the_deadline_is_dropped() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            leader = cluster.leader()
            leader.awake.clear()
            client = BatchClient(cluster)
            await client.send(put(1, b"a", timeout_ms=100), put(2, b"b"))
            await client.receive(1)
            leader.awake.set()
            await client.receive(2)  # `receive` fails on a second answer to the first one
            assert client.answers[2].HasField("put")

    asyncio.run(scenario())


class _AbortedError(Exception):
    pass


class _Call:
    """The context of a call whose client waits that long, by a clock that stands."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.refused: list[tuple[grpc.StatusCode, str]] = []

    def time_remaining(self) -> float | None:
        return self._seconds

    async def abort(self, code: grpc.StatusCode, details: str, _: object) -> None:
        self.refused.append((code, details))
        raise _AbortedError


@pytest.mark.parametrize(
    ("remaining", "wanted"),
    [(0.5, 0.45), (1.0, 0.9), (4.0, 3.9), (60.0, 5.0), (None, 5.0)],
)
def test_a_single_call_is_given_up_a_little_before_its_client_does(
    remaining: float | None, wanted: float
) -> None:
    """A tenth before, 0.1 s at most; never after more than request_seconds_max, which is 5 s here."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            service = KVService(cluster.router.core, cluster.router.gate)
            loop = asyncio.get_running_loop()
            call: Any = _Call(remaining)
            before = loop.time()
            deadline = service._deadline(call)
            assert before <= deadline - wanted + 1e-6
            assert deadline - wanted <= loop.time() + 1e-6

    asyncio.run(scenario())


def test_a_single_call_is_answered_when_its_own_deadline_has_come() -> None:
    async def scenario() -> None:
        async with running(groups=1, request_seconds_max=300) as cluster:
            await _lose_leader(cluster)
            service = KVService(cluster.router.core, cluster.router.gate)
            call: Any = _Call(0.3)
            async with asyncio.timeout(30):
                with pytest.raises(_AbortedError):
                    await service.Put(kv_pb2.PutRequest(key=b"a", value=b"1"), call)
            [(code, details)] = call.refused
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "no leader for group 0" in details

    asyncio.run(scenario())


def test_the_client_of_a_single_call_hears_why_it_was_given_up() -> None:
    """The router's limit is the shorter one by far: its answer comes while the client still waits."""

    async def scenario() -> None:
        async with running(groups=1, request_seconds_max=0.3) as cluster:
            await _lose_leader(cluster)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "no leader for group 0" in str(refused.value.details())

    asyncio.run(scenario())


def test_requests_before_the_groups_are_known_say_so() -> None:
    async def scenario() -> None:
        cluster = FakeCluster(1, 1, request_seconds_max=0.3)
        cluster.replicas[0].awake.clear()
        await cluster.start()
        try:
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await client.receive(1)
            assert client.answers[1].error.code == UNAVAILABLE
            assert "OVERDB_SEEDS" in client.answers[1].error.message
            waiting = BatchClient(cluster)
            await waiting.send(put(1, b"b"))
            cluster.replicas[0].awake.set()
            await waiting.receive(1)
            assert cluster.groups[0].state.order == [b"b"]
        finally:
            await cluster.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("reason", ["REASON_OVERLOADED", "REASON_DISK_FULL"])
def test_a_full_group_is_told_with_its_message(reason: str) -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            cluster.leader().failure = shard_pb2.Failure(
                reason=shard_pb2.Failure.Reason.Value(reason), message="the disk has 3 bytes left"
            )
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await client.receive(1)
            assert client.answers[1].error.code == RESOURCE_EXHAUSTED
            assert "the disk has 3 bytes left" in client.answers[1].error.message

    asyncio.run(scenario())


def test_a_resent_write_is_not_called_refused_by_a_full_leader() -> None:
    """The leader before may have run it: only an answer or `unknown` is true."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            old, new = cluster.replicas[0], cluster.replicas[1]
            new.failure = shard_pb2.Failure(
                reason=shard_pb2.Failure.REASON_OVERLOADED, message="full"
            )
            old.awake.clear()
            client = BatchClient(cluster)
            await client.send(put(1, b"a"))
            await until(lambda: len(old.messages) == 1)
            cluster.groups[0].elect(1)
            await until(lambda: len(new.messages) >= 1)
            new.failure = None
            await client.receive(1)
            assert client.answers[1].HasField("put")

    asyncio.run(scenario())


def test_the_queue_of_a_group_is_bounded_in_bytes() -> None:
    async def scenario() -> None:
        async with running(groups=1, queued_bytes_max=1 << 20) as cluster:
            await _lose_leader(cluster)
            client = BatchClient(cluster)
            await client.send(*(put(n, b"k", b"x" * 300_000, timeout_ms=1000) for n in range(5)))
            await client.receive(2)
            refused = [
                e.error for e in client.answers.values() if e.error.code == RESOURCE_EXHAUSTED
            ]
            assert len(refused) == 2
            assert "limit is 1048576" in refused[0].message
            await client.receive(5)

    asyncio.run(scenario())


def test_an_answer_that_makes_no_sense_is_an_error_and_not_a_crash() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:

            def tamper(response: shard_pb2.ShardResponse) -> None:
                if response.results:
                    response.results.add()

            cluster.leader().tamper = tamper
            client = BatchClient(cluster)
            await client.send(put(1, b"a"), put(2, b"b"))
            await client.receive(2)
            assert client.answers[1].error.code == grpc.StatusCode.INTERNAL.value[0]

    asyncio.run(scenario())


def test_an_answer_too_large_for_one_message_is_asked_for_in_parts() -> None:
    async def scenario() -> None:
        async with running(groups=1, value_bytes_max=1 << 20) as cluster:
            value = b"x" * (1 << 20)
            for n in range(20):
                await cluster.kv.Put(kv_pb2.PutRequest(key=b"k%d" % n, value=value))
            client = BatchClient(cluster)
            await client.send(*(get(n, b"k%d" % n) for n in range(20)))
            await client.receive(20, seconds_max=10)
            assert all(entry.get.value == value for entry in client.answers.values())
            assert cluster.router.core.topology.leader_changes == 1  # that it was found at first

    asyncio.run(scenario())


async def _lose_leader(cluster: FakeCluster) -> None:
    """Nobody leads, and the router knows it.

    Each replica is asked once at a time. When it has been asked twice, no answer of before is under way that
    names it as the leader again.
    """
    group = cluster.groups[0]
    group.leader = -1
    before = [replica.describes for replica in group.replicas]
    await until(
        lambda: (
            cluster.router.core.topology.leader_of(0) is None
            and all(r.describes >= b + 2 for r, b in zip(group.replicas, before, strict=True))
        )
    )


@pytest.mark.parametrize("nothing_done", [True, False])
def test_only_commands_that_may_be_in_a_log_leave_doubt_behind_a_change_of_leader(
    nothing_done: bool,
) -> None:
    """The next leader's disk is full. What the one before has not proposed was certainly not done."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.stop_polling()
            first, second, _ = cluster.replicas
            first.failure = shard_pb2.Failure(
                reason=shard_pb2.Failure.REASON_NOT_LEADER,
                leader_id=second.replica_id,
                leader_address=second.address,
                nothing_done=nothing_done,
            )
            second.failure = shard_pb2.Failure(
                reason=shard_pb2.Failure.REASON_DISK_FULL, message="disk full: enlarge it"
            )
            client = BatchClient(cluster)
            cluster.groups[0].elect(1)
            await client.send(put(1, b"a", timeout_ms=1500))
            await client.receive(1)
            error = client.answers[1].error
            assert first.messages
            assert "disk full: enlarge it" in error.message
            assert "group 0" in error.message
            assert ("outcome unknown" in error.message) is not nothing_done
            assert error.code == (RESOURCE_EXHAUSTED if nothing_done else DEADLINE_EXCEEDED)

    asyncio.run(scenario())


def test_a_full_group_answers_what_has_run_and_the_rest_stays_in_doubt() -> None:
    """The leader before has applied both, and one of the answers is not kept here."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            leader = cluster.leader()
            leader.drops = 1

            def fill_up(response: shard_pb2.ShardResponse) -> None:
                """From the second message on."""
                if len(leader.messages) > 1 and response.results:
                    known = response.results[0]
                    response.failure.reason = shard_pb2.Failure.REASON_DISK_FULL
                    response.failure.message = "disk full"
                    del response.late[:]
                    if len(response.results) == 2:
                        response.late.add(position=0).result.CopyFrom(known)
                    del response.results[:]

            leader.tamper = fill_up
            client = BatchClient(cluster)
            await client.send(put(1, b"a"), put(2, b"b", timeout_ms=1000))
            await client.receive(2)
            assert client.answers[1].put.version
            assert "outcome unknown" in client.answers[2].error.message
            assert "disk full" in client.answers[2].error.message
            assert cluster.groups[0].state.runs == 2

    asyncio.run(scenario())
