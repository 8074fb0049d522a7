"""Many calls in few messages, and what a call gives back."""

from __future__ import annotations

import asyncio

import pytest

from overdb import (
    Add,
    Client,
    Compare,
    Consistency,
    Delete,
    Deleted,
    Get,
    InvalidArgument,
    KeyValue,
    Limits,
    OperationResult,
    Put,
    ResourceExhausted,
    Value,
)
from tests.unit.client.fake_router import FakeRouter, refusal


async def test_a_key_is_written_read_and_deleted() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        assert await client.get(b"a") is None
        version = await client.put(b"a", b"1")
        assert await client.get(b"a") == Value(b"1", version)
        assert await client.delete(b"a") == Deleted(version + 1, True)
        assert await client.delete(b"a") == Deleted(version + 2, False)


async def test_256_concurrent_puts_travel_in_a_few_messages() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        await client.get(b"connected")
        router.messages = 0
        versions = await asyncio.gather(*(client.put(b"k%d" % i, b"v") for i in range(256)))
        assert len(set(versions)) == 256
        assert router.messages <= 4


async def test_a_message_is_bounded_in_bytes_and_a_larger_request_travels_alone() -> None:
    limits = Limits(message_bytes_max=1000)
    async with FakeRouter() as router, Client(router.address, limits=limits) as client:
        puts = [client.put(b"small-%d" % i, b"v" * 200) for i in range(20)]
        puts.append(client.put(b"large", b"v" * 5000))
        await asyncio.gather(*puts)
        assert 6 <= router.messages <= 9  # three small ones in each, and the large one
        assert len(router.entries) == 21


async def test_answers_in_another_order_find_their_callers() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        held = []

        def hold_the_first(entry):  # type: ignore[no-untyped-def]
            if entry.put.key == b"first":
                held.append(entry)
                return None
            return router.store.answer(entry)

        router.rule = hold_the_first
        first = asyncio.ensure_future(client.put(b"first", b"1"))
        await router.until(lambda: bool(held))
        second = await client.put(b"second", b"2")
        assert not first.done()
        router.rule = lambda _: router.store.answer(held[0])
        # The answer to a get carries the tag of the first put: both are right by their tags.
        asking = asyncio.ensure_future(client.get(b"second", timeout=5))
        assert await first == second + 1
        asking.cancel()


async def test_a_transaction_carries_compares_and_both_branches() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        version = await client.put(b"a", b"1")
        ran = await client.transact(
            [
                Compare.value(b"a", "==", b"1"),
                Compare.version(b"a", ">", 0),
                Compare.exists(b"a"),
                Compare.missing(b"b"),
            ],
            then=[Get(b"a"), Put(b"b", b"2"), Add(b"n", -5), Delete(b"a")],
            otherwise=[Get(b"b")],
        )
        assert ran.succeeded
        assert ran.results == (
            OperationResult(True, b"1", version),
            OperationResult(False, b"", ran.version),
            OperationResult(False, b"-5", ran.version),
            OperationResult(True, b"", ran.version),
        )
        other = await client.transact([Compare.exists(b"a")], [Put(b"a", b"3")], [Get(b"b")])
        assert not other.succeeded
        assert other.results[0].value == b"2"


async def test_reads_carry_their_consistency_and_version() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        await client.get(b"a")
        await client.get(b"a", version=77)
        await client.get(b"a", consistency=Consistency.STALE)
        plain, at, stale = (entry.get for entry in router.entries)
        assert not plain.HasField("read")
        assert (at.read.consistency, at.read.version) == (2, 77)
        assert (stale.read.consistency, stale.read.version) == (3, 0)


async def test_a_scan_yields_all_pages_in_order() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        for i in range(10):
            await client.put(b"k%d" % i, b"v%d" % i)
        await client.put(b"other", b"x")
        everything = [item async for item in client.scan()]
        assert [item.key for item in everything] == [b"k%d" % i for i in range(10)] + [b"other"]
        assert isinstance(everything[0], KeyValue)
        assert everything[0].value == b"v0"
        under = [item.key async for item in client.scan(prefix=b"k", reverse=True, limit=4)]
        assert under == [b"k9", b"k8", b"k7", b"k6"]
        between = [item async for item in client.scan(b"k3", b"k5", keys_only=True)]
        assert [(item.key, item.value) for item in between] == [(b"k3", b""), (b"k4", b"")]


@pytest.mark.parametrize(("reverse", "limit"), [(False, 0), (True, 0), (False, 7), (True, 7)])
async def test_a_broken_scan_goes_on_behind_its_last_key_at_the_same_version(
    reverse: bool, limit: int
) -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        for i in range(10):
            await client.put(b"k%d" % i, b"v")
        router.scan_break_after_pages = 2
        version = router.store.clock
        found: list[bytes] = []
        async for item in client.scan(b"k", b"l", reverse=reverse, limit=limit):
            if len(found) == 2:
                router.store.clock += 50  # a fresh version would be another one
            found.append(item.key)
        expected = sorted((b"k%d" % i for i in range(10)), reverse=reverse)
        assert found == expected[: limit or None]
        assert len(router.scans) == 2
        assert router.scans[1].read.version == version
        assert router.scans[1].read.consistency == 2


async def test_a_scan_that_breaks_behind_its_last_key_is_not_asked_again() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        for i in range(3):
            await client.put(b"k%d" % i, b"v")
        router.scan_break_after_pages = 1
        keys = [item.key async for item in client.scan(b"k0", b"k2\0")]
        assert keys == [b"k0", b"k1", b"k2"]
        assert len(router.scans) == 1


async def test_questions_about_the_cluster() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        assert (await client.status()).cluster == "fake"
        assert (await client.locate(b"k")).group == 1
        (group,) = await client.members()
        assert group.members[0].leader


@pytest.mark.parametrize("key", ["text", None, 5, bytearray(b"x")])
async def test_a_key_that_is_no_bytes_is_a_type_error(key: object) -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        with pytest.raises(TypeError, match="key must be bytes, not"):
            await client.get(key)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="value must be bytes, not"):
            await client.put(b"k", key)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be bytes, not"):
            await client.transact(then=[Get(key)])  # type: ignore[arg-type]
        assert not router.entries


async def test_bad_arguments_are_refused_before_anything_is_sent() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        for call, words in (
            (lambda: client.get(b"k", version=-1), "version -1"),
            (lambda: client.get(b"k", version=5, consistency=Consistency.STALE), "stale read"),
            (lambda: client.put(b"k", b"v", timeout=0), "timeout of 0 seconds"),
            (lambda: client.put(b"k", b"v", timeout=float("nan")), "timeout of nan"),
            (lambda: client.put(b"k", b"v" * 5_000_000), "5000065 bytes: at most 4194304"),
            (lambda: client.transact([Compare.version(b"k", "==", -1)]), "transaction: "),
            (lambda: client.transact(then=[Add(b"k", 2**63)]), "transaction: "),
            (lambda: client.members(-1), "group -1"),
        ):
            with pytest.raises(InvalidArgument, match=words):
                await call()
        with pytest.raises(InvalidArgument, match="either prefix, or start"):
            client.scan(b"a", prefix=b"b")
        with pytest.raises(InvalidArgument, match="limit -1"):
            client.scan(limit=-1)
        with pytest.raises(InvalidArgument, match="operator"):
            Compare.value(b"k", ">=", b"v")  # type: ignore[arg-type]
        assert not router.entries


async def test_a_refusal_of_the_router_reaches_the_caller_with_its_details() -> None:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.rpc import error_details_pb2  # type: ignore[import-untyped]

    violation = error_details_pb2.BadRequest()
    violation.field_violations.add(field="key", description="longer than 4096 bytes")
    packed = AnyMessage()
    packed.Pack(violation)

    async with FakeRouter() as router, Client(router.address) as client:

        def refuse(entry):  # type: ignore[no-untyped-def]
            answer = refusal(entry, 3, "key has 5000 bytes, at most 4096 fit")
            answer.error.details.append(packed.SerializeToString())
            return answer

        router.rule = refuse
        with pytest.raises(InvalidArgument, match="5000 bytes, at most 4096") as caught:
            await client.put(b"k" * 5000, b"v")
        assert caught.value.details == (violation,)
        assert len(router.entries) == 1  # not retried


async def test_requests_without_an_answer_are_bounded_in_bytes() -> None:
    limits = Limits(queued_bytes_max=10_000)
    async with FakeRouter() as router, Client(router.address, limits=limits) as client:
        router.rule = lambda _: None
        held = [asyncio.ensure_future(client.put(b"k", b"v" * 3000)) for _ in range(3)]
        await router.until(lambda: len(router.entries) == 3)
        with pytest.raises(ResourceExhausted, match="at most 10000 fit"):
            await client.put(b"k", b"v" * 3000)
        for put in held:
            put.cancel()
