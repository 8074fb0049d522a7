"""An id that expired before anything ran under it is replaced; the caller sees nothing (PROTOCOL 2.10)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest

import overdb.sync
from overdb import (
    Add,
    Client,
    FailedPrecondition,
    Get,
    InvalidArgument,
    OutcomeUnknown,
    OverDBError,
    Put,
    RequestId,
    Transaction,
)
from overdb._expiry import untimely_id
from overdb.internal.v1 import shard_pb2
from tests.unit.client.fake_router import DropStreamError, FakeRouter
from tests.unit.client.store import Answer, Entry
from tests.unit.client.test_direct import Direct
from tests.unit.client.test_failures import QUICK, Pair


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every id counts as old, so that it may have expired although the clocks are right."""
    monkeypatch.setattr("overdb.ids.NEW_ID_MS_MAX", 0)


def now_us() -> int:
    return time.time_ns() // 1000


class Expiring:
    """A rule: ids that were seen before ``expire`` are refused as expired, where nothing is kept of them."""

    def __init__(self, router: FakeRouter, group_time_us: int | None = None) -> None:
        self._store = router.store
        self._time_us = group_time_us or now_us()
        self._seen: set[bytes] = set()
        self._expired: set[bytes] = set()
        self.always = False
        self.refused: list[bytes] = []
        router.rule = self.answer

    def expire(self, client_ids: Collection[bytes] = ()) -> None:
        self._expired |= self._seen | set(client_ids)

    def answer(self, entry: Entry) -> Answer:
        kind = entry.WhichOneof("request") or "get"
        if kind == "get":
            return self._store.answer(entry)
        request_id = getattr(entry, kind).id
        self._seen.add(request_id.client_id)
        kept = (request_id.client_id, request_id.request_number) in self._store.results
        if not kept and (self.always or request_id.client_id in self._expired):
            self.refused.append(request_id.client_id)
            answer = Answer(tag=entry.tag)
            answer.error.code = 9
            answer.error.message = "client id has expired"
            answer.error.details.append(untimely_id(self._time_us, expired=True))
            return answer
        return self._store.answer(entry)


async def _increment(t: Transaction) -> None:
    await t.get(b"k")
    t.put(b"k", b"2")


CALLS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "put": lambda client: client.put(b"k", b"2"),
    "delete": lambda client: client.delete(b"k"),
    "transact": lambda client: client.transact(then=[Put(b"k", b"2"), Add(b"n"), Get(b"k")]),
    "run": lambda client: client.run(_increment),
}


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("call", CALLS)
async def test_a_write_is_sent_again_under_a_new_id(call: str) -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        expiring = Expiring(router)
        await client.put(b"k", b"1")
        expiring.expire()
        await CALLS[call](client)
        assert len(expiring.refused) == 1
        assert set(router.store.ran.values()) == {1}
        assert len(router.store.ran) == 2


@pytest.mark.usefixtures("old")
async def test_a_transaction_block_and_the_synchronous_client_see_nothing() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        expiring = Expiring(router)
        await client.put(b"k", b"1")
        expiring.expire()
        async with client.transaction() as t:
            await _increment(t)
        assert router.store.values[b"k"][0] == b"2"

        def synchronous() -> None:
            with overdb.sync.Client(router.address) as other:
                other.put(b"s", b"1")
                expiring.expire()
                other.put(b"s", b"2")
                assert other.delete(b"s").existed

        await asyncio.to_thread(synchronous)
        assert len(expiring.refused) == 2


@pytest.mark.usefixtures("old")
async def test_all_that_wait_share_one_new_id_and_each_runs_once() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        expiring = Expiring(router)
        await client.put(b"k", b"1")
        expiring.expire()
        await asyncio.gather(*(client.transact(then=[Add(b"n")]) for _ in range(50)))
        assert router.store.values[b"n"][0] == b"50"
        assert len({client_id for client_id, _ in router.store.ran}) == 2
        await client.put(b"k", b"2")
        # Nothing stays open under either id, so the servers may forget.
        assert max(router.store.below.values()) == 51


@pytest.mark.usefixtures("old")
async def test_a_direct_call_is_sent_again_through_the_router() -> None:
    async with Direct() as direct:
        expiring = Expiring(direct.router)
        await direct.client.put(b"k", b"1")
        expiring.expire({client_id for client_id, _ in direct.store.ran})

        def refuse(request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse:
            response = shard_pb2.ShardResponse(sequence=request.sequence)
            for _ in range(request.count):
                error = response.results.add().error
                error.code, error.message = 9, "client id has expired"
                error.details.append(untimely_id(now_us(), expired=True))
            return response

        direct.node.rule = refuse
        await direct.client.put(b"k", b"2")
        assert direct.store.values[b"k"][0] == b"2"
        assert set(direct.store.ran.values()) == {1}


async def test_when_a_new_id_has_expired_the_clock_is_named() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        expiring = Expiring(router, now_us() + 3_720_000_000)
        expiring.always = True
        with pytest.raises(FailedPrecondition, match=r"clock of this machine is 37[12]\d s behind"):
            await client.put(b"k", b"1")
        assert len(expiring.refused) == 1
        assert not router.store.ran


async def test_when_the_clocks_agree_the_servers_words_are_passed_on() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        expiring = Expiring(router)
        expiring.always = True
        with pytest.raises(FailedPrecondition, match="client id has expired"):
            await client.put(b"k", b"1")
        assert len(expiring.refused) == 1


async def test_an_id_may_expire_twice_within_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines were suspended again before the second copy arrived."""
    async with FakeRouter() as router, Client(router.address) as client:
        await client.put(b"k", b"1")
        expiring = Expiring(router)
        answer, slept = expiring.answer, [7200, 90, 86_400]
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + 10**9 * sum(gone))
        gone: list[int] = []

        def sleep_first(entry: Entry) -> Answer:
            expiring.always = bool(slept)
            if slept:
                gone.append(slept.pop())
            return answer(entry)

        router.rule = sleep_first
        await client.put(b"k", b"2")
        assert len(expiring.refused) == 3
        assert set(router.store.ran.values()) == {1}


@pytest.mark.usefixtures("old")
async def test_a_second_copy_that_is_refused_says_nothing_of_the_first() -> None:
    """FAULTS 52: the first copy may have run, and been forgotten with its id. No new id may run it again."""
    async with Pair() as pair:
        ran: list[Entry] = []

        def run_and_drop(entry: Entry) -> Answer:
            ran.append(entry)
            raise DropStreamError

        pair.first.rule = run_and_drop
        expiring = Expiring(pair.second)
        expiring.always = True
        with pytest.raises(OutcomeUnknown, match="has expired"):
            await pair.client.transact(then=[Add(b"n")])
        assert len(ran) == 1
        assert expiring.refused == [ran[0].transact.id.client_id]


async def test_a_repetition_keeps_its_id() -> None:
    request_id = RequestId(bytes.fromhex("0190" * 3 + "7000" + "8000" * 4), 5, 1, 5)
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        expiring = Expiring(router)
        expiring.always = True
        with pytest.raises(OutcomeUnknown) as caught:
            await client.put(b"k", b"v", request_id=request_id)
        assert caught.value.request_id == request_id
        assert expiring.refused == [request_id.client_id]


async def test_an_unrelated_refusal_is_no_reason_for_a_new_id() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        answers: list[Entry] = []

        def refuse(entry: Entry) -> Answer:
            answers.append(entry)
            answer = Answer(tag=entry.tag)
            answer.error.code = 9
            answer.error.message = "stale"
            answer.error.details.append(b"\xffgarbage")
            return answer

        router.rule = refuse
        with pytest.raises(OverDBError, match="stale"):
            await client.put(b"k", b"1")
        assert len(answers) == 1


async def test_an_id_from_the_future_is_replaced_once_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The servers refuse it, as any id that is ahead of their time; a new one is not."""
    async with FakeRouter() as router, Client(router.address) as client:
        ahead_s = 3600
        monkeypatch.setattr("overdb._batch.AHEAD_SECONDS_MAX", 0)
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + ahead_s * 10**9)
        refused: list[bytes] = []

        def answer(entry: Entry) -> Answer:
            client_id = entry.put.id.client_id
            if int.from_bytes(client_id[:6], "big") * 10**6 < real() + 60 * 10**9:
                return router.store.answer(entry)
            refused.append(client_id)
            said = Answer(tag=entry.tag)
            said.error.code, said.error.message = 3, "3600 s ahead of this group's time"
            said.error.details.append(untimely_id(real() // 1000, expired=False))
            return said

        router.rule = answer
        with pytest.raises(InvalidArgument, match="ahead of this group's time"):
            await client.put(b"k", b"1")
        assert len(refused) == 1
        ahead_s = 0
        await client.put(b"k", b"2")
        assert len(refused) == 2
        assert list(router.store.ran.values()) == [1]


# -- versions that are no longer kept ---------------------------------------------------------------------


class Forgetting:
    """Reads at versions below the newest are refused once, as after a suspend within a block."""

    def __init__(self, router: FakeRouter) -> None:
        self._store = router.store
        self.refusals = 1
        router.rule = self.answer

    def answer(self, entry: Entry) -> Answer:
        if entry.get.read.version and self.refusals:
            self.refusals -= 1
            answer = Answer(tag=entry.tag)
            answer.error.code, answer.error.message = 9, "version 1 is no longer kept"
            return answer
        return self._store.answer(entry)


async def test_run_repeats_a_block_whose_version_is_no_longer_kept() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        await client.put(b"k", b"1")
        forgetting = Forgetting(router)
        runs = 0

        async def block(t: Transaction) -> None:
            nonlocal runs
            runs += 1
            await t.get(b"k")
            await t.get(b"other")
            t.put(b"k", b"2")

        await client.run(block)
        assert (runs, router.store.values[b"k"][0]) == (2, b"2")
        forgetting.refusals = 1
        with pytest.raises(FailedPrecondition, match="no longer kept"):
            await client.run(block, attempts=1)

        def synchronous() -> int:
            made = 0

            def fn(t: overdb.sync.Transaction) -> None:
                nonlocal made
                made += 1
                t.get(b"k")
                t.get(b"other")
                t.put(b"k", b"3")

            with overdb.sync.Client(router.address) as other:
                other.run(fn)
            return made

        forgetting.refusals = 1
        assert await asyncio.to_thread(synchronous) == 2
        assert router.store.values[b"k"][0] == b"3"


async def test_an_error_of_the_block_s_own_is_not_repeated() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        runs = 0

        async def block(t: Transaction) -> None:
            nonlocal runs
            runs += 1
            await t.get(b"k")
            raise FailedPrecondition("mine")

        with pytest.raises(FailedPrecondition, match="mine"):
            await client.run(block)
        assert runs == 1


async def test_a_new_id_is_tried_again_until_the_group_s_time_has_followed() -> None:
    """All machines were suspended; the group's leader has not heard the others' clocks since."""
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        refusals = 3
        seen: list[int] = []

        def answer(entry: Entry) -> Answer:
            nonlocal refusals
            seen.append(entry.put.id.request_number)
            if not refusals:
                return router.store.answer(entry)
            refusals -= 1
            said = Answer(tag=entry.tag)
            said.error.code, said.error.message = 3, "7200 s ahead of this group's time"
            said.error.details.append(untimely_id(now_us() - 7_200_000_000, expired=False))
            return said

        router.rule = answer
        await client.put(b"k", b"1")
        assert seen == [1, 2, 3, 4]  # a refusal may be kept under its number
        assert list(router.store.ran.values()) == [1]


async def test_a_clock_that_stays_ahead_is_named_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overdb._batch.AHEAD_SECONDS_MAX", 0.1)
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:

        def answer(entry: Entry) -> Answer:
            said = Answer(tag=entry.tag)
            said.error.code, said.error.message = 3, "set the client's clock"
            said.error.details.append(untimely_id(now_us() - 7_200_000_000, expired=False))
            return said

        router.rule = answer
        with pytest.raises(InvalidArgument, match="set the client's clock"):
            await client.put(b"k", b"1", timeout=60.0)
