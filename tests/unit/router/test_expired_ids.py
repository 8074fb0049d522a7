"""Expired ids: the router replaces its own, and calls nothing "not run" that may have run (PROTOCOL 2.10)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from overdb._expiry import expired_at, untimely_id
from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from tests.unit.router.fakes import BatchClient, FakeCluster, running, until
from tests.unit.router.txn.test_coordinator import fails, idle, own, puts, taking_part

Code = grpc.StatusCode
Vote = shard_pb2.Vote


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every id counts as old, so that it may have expired although the clocks are right."""
    monkeypatch.setattr("overdb_router.ids.NEW_ID_NS_MAX", 0)


def expired(seconds_ahead: float = 0.0) -> kv_pb2.Error:
    time_us = time.time_ns() // 1000 + int(seconds_ahead * 1e6)
    return kv_pb2.Error(
        code=Code.FAILED_PRECONDITION.value[0],
        message="client id has expired",
        details=[untimely_id(time_us, expired=True)],
    )


class Expiring:
    """Refuses the ids that a group has seen so far; always: each."""

    def __init__(self, cluster: FakeCluster, group: int = 0) -> None:
        self._group = cluster.groups[group]
        self._apply = self._group.apply
        self._gone: set[bytes] | None = {client_id for client_id, _ in self._group.state.results}
        self.seconds_ahead = 0.0
        self.refused: list[bytes] = []
        self._group.apply = self.apply  # type: ignore[method-assign]

    def always(self) -> None:
        self._gone = None

    def apply(self, command: log_pb2.Command) -> shard_pb2.Result:
        client_id = getattr(command, command.WhichOneof("command") or "put").id.client_id
        if self._gone is None or client_id in self._gone:
            self.refused.append(client_id)
            return shard_pb2.Result(error=expired(self.seconds_ahead))
        return self._apply(command)


def calls(key: bytes, request_id: kv_pb2.RequestId | None = None) -> dict[str, Any]:
    put = kv_pb2.PutRequest(key=key, value=b"2", id=request_id)
    transact = kv_pb2.TransactRequest(id=request_id)
    transact.then.add().put.key = key
    return {
        "Put": put,
        "Delete": kv_pb2.DeleteRequest(key=key, id=request_id),
        "Transact": transact,
    }


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("method", ["Put", "Delete", "Transact"])
def test_a_request_without_an_id_gets_another_one(method: str) -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            expiring = Expiring(cluster)
            await getattr(cluster.kv, method)(calls(b"a")[method])
            assert len(expiring.refused) == 1
            assert cluster.groups[0].state.runs == 2

    asyncio.run(scenario())


@pytest.mark.usefixtures("old")
def test_so_does_a_batch_and_all_of_it_shares_the_new_one() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            await cluster.kv.Put(kv_pb2.PutRequest(key=b"a", value=b"1"))
            expiring = Expiring(cluster)
            client = BatchClient(cluster)
            entry = kv_pb2.BatchRequest.Entry
            await client.send(
                *(entry(tag=n, put=kv_pb2.PutRequest(key=b"k%d" % n)) for n in range(20)),
                entry(tag=98, delete=calls(b"a")["Delete"]),
                entry(tag=99, transact=calls(b"a")["Transact"]),
            )
            await client.receive(22)
            assert not any(answer.HasField("error") for answer in client.answers.values())
            assert len(expiring.refused) == 22
            assert len({client_id for client_id, _ in cluster.groups[0].state.results}) == 2

    asyncio.run(scenario())


def test_when_a_new_id_has_expired_the_clock_of_the_router_is_named() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            expiring = Expiring(cluster)
            expiring.always()
            expiring.seconds_ahead = 7200.0
            code, text, _ = await fails(cluster.kv.Put(kv_pb2.PutRequest(key=b"a")))
            assert code is Code.FAILED_PRECONDITION
            assert "the clock of the router is 7" in text
            assert len(expiring.refused) == 1

    asyncio.run(scenario())


def test_the_id_of_a_client_is_its_own_to_replace() -> None:
    async def scenario() -> None:
        async with running(groups=1) as cluster:
            expiring = Expiring(cluster)
            expiring.always()
            client = BatchClient(cluster)
            put = calls(b"a", own())["Put"]
            await client.send(kv_pb2.BatchRequest.Entry(tag=1, put=put))
            await client.receive(1)
            error = client.answers[1].error
            assert error.code == Code.FAILED_PRECONDITION.value[0]
            assert expired_at(error.details) is not None
            assert len(expiring.refused) == 1

    asyncio.run(scenario())


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("request_id", [None, own()])
def test_a_copy_that_is_refused_says_nothing_of_the_one_before(
    request_id: kv_pb2.RequestId | None,
) -> None:
    """The first one ran, its answer was lost, and the id with its result was forgotten (FAULTS 52)."""

    async def scenario() -> None:
        async with running(groups=1) as cluster:
            group = cluster.groups[0]
            apply = group.apply

            def run_and_forget(command: log_pb2.Command) -> shard_pb2.Result:
                result = apply(command)
                group.state.results.clear()
                Expiring(cluster).always()
                return result

            group.apply = run_and_forget  # type: ignore[method-assign]
            cluster.leader().drops = 1
            code, text, _ = await fails(cluster.kv.Put(calls(b"a", request_id)["Put"]))
            assert code is Code.DEADLINE_EXCEEDED
            assert "outcome unknown" in text
            assert group.state.runs == 1

    asyncio.run(scenario())


# --- over several groups ------------------------------------------------------------------------------


def stale(seconds_ahead: float = 0.0) -> shard_pb2.Result:
    return shard_pb2.Result(vote=Vote(kind=Vote.KIND_STALE, refusal=expired(seconds_ahead)))


@pytest.mark.usefixtures("old")
def test_a_transaction_without_an_id_begins_anew_under_another_one() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            for participant in participants:
                participant.script = [stale()]
            assert (await cluster.kv.Transact(puts(cluster))).succeeded
            for participant in participants:
                assert participant.commands[:2] == ["prepare 0", "prepare 0"]
            await until(lambda: idle(cluster))
            assert [group.state.runs for group in cluster.groups] == [1, 1]

    asyncio.run(scenario())


def test_a_transaction_under_an_id_of_its_client_passes_the_refusal_on() -> None:
    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            participants[1].script = [stale()]
            request = puts(cluster)
            request.id.CopyFrom(own())
            code, _, metadata = await fails(cluster.kv.Transact(request))
            assert code is Code.FAILED_PRECONDITION
            assert metadata["reason"] == "CLIENT_ID_EXPIRED"
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


@pytest.mark.usefixtures("old")
def test_a_transaction_whose_first_prepare_may_have_been_taken_is_unknown() -> None:
    """Its vote, and with the others' the commit, may be forgotten by now, so no other id may run it again."""

    async def scenario() -> None:
        async with taking_part() as (cluster, participants):
            participants[1].script = [shard_pb2.Result(vote=Vote(kind=Vote.KIND_PREPARED)), stale()]
            cluster.leader(1).drops = 1
            code, text, _ = await fails(cluster.kv.Transact(puts(cluster)))
            assert code is Code.DEADLINE_EXCEEDED
            assert "outcome unknown" in text
            await until(lambda: idle(cluster))

    asyncio.run(scenario())


# --- ids from the future ------------------------------------------------------------------------------


@pytest.mark.parametrize("woken_up", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_an_id_from_the_future_is_replaced_once_the_clock_was_set_back(
    groups: int, woken_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``woken_up``: it is the group whose time is wrong, for a moment."""

    async def scenario() -> None:
        async with taking_part(groups=groups) as (cluster, participants):
            ids = cluster.router.core.ids
            monkeypatch.setattr(ids, "_wall_ns", lambda: time.time_ns() + 3600 * 10**9)
            assert (await cluster.kv.Transact(puts(cluster))).succeeded  # the fakes take any id
            ahead = kv_pb2.Error(
                code=Code.INVALID_ARGUMENT.value[0],
                message="ahead",
                details=[untimely_id(time.time_ns() // 1000, expired=False)],
            )
            for participant in participants:
                vote = Vote(kind=Vote.KIND_REFUSED, refusal=ahead)
                participant.script = [shard_pb2.Result(vote=vote)]
            apply, first = cluster.groups[0].apply, [shard_pb2.Result(error=ahead)]

            def refuse_first(command: log_pb2.Command) -> shard_pb2.Result:
                return first.pop() if first else apply(command)

            if groups == 1:
                cluster.groups[0].apply = refuse_first  # type: ignore[method-assign]
            if not woken_up:
                monkeypatch.setattr(ids, "_wall_ns", time.time_ns)
            assert (await cluster.kv.Transact(puts(cluster))).succeeded
            await until(lambda: idle(cluster))
            assert [group.state.runs for group in cluster.groups] == [2] * groups

    asyncio.run(scenario())
