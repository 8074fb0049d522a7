"""Retries with the same id, failover, deadlines: nothing is reported failed that may still commit."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

import pytest

from overdb import (
    Aborted,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    Limits,
    NotFound,
    OutcomeUnknown,
    RequestId,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    _batch,
)
from tests.unit.client.fake_router import (
    NOT_SERVING,
    DropStreamError,
    FakeRouter,
    refusal,
)
from tests.unit.client.store import Answer, Entry, Store

QUICK = Limits(
    connect_seconds_max=0.3,
    silence_seconds_max=0.2,
    probe_seconds_max=0.1,
    backoff_seconds_max=0.05,
)
# Where no router is to be left: one that the machine keeps from answering for a moment is not.
PATIENT = replace(QUICK, connect_seconds_max=5.0, silence_seconds_max=60.0)


@contextmanager
def nobody() -> Iterator[str]:
    """Give an address where nobody listens, and nobody else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def connected(router: FakeRouter, client: Client) -> None:
    """Connect first: a short time is then the next call's own, and ends as it does at a router."""
    await client.get(b"connect")
    del router.entries[:]


class Pair:
    """Two routers over one store, and a client that is connected to ``first``."""

    def __init__(self, limits: Limits = QUICK) -> None:
        self.store = Store()
        self._limits = limits

    async def __aenter__(self) -> Pair:
        self._stack = AsyncExitStack()
        routers = [await self._stack.enter_async_context(FakeRouter(self.store)) for _ in range(2)]
        addresses = [router.address for router in routers]
        self.client = await self._stack.enter_async_context(Client(addresses, limits=self._limits))
        await self.client.get(b"connect")
        self.first, self.second = sorted(routers, key=lambda router: -router.messages)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def ids_of(router: FakeRouter) -> list[tuple[bytes, int]]:
    return [
        (entry.put.id.client_id, entry.put.id.request_number)
        for entry in router.entries
        if entry.HasField("put")
    ]


# -- retries ----------------------------------------------------------------------------------


async def test_a_lost_answer_is_fetched_from_another_router_with_the_same_id() -> None:
    """FAULTS 50-52, PROTOCOL 2.2: the first copy ran, the answer was lost, nothing runs twice."""
    async with Pair() as pair:

        def run_and_drop(entry: Entry) -> Answer:
            pair.store.answer(entry)
            raise DropStreamError

        pair.first.rule = run_and_drop
        version = await pair.client.put(b"k", b"v")
        assert pair.store.values[b"k"] == (b"v", version)
        assert ids_of(pair.first) == ids_of(pair.second)
        assert set(pair.store.ran.values()) == {1}
        first = next(e.put for e in pair.first.entries if e.HasField("put"))
        again = next(e.put for e in pair.second.entries if e.HasField("put"))
        assert first.SerializeToString() == again.SerializeToString()


async def test_what_one_router_does_not_know_another_one_may_have_run() -> None:
    """While routers of two versions run: the first copy ran, and the other router is too old for it."""
    async with Pair() as pair:

        def run_and_drop(entry: Entry) -> Answer:
            pair.store.answer(entry)
            raise DropStreamError

        pair.first.rule = run_and_drop
        pair.second.rule = lambda entry: refusal(entry, 12, "not known here")
        with pytest.raises(OutcomeUnknown):
            await pair.client.put(b"k", b"v")


async def test_everything_under_way_moves_in_its_order() -> None:
    async with Pair() as pair:

        def hold(entry: Entry) -> Answer | None:
            if entry.put.key == b"last":
                raise DropStreamError
            return None

        pair.first.rule = hold
        puts = [asyncio.ensure_future(pair.client.put(b"k%d" % i, b"v")) for i in range(50)]
        await pair.first.until(lambda: len(pair.first.numbers()) == 50)
        puts.append(asyncio.ensure_future(pair.client.put(b"last", b"v")))
        await asyncio.gather(*puts)
        assert pair.second.numbers() == list(range(1, 52))
        assert set(pair.store.ran.values()) == {1}


async def test_a_router_that_stops_is_left_at_once() -> None:
    async with Pair() as pair:
        await pair.first.stop()
        for i in range(5):
            await pair.client.put(b"k%d" % i, b"v", timeout=2)
        assert pair.second.numbers() == [1, 2, 3, 4, 5]


async def test_a_router_that_does_not_answer_is_left_after_the_silence() -> None:
    async with Pair() as pair:
        pair.first.awake.clear()
        version = await pair.client.put(b"k", b"v", timeout=5)
        assert pair.store.values[b"k"] == (b"v", version)
        assert pair.second.numbers() == [1]


async def test_a_question_to_a_router_that_hangs_moves_along() -> None:
    async with Pair() as pair:
        await pair.client.put(b"before", b"v")
        pair.first.awake.clear()
        status = asyncio.ensure_future(pair.client.status(timeout=5))
        pages = asyncio.ensure_future(anext(pair.client.scan_pages(timeout=5), None))
        await pair.client.put(b"k", b"v", timeout=5)  # whose silence is noticed
        assert (await status).cluster == "fake"
        assert await pages is not None


async def test_a_router_that_breaks_every_stream_is_not_hammered() -> None:
    limits = Limits(backoff_seconds_min=0.1, backoff_seconds_max=0.1)
    async with FakeRouter() as router, Client(router.address, limits=limits) as client:

        def drop(entry: Entry) -> Answer:
            raise DropStreamError

        await connected(router, client)
        router.rule = drop
        with pytest.raises(OutcomeUnknown):
            await client.put(b"k", b"v", timeout=1.5)
        assert 4 <= router.streams <= 33  # a pause of 50 to 100 ms before all but the first three


async def test_a_slow_router_that_lives_is_not_left() -> None:
    async with Pair(replace(QUICK, probe_seconds_max=10.0)) as pair:
        pair.first.rule = lambda _: None
        asked = pair.first.health_questions
        put = asyncio.ensure_future(pair.client.put(b"k", b"v", timeout=60))
        await pair.first.until(lambda: len(pair.first.numbers()) == 1)
        await pair.first.until(lambda: pair.first.health_questions >= asked + 3)
        pair.first.rule = lambda _: pair.store.answer(pair.first.entries[1])
        # Any message makes the fake answer the put that it holds (the get's own tag is dropped).
        get = asyncio.ensure_future(pair.client.get(b"k", timeout=5))
        await put
        get.cancel()
        assert not pair.second.entries


async def test_a_router_without_leaders_is_left_for_one_that_serves() -> None:
    async with Pair() as pair:
        pair.first.health = NOT_SERVING
        pair.first.rule = lambda entry: refusal(entry, 14, "no leader for group 1")
        version = await pair.client.put(b"k", b"v", timeout=5)
        assert pair.store.values[b"k"] == (b"v", version)


async def test_resource_exhausted_is_retried_with_the_same_id() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:

        def full_twice(entry: Entry) -> Answer:
            if len(router.entries) <= 2:
                return refusal(entry, 8, "queue of group 0 is full")
            return router.store.answer(entry)

        router.rule = full_twice
        await client.put(b"k", b"v")
        assert router.numbers() == [1, 1, 1]


def ends_after_three_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth pause would be longer than the call's time: it ends with no copy under way.

    One that is under way at the deadline may have run, whatever became of those before it.
    """
    monkeypatch.setattr(_batch, "backoff_seconds", lambda _, n: 0.001 if n < 3 else 1000.0)


async def test_resource_exhausted_to_the_end_is_reported_as_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends_after_three_refusals(monkeypatch)
    async with FakeRouter() as router, Client(router.address, limits=PATIENT) as client:
        router.rule = lambda entry: refusal(entry, 8, "queue of group 0 is full")
        with pytest.raises(ResourceExhausted, match="queue of group 0 is full"):
            await client.put(b"k", b"v", timeout=10)
        assert router.numbers() == [1, 1, 1, 1]


async def test_a_router_that_comes_back_under_the_same_address_is_found() -> None:
    router = await FakeRouter().start()
    address = router.address
    async with Client(address, limits=QUICK) as client:
        await client.put(b"a", b"1")
        await router.stop()
        put = asyncio.ensure_future(client.put(b"b", b"2", timeout=10))
        again = FakeRouter(router.store)
        await again.start(address)
        await put
        assert again.numbers() == [2]
        await again.stop()


# -- deadlines --------------------------------------------------------------------------------


async def test_a_write_without_an_answer_is_unknown_and_can_be_repeated_by_its_id() -> None:
    async with FakeRouter() as router, Client(router.address, limits=PATIENT) as client:
        await connected(router, client)

        def run_silently(entry: Entry) -> None:
            router.store.answer(entry)

        router.rule = run_silently
        with pytest.raises(OutcomeUnknown, match="repeat it with request_id=") as caught:
            await client.put(b"k", b"v", timeout=1.0)
        request_id = caught.value.request_id
        assert isinstance(request_id, RequestId)

        router.rule = router.store.answer
        version = await client.put(b"k", b"v", request_id=request_id)
        assert router.store.values[b"k"] == (b"v", version)
        assert set(router.store.ran.values()) == {1}
        first, again = (entry.put for entry in router.entries)
        assert first.SerializeToString() == again.SerializeToString()


async def test_a_repetition_that_is_refused_or_never_sent_leaves_the_first_try_unknown() -> None:
    request_id = RequestId(bytes.fromhex("0190" * 3 + "7000" + "8000" * 4), 5, 1, 5)
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        router.rule = lambda entry: refusal(entry, 9, "the client id is expired")
        with pytest.raises(OutcomeUnknown, match="is expired") as caught:
            await client.put(b"k", b"v", request_id=request_id)
        assert caught.value.request_id == request_id
    with nobody() as address:
        async with Client(address, limits=QUICK) as client:
            with pytest.raises(OutcomeUnknown):
                await client.put(b"k", b"v", request_id=request_id, timeout=0.2)


async def test_a_read_without_an_answer_is_a_passed_deadline() -> None:
    async with FakeRouter() as router, Client(router.address, limits=PATIENT) as client:
        await connected(router, client)
        router.rule = lambda _: None
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlineExceeded):
            await client.get(b"k", timeout=1.0)
        assert 1.0 <= loop.time() - began < 3.0


async def test_without_any_router_a_write_is_unavailable_and_not_run() -> None:
    # The reason is that of the last whole search: PATIENT ends none before the refusal has come.
    with nobody() as address:
        async with Client(address, limits=PATIENT) as client:
            with pytest.raises(Unavailable, match=f"{address}: connection refused.*not run"):
                await client.put(b"k", b"v", timeout=2.0)
            with pytest.raises(Unavailable, match="connection refused"):
                await client.status(timeout=2.0)
            with pytest.raises(Unavailable, match="connection refused"):
                _ = [item async for item in client.scan(timeout=2.0)]


async def test_refused_after_a_lost_answer_is_still_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal of the second copy says nothing about the first (FAULTS 52)."""
    ends_after_three_refusals(monkeypatch)
    for code, words in ((9, "expired"), (10, "rival"), (14, "no leader"), (8, "full")):
        async with Pair() as pair:

            def drop(entry: Entry) -> Answer:
                raise DropStreamError

            def refuse(entry: Entry, code: int = code, words: str = words) -> Answer:
                return refusal(entry, code, words)

            pair.first.rule = drop
            pair.second.rule = refuse
            with pytest.raises(OutcomeUnknown, match=f"outcome unknown: .*{words}"):
                await pair.client.put(b"k", b"v", timeout=10)
            assert ids_of(pair.second)


@pytest.mark.parametrize(
    ("code", "kind"), [(9, FailedPrecondition), (10, Aborted), (12, Unimplemented)]
)
async def test_a_refusal_of_the_only_copy_is_the_answer(code: int, kind: type[Exception]) -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        router.rule = lambda entry: refusal(entry, code, "because")
        with pytest.raises(kind, match="because"):
            await client.put(b"k", b"v")
        assert len(router.entries) == 1


@pytest.mark.parametrize("code", [2, 13])
async def test_an_internal_error_leaves_a_write_unknown(code: int) -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        router.rule = lambda entry: refusal(entry, code, "a bug")
        with pytest.raises(OutcomeUnknown, match="a bug"):
            await client.put(b"k", b"v")


async def test_the_routers_own_deadline_is_retried_within_ours() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:

        def late_once(entry: Entry) -> Answer:
            answer = router.store.answer(entry)
            return answer if len(router.entries) > 1 else refusal(entry, 4, "outcome unknown")

        router.rule = late_once
        await client.put(b"k", b"v")
        assert router.numbers() == [1, 1]
        assert set(router.store.ran.values()) == {1}


@pytest.mark.parametrize(
    ("seconds", "timeout_ms"),
    [(30.0, 29_900), (3.0, 2900), (0.5, 450), (0.05, 45), (0.001, 1), (0.0001, 1), (-1.0, 1)],
)
def test_a_router_has_a_little_less_than_what_is_left(seconds: float, timeout_ms: int) -> None:
    assert _batch._router_timeout_ms(seconds) == timeout_ms


async def test_entries_carry_what_is_left_of_their_time() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        await client.get(b"k", timeout=30)
        await client.get(b"k", timeout=3)
        assert 20_000 <= router.entries[0].timeout_ms <= 29_900
        assert 1 <= router.entries[1].timeout_ms <= 2900


async def test_many_deadlines_of_different_length_end_at_their_time() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        await client.get(b"connect")
        router.rule = lambda _: None
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def ends_after(seconds: float) -> float:
            with pytest.raises(DeadlineExceeded):
                await client.get(b"k", timeout=seconds)
            return loop.time() - began - seconds

        late = await asyncio.gather(*(ends_after(0.1 + 0.05 * (i * 7 % 40)) for i in range(40)))
        assert min(late) >= 0
        assert max(late) < 1.0  # half of what it would be if all ended with the last


async def test_a_server_that_is_no_router_is_named() -> None:
    import grpc.aio

    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(Unimplemented, match="is it an OverDB router"):
            await client.put(b"k", b"v")
    await server.stop(None)


async def test_a_group_that_does_not_exist_is_not_found() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        with pytest.raises(NotFound, match="no group 9"):
            await client.members(9)
        assert router.members_calls == 1


async def test_a_scan_of_a_router_that_hangs_ends_at_its_deadline() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        await client.get(b"k")
        router.awake.clear()
        with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
            _ = [item async for item in client.scan(timeout=0.3)]


# -- ids --------------------------------------------------------------------------------------


async def test_acknowledged_below_is_the_lowest_open_number() -> None:
    """PROTOCOL 2.10: the servers may forget what has its answer, and nothing else."""
    async with FakeRouter() as router, Client(router.address) as client:
        for _ in range(3):
            await client.put(b"k", b"v")

        def hold(entry: Entry) -> Answer | None:
            return None if entry.put.key == b"held" else router.store.answer(entry)

        router.rule = hold
        held = asyncio.ensure_future(client.put(b"held", b"v"))
        await router.until(lambda: len(router.entries) == 4)
        for _ in range(3):
            await client.put(b"k", b"v")
        ids = [entry.put.id for entry in router.entries]
        assert [i.request_number for i in ids] == [1, 2, 3, 4, 5, 6, 7]
        assert [i.acknowledged_below for i in ids] == [1, 2, 3, 4, 4, 4, 4]
        held.cancel()


async def test_a_client_id_is_renewed_and_its_open_requests_keep_the_old_one() -> None:
    limits = Limits(client_id_seconds_max=0.2)
    async with FakeRouter() as router, Client(router.address, limits=limits) as client:

        def hold(entry: Entry) -> Answer | None:
            return None if entry.put.key == b"held" else router.store.answer(entry)

        router.rule = hold
        held = asyncio.ensure_future(client.put(b"held", b"v"))
        await router.until(lambda: len(router.entries) == 1)
        await asyncio.sleep(0.25)  # the age of an id is what this is about
        await client.put(b"k", b"v")
        old, new = (entry.put.id for entry in router.entries)
        assert old.client_id != new.client_id
        assert (new.request_number, new.acknowledged_below) == (1, 1)
        assert len(new.client_id) == 16
        assert new.client_id[6] >> 4 == 7
        held.cancel()


async def test_an_unknown_outcome_keeps_its_number_open() -> None:
    async with FakeRouter() as router, Client(router.address, limits=PATIENT) as client:
        await connected(router, client)
        router.rule = lambda _: None
        with pytest.raises(OutcomeUnknown):
            await client.put(b"k", b"v", timeout=1.0)
        router.rule = router.store.answer
        await client.put(b"k", b"v")
        assert [entry.put.id.acknowledged_below for entry in router.entries] == [1, 1]
