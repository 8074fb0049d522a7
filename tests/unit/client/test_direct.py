"""Calls that go straight to leaders: which do, and that all trouble ends at the router, with the same ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from overdb import (
    Add,
    Client,
    ClientClosed,
    Compare,
    Consistency,
    Delete,
    Get,
    InvalidArgument,
    Limits,
    OutcomeUnknown,
    OverDBError,
    Put,
    ResourceExhausted,
    Value,
    _direct,
)
from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.sharding import slot_of
from overdb.v1 import kv_pb2
from tests.unit.client.fake_node import FakeNode, lead
from tests.unit.client.fake_router import DropStreamError, FakeRouter, refusal
from tests.unit.client.store import Answer, Entry, Store
from tests.unit.client.test_failures import ends_after_three_refusals

QUICK = Limits(
    connect_seconds_max=0.5,
    silence_seconds_max=0.2,
    probe_seconds_max=0.1,
    backoff_seconds_max=0.05,
)
# Where silence is not the subject: a leader that the machine keeps from answering is not left.
PATIENT = replace(QUICK, connect_seconds_max=5.0, silence_seconds_max=60.0)
_Failure = shard_pb2.Failure


class Direct:
    """A router, leaders of some groups, and a client with links to them."""

    def __init__(self, groups: int = 1, limits: Limits = PATIENT) -> None:
        self.store = Store()
        self._groups = groups
        self._limits = limits
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Direct:
        enter = self._stack.enter_async_context
        self.router = await enter(FakeRouter(self.store))
        numbers = range(self._groups)
        self.nodes = [await enter(FakeNode(self.store, n, self._groups)) for n in numbers]
        self.node = self.nodes[0]
        lead(self.router, *self.nodes)
        self.client = await enter(
            Client(self.router.address, timeout=5.0, limits=self._limits, direct=True)
        )
        await linked(self.client, self.nodes)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def through_router(self) -> list[Entry]:
        """What came to the router, without the reads that waited for the links."""
        return [entry for entry in self.router.entries if not entry.get.key.startswith(b"look")]


async def linked(client: Client, nodes: list[FakeNode]) -> None:
    """Return once reads arrive at each of the nodes."""
    for node in nodes:
        key = key_in(node.slots, b"look")
        while key not in node.reads:
            await client.get(key)


def key_in(slots: bytes, prefix: bytes = b"key") -> bytes:
    """A key in one of these slots."""
    names = (b"%s-%d" % (prefix, number) for number in range(10_000))
    return next(name for name in names if slots[slot_of(name) // 8] >> slot_of(name) % 8 & 1)


def ids(entries: list[Entry] | list[log_pb2.Command]) -> list[tuple[bytes, int]]:
    return [(e.put.id.client_id, e.put.id.request_number) for e in entries if e.HasField("put")]


# -- what goes there ----------------------------------------------------------------------------------


async def test_what_one_group_answers_goes_to_its_leader() -> None:
    async with Direct() as direct:
        client = direct.client
        version = await client.put(b"a", b"1")
        assert await client.get(b"a") == Value(b"1", version)
        assert await client.get(b"nothing") is None
        assert (await client.delete(b"a")).existed
        assert not (await client.delete(b"a")).existed
        done = await client.transact([Compare.missing(b"b")], then=[Put(b"b", b"2"), Get(b"b")])
        assert done.succeeded
        assert [command.WhichOneof("command") for command in direct.node.commands] == [
            "put",
            "delete",
            "delete",
            "transact",
        ]
        assert direct.through_router == []


async def test_each_key_goes_to_the_leader_of_its_group() -> None:
    async with Direct(groups=2) as direct:
        await asyncio.gather(*(direct.client.put(b"key-%d" % n, b"v") for n in range(50)))
        for node in direct.nodes:
            keys = [command.put.key for command in node.commands]
            assert len(keys) > 10
            assert all(slot_of(key) % 2 == node.group for key in keys)
        assert direct.through_router == []


async def test_what_waits_at_the_same_moment_travels_in_one_message() -> None:
    async with Direct() as direct:
        del direct.node.messages[:]
        await asyncio.gather(*(direct.client.put(b"key-%d" % n, b"v") for n in range(300)))
        assert len(direct.node.messages) <= 3
        assert sum(direct.node.messages) == 300


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.get(b"a", consistency=Consistency.STALE),
        lambda c: c.get(b"a", version=1000),
    ],
    ids=["stale", "snapshot"],
)
async def test_other_reads_go_through_the_router(call: Callable[[Client], object]) -> None:
    async with Direct() as direct:
        await call(direct.client)  # type: ignore[misc]
        assert [entry.get.key for entry in direct.through_router] == [b"a"]
        assert b"a" not in direct.node.reads


async def test_a_transaction_over_two_groups_goes_through_the_router() -> None:
    """Its keys count wherever they stand: in compares and in both branches."""
    async with Direct(groups=2) as direct:
        one, two = (key_in(node.slots) for node in direct.nodes)
        client = direct.client
        await client.transact(then=[Put(one, b"1"), Put(two, b"2")])
        await client.transact([Compare.exists(one)], then=[Delete(two)])
        await client.transact(then=[Add(one)], otherwise=[Get(two)])
        assert [e.WhichOneof("request") for e in direct.through_router] == ["transact"] * 3
        assert not any(node.commands for node in direct.nodes)


# -- trouble ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason", [r for r in _Failure.Reason.values() if r], ids=_Failure.Reason.Name
)
async def test_what_a_replica_cannot_serve_goes_through_the_router_with_the_same_id(
    reason: _Failure.Reason.ValueType,
) -> None:
    async with Direct() as direct:
        direct.node.rule = direct.node.fail(reason)
        assert await direct.client.put(b"a", b"1") == 1001
        assert ids(direct.through_router) == ids(direct.node.commands)
        assert len(ids(direct.through_router)) == 1


def _result(**fields: object) -> shard_pb2.Result:
    return shard_pb2.Result(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "result",
    [
        _result(wrong_group=shard_pb2.WrongGroup(epoch=7)),
        _result(pending=shard_pb2.Pending()),
        _result(error=kv_pb2.Error(code=8, message="by the test")),
        _result(),
        _result(clock=7),
    ],
    ids=["wrong group", "pending", "error", "nothing", "foreign"],
)
async def test_a_result_that_is_no_plain_answer_is_asked_of_the_router(
    result: shard_pb2.Result,
) -> None:
    async with Direct() as direct:
        direct.node.rule = direct.node.each(lambda _: result)
        assert await direct.client.put(b"a", b"1") == 1001
        assert ids(direct.through_router) == ids(direct.node.commands)


@pytest.mark.parametrize(
    "value",
    [
        shard_pb2.Value(wrong_group=shard_pb2.WrongGroup(epoch=7)),
        shard_pb2.Value(pending=shard_pb2.Pending()),
        shard_pb2.Value(behind=shard_pb2.Behind(clock=1)),
        shard_pb2.Value(error=kv_pb2.Error(code=8, message="by the test")),
    ],
    ids=["wrong group", "pending", "behind", "error"],
)
async def test_a_read_without_a_plain_answer_is_asked_of_the_router(value: shard_pb2.Value) -> None:
    async with Direct() as direct:
        version = await direct.client.put(b"a", b"1")
        direct.node.rule = lambda request: shard_pb2.ShardResponse(
            sequence=request.sequence, values=[value]
        )
        assert await direct.client.get(b"a") == Value(b"1", version)
        assert [entry.get.key for entry in direct.through_router] == [b"a"]


@pytest.mark.parametrize("extra", [1, -1])
async def test_an_answer_of_another_length_is_not_believed(extra: int) -> None:
    async with Direct() as direct:

        def rule(request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse:
            versions = range(5, 5 + request.count + extra)
            return shard_pb2.ShardResponse(sequence=request.sequence, versions=versions)

        direct.node.rule = rule
        versions = await asyncio.gather(*(direct.client.put(b"%d" % n, b"v") for n in range(3)))
        assert sorted(versions) == [1001, 1002, 1003]


async def test_versions_are_no_answer_to_what_is_no_put() -> None:
    async with Direct() as direct:
        direct.node.rule = lambda request: shard_pb2.ShardResponse(
            sequence=request.sequence, versions=[5]
        )
        assert not (await direct.client.delete(b"a")).existed
        assert [entry.WhichOneof("request") for entry in direct.through_router] == ["delete"]


async def test_a_lost_answer_is_fetched_through_the_router_and_nothing_runs_twice() -> None:
    """PROTOCOL 2.2: the first copy ran, and the stream broke."""
    async with Direct() as direct:

        def run_and_drop(request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse:
            direct.node.serve(request)
            raise DropStreamError

        direct.node.rule = run_and_drop
        versions = await asyncio.gather(*(direct.client.put(b"%d" % n, b"v") for n in range(9)))
        assert sorted(versions) == list(range(1001, 1010))
        assert set(direct.store.ran.values()) == {1}
        assert len(direct.through_router) == 9


async def test_a_silent_leader_is_left_and_its_calls_travel_through_the_router() -> None:
    async with Direct(limits=QUICK) as direct:
        direct.node.rule = lambda _: None
        began = asyncio.get_running_loop().time()
        assert await direct.client.put(b"a", b"1") == 1001
        assert asyncio.get_running_loop().time() - began < 3.0  # it has 5 s
        assert ids(direct.through_router) == ids(direct.node.commands)


async def test_what_may_have_run_at_a_leader_is_never_called_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FAULTS 50: the leader hangs, and the router refuses to the end."""
    ends_after_three_refusals(monkeypatch)
    async with Direct(limits=QUICK) as direct:
        direct.node.rule = lambda _: None
        direct.router.rule = lambda entry: refusal(entry, 8, "full")
        with pytest.raises(OutcomeUnknown) as unknown:
            await direct.client.put(b"a", b"1")
        direct.router.rule = direct.store.answer
        await direct.client.put(b"a", b"1", request_id=unknown.value.request_id)
        assert set(direct.store.ran.values()) == {1}


async def test_what_a_leader_has_certainly_not_run_is_not_called_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends_after_three_refusals(monkeypatch)
    async with Direct() as direct:
        direct.node.rule = direct.node.fail(_Failure.REASON_OVERLOADED)
        direct.router.rule = lambda entry: refusal(entry, 8, "full")
        with pytest.raises(ResourceExhausted):
            await direct.client.put(b"a", b"1")


async def test_a_deadline_passes_although_the_leader_says_nothing() -> None:
    async with Direct() as direct:
        direct.node.rule = lambda _: None
        put = asyncio.ensure_future(direct.client.put(b"a", b"1", timeout=1.0))
        await direct.node.until(lambda: len(direct.node.commands) == 1)
        with pytest.raises(OutcomeUnknown):
            await put
        assert direct.through_router == []


async def test_closing_ends_what_is_with_a_leader() -> None:
    async with Direct() as direct:
        direct.node.rule = lambda _: None
        sent = asyncio.ensure_future(direct.client.put(b"a", b"1"))
        await direct.node.until(lambda: len(direct.node.commands) == 1)
        waiting = asyncio.ensure_future(direct.client.put(b"b", b"1"))
        await asyncio.sleep(0)
        await direct.client.close()
        with pytest.raises(OutcomeUnknown):
            await sent
        with pytest.raises(ClientClosed):
            await waiting


async def test_a_cancelled_call_that_waits_is_not_sent() -> None:
    async with Direct() as direct:
        direct.node.awake.clear()
        first = asyncio.ensure_future(direct.client.put(b"a", b"1"))
        await direct.node.until(lambda: len(direct.node.commands) == 1)
        second = asyncio.ensure_future(direct.client.put(b"b", b"1"))
        await asyncio.sleep(0)
        second.cancel()
        direct.node.awake.set()
        await first
        await direct.client.put(b"c", b"1")
        assert [command.put.key for command in direct.node.commands] == [b"a", b"c"]


@pytest.mark.parametrize("lost", ["broken", "silent"])
async def test_a_router_s_own_check_says_nothing_of_what_a_leader_may_have_run(lost: str) -> None:
    """A leader may run what routers with other limits refuse; what a replica keeps names no field."""
    async with Direct(limits=QUICK) as direct:

        def run_and_lose(request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse | None:
            direct.node.serve(request)
            if lost == "broken":
                raise DropStreamError
            return None

        def refuse(entry: Entry) -> Answer:
            answer = refusal(entry, 3, "then: has too many bytes")
            answer.error.details.append(b"a BadRequest")
            return answer

        direct.node.rule = run_and_lose
        direct.router.rule = refuse
        with pytest.raises(OutcomeUnknown) as unknown:
            await direct.client.transact(then=[Put(b"a", b"1")])
        again = unknown.value.request_id
        with pytest.raises(OutcomeUnknown):  # as little the second time
            await direct.client.transact(then=[Put(b"a", b"1")], request_id=again)
        direct.router.rule = lambda entry: refusal(entry, 3, "kept with the id")
        with pytest.raises(InvalidArgument):
            await direct.client.transact(then=[Put(b"a", b"1")], request_id=again)


async def test_reads_that_are_answered_hide_no_write_that_is_not() -> None:
    async with Direct(limits=QUICK) as direct:

        def only_reads(request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse | None:
            return None if request.commands else direct.node.serve(request)

        direct.node.rule = only_reads
        write = asyncio.ensure_future(direct.client.put(b"a", b"1"))
        while not write.done():
            await direct.client.get(b"b")
        assert await write == 1001  # and no deadline came first
        assert len(direct.through_router) >= 1


async def test_what_ended_while_it_waited_for_a_silent_leader_is_let_go() -> None:
    async with Direct() as direct:
        direct.node.awake.clear()
        first = asyncio.ensure_future(direct.client.put(b"a", b"1", timeout=5))
        await direct.node.until(lambda: len(direct.node.commands) == 1)
        batcher = direct.client._batcher
        assert batcher is not None
        assert batcher._direct is not None
        (link,) = batcher._direct._links.values()
        with pytest.raises(OverDBError):
            await direct.client.put(b"b", b"1", timeout=0.02)
        assert not link._writes
        direct.node.awake.set()
        await first


async def test_links_that_bring_no_answer_are_opened_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[int] = []

    def no_pause(failures: int) -> float:
        pauses.append(failures)
        return 0.0

    async with Direct() as direct:
        monkeypatch.setattr(_direct, "_pause_seconds", no_pause)
        direct.node.rule = direct.node.fail(_Failure.REASON_OVERLOADED)
        while not pauses or pauses[-1] < 5:
            await direct.client.put(b"a", b"1")
        direct.node.rule = direct.node.serve
        await linked_again(direct)
        direct.node.rule = direct.node.fail(_Failure.REASON_OVERLOADED)
        del pauses[:]
        while not pauses:
            await direct.client.put(b"a", b"1")
        assert pauses[0] == 0


async def linked_again(direct: Direct) -> None:
    """Return once a read arrives at the first node anew."""
    before = len(direct.node.reads)
    while len(direct.node.reads) == before:
        await direct.client.get(key_in(direct.node.slots, b"look"))


# -- leaders come and go ------------------------------------------------------------------------------


async def test_a_new_leader_is_found_and_used() -> None:
    async with Direct() as direct, FakeNode(direct.store) as second:
        lead(direct.router, second)
        direct.node.role = "follower"
        direct.node.rule = direct.node.fail(_Failure.REASON_NOT_LEADER)
        await direct.client.put(b"a", b"1")
        await linked(direct.client, [second])
        await direct.client.put(b"b", b"1")
        assert [command.put.key for command in second.commands] == [b"b"]


async def test_slots_that_moved_are_learned() -> None:
    async with Direct() as direct:
        direct.node.slots = bytes(512)
        direct.node.rule = direct.node.each(
            lambda _: shard_pb2.Result(wrong_group=shard_pb2.WrongGroup(epoch=2))
        )
        await direct.client.put(b"a", b"1")
        known = direct.node.descriptions
        await direct.node.until(lambda: direct.node.descriptions > known)
        refused = -1
        while refused != len(direct.node.commands):  # until one goes through the router at once
            refused = len(direct.node.commands)
            await direct.client.put(b"a", b"2")
        await direct.client.put(b"a", b"3")
        assert len(direct.node.commands) == refused


@pytest.mark.parametrize("what", ["cluster", "role", "group", "slots", "nobody"])
async def test_who_is_not_the_leader_of_this_group_gets_nothing(what: str) -> None:
    store = Store()
    async with FakeRouter(store) as router, FakeNode(store) as node:
        lead(router, node)
        if what == "nobody":
            router.status.groups[0].replicas[0].direct_address = "127.0.0.1:1"
        elif what == "group":
            node.group = 1
        else:
            setattr(node, what, {"cluster": "other", "role": "follower", "slots": b""}[what])
        async with Client(router.address, limits=QUICK, direct=True) as client:
            if what != "nobody":
                await node.until(lambda: node.descriptions >= 2)
            await client.put(b"a", b"1")
            assert await client.get(b"a") == Value(b"1", 1001)
        assert not node.commands
        assert not node.reads


async def test_without_being_asked_for_nothing_goes_to_a_leader() -> None:
    store = Store()
    async with FakeRouter(store) as router, FakeNode(store) as node:
        lead(router, node)
        async with Client(router.address, limits=QUICK) as client:
            await client.put(b"a", b"1")
        assert node.descriptions == 0


async def test_an_empty_key_is_refused_by_the_router() -> None:
    async with Direct() as direct:
        direct.router.rule = lambda entry: refusal(entry, 3, "empty")
        with pytest.raises(InvalidArgument, match="empty"):
            await direct.client.put(b"", b"1")
        assert not direct.node.commands
