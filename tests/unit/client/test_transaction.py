"""Transactions that read first: one version, own writes, the commit's compares, and ``run``."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable

import pytest

import overdb.sync
from overdb import (
    Aborted,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    KeyValue,
    Limits,
    OutcomeUnknown,
    Put,
    RequestId,
    Transaction,
    TransactionConflict,
    TransactionState,
    Value,
)
from overdb.v1 import kv_pb2
from tests.unit.client.fake_router import DropStreamError, FakeRouter, RouterThread, refusal
from tests.unit.client.store import Answer, Entry
from tests.unit.client.test_failures import QUICK, connected


def commits(router: FakeRouter) -> list[kv_pb2.TransactRequest]:
    return [entry.transact for entry in router.entries if entry.HasField("transact")]


async def test_reads_are_at_one_version_and_see_own_writes() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        first = await client.put(b"a", b"1")
        await client.put(b"b", b"1")
        t = client.transaction()
        assert t.read_version is None
        assert await t.get(b"a") == Value(b"1", first)
        assert t.read_version == router.store.clock
        await client.put(b"b", b"later")
        found = await t.get(b"b")
        assert found is not None
        assert found.value == b"1"
        t.put(b"b", b"mine")
        t.delete(b"a")
        assert await t.get(b"b") == Value(b"mine", 0)
        assert await t.get(b"a") is None
        t.discard()


async def test_the_first_reads_of_several_tasks_take_one_version() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        t = client.transaction()
        await asyncio.gather(*(t.get(b"k%d" % i) for i in range(5)))
        assert len(router.scans) == 1
        gets = [entry.get for entry in router.entries if entry.HasField("get")]
        assert {get.read.version for get in gets} == {t.read_version}


async def test_the_commit_compares_what_was_read_and_writes_each_key_once() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        version = await client.put(b"a", b"1")
        async with client.transaction() as t:
            await t.get(b"a")
            await t.get(b"none")
            t.put(b"a", b"2")
            t.put(b"a", b"3")
            t.delete(b"b")
        (request,) = commits(router)
        compares = [
            (c.key, c.WhichOneof("target"), c.version or c.exists) for c in request.compares
        ]
        assert compares == [(b"a", "version", version), (b"none", "exists", False)]
        assert [o.WhichOneof("operation") for o in request.then] == ["put", "delete"]
        assert not request.otherwise
        assert router.store.values == {b"a": (b"3", t.commit_version)}


@pytest.mark.parametrize("touched", [b"a", b"none"])
async def test_a_change_of_what_was_read_is_a_conflict_that_names_the_key(touched: bytes) -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        await client.put(b"a", b"1")

        async def disturbed() -> None:
            async with client.transaction() as t:
                await t.get(b"a")
                await t.get(b"none")
                await client.put(touched, b"theirs")
                t.put(b"out", b"x")

        with pytest.raises(TransactionConflict, match=f"key b'{touched.decode()}'") as conflict:
            await disturbed()
        assert conflict.value.key == touched
        assert isinstance(conflict.value, Aborted)
        assert b"out" not in router.store.values
        assert pickle.loads(pickle.dumps(conflict.value)).key == touched  # noqa: S301


async def test_an_exception_discards_and_an_ended_one_is_refused() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        t = client.transaction()

        async def failing() -> None:
            async with t:
                t.put(b"a", b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing()
        assert commits(router) == []
        for action in (lambda: t.put(b"a", b"1"), lambda: t.delete(b"a"), t.scan):
            with pytest.raises(RuntimeError, match="was discarded: begin another one"):
                action()
        with pytest.raises(RuntimeError, match="was discarded"):
            await t.get(b"a")
        with pytest.raises(RuntimeError):
            await t.commit()


async def test_one_that_only_reads_or_does_nothing_sends_no_commit() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        async with client.transaction() as t:
            await t.get(b"a")
            await client.put(b"a", b"changed meanwhile")
        async with client.transaction():
            pass
        assert commits(router) == []
        assert t.commit_version is None


async def test_bad_keys_and_values_are_refused_at_once() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        t = client.transaction()
        with pytest.raises(InvalidArgument, match="key is empty"):
            await t.get(b"")
        with pytest.raises(TypeError, match="key must be bytes"):
            t.put("a", b"1")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="value must be bytes"):
            t.put(b"a", 1)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="either prefix"):
            t.scan(b"a", prefix=b"b")
        with pytest.raises(InvalidArgument, match="timeout"):
            client.transaction(timeout=0)


# -- scans ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 3, 5, 9])
async def test_a_scan_is_merged_with_own_writes(reverse: bool, limit: int) -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        for i in (1, 2, 4, 5, 6, 8):
            await client.put(b"k%d" % i, b"s%d" % i)
        t = client.transaction()
        t.put(b"k0", b"own")
        t.delete(b"k1")
        t.put(b"k4", b"own")
        t.delete(b"k5")
        t.put(b"k9", b"own")
        t.put(b"other", b"out of range")
        found = [
            (item.key, item.value)
            async for item in t.scan(prefix=b"k", limit=limit, reverse=reverse)
        ]
        expected = [
            (b"k0", b"own"),
            (b"k2", b"s2"),
            (b"k4", b"own"),
            (b"k6", b"s6"),
            (b"k8", b"s8"),
            (b"k9", b"own"),
        ]
        ordered = expected[::-1] if reverse else expected
        assert found == (ordered[:limit] if limit else ordered)


async def test_a_scan_sees_no_later_writes_and_only_what_was_used_is_compared() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        for i in range(8):
            await client.put(b"k%d" % i, b"v")
        async with client.transaction() as t:
            used = []
            async for item in t.scan(prefix=b"k", keys_only=True):
                used.append(item)
                await client.put(b"k%d-new" % len(used), b"phantom")
                if len(used) == 4:
                    break
            assert [item.key for item in used] == [b"k0", b"k1", b"k2", b"k3"]
            assert await t.get(b"k1-new") is None
            await client.put(b"k7", b"was never seen")
            assert [item.key async for item in t.scan(b"zz")] == []
            t.put(b"out", b"x")
            await client.delete(b"k1-new")  # missing again: as it was read
        (request,) = commits(router)
        assert [c.key for c in request.compares] == [b"k0", b"k1", b"k2", b"k3", b"k1-new"]
        assert router.store.values[b"out"][0] == b"x"


async def test_a_scan_of_own_writes_only_gives_version_0() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        t = client.transaction()
        t.put(b"a", b"1")
        assert [item async for item in t.scan()] == [KeyValue(b"a", b"1", 0)]
        assert [item async for item in t.scan(keys_only=True)] == [KeyValue(b"a", b"", 0)]
        assert t.read_version == router.store.clock


# -- run --------------------------------------------------------------------------------------


async def add_one(t: Transaction) -> int:
    found = await t.get(b"n")
    number = int(found.value) + 1 if found else 1
    t.put(b"n", b"%d" % number)
    return number


async def test_run_repeats_until_it_commits_and_returns_the_result() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        results = await asyncio.gather(*(client.run(add_one) for _ in range(20)))
        assert sorted(results) == list(range(1, 21))
        assert router.store.values[b"n"][0] == b"20"


def disturbed(client: Client) -> Callable[[Transaction], Awaitable[None]]:
    """Return a function that reads what another one then changes, whenever it is tried."""

    async def disturbed(t: Transaction) -> None:
        await add_one(t)
        await client.put(b"n", b"7")

    return disturbed


async def test_run_gives_up_after_its_attempts() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        with pytest.raises(TransactionConflict, match=r"in each of 3 attempts: key b'n'"):
            await client.run(disturbed(client), attempts=3)
        assert len(commits(router)) == 3


async def test_run_gives_up_when_no_time_is_left_for_a_pause() -> None:
    slow = Limits(backoff_seconds_min=1000.0, backoff_seconds_max=1000.0)
    async with FakeRouter() as router, Client(router.address, limits=slow) as client:
        with pytest.raises(TransactionConflict, match=r"in each of 1 attempts: key b'n'"):
            await client.run(disturbed(client), timeout=30.0)
        assert len(commits(router)) == 1


@pytest.mark.parametrize("rival", [False, True])
async def test_run_tells_the_conflict_when_its_time_ends_a_later_read(rival: bool) -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        await connected(router, client)

        async def held_later(t: Transaction) -> None:
            if commits(router):
                router.scans_may_go_on.clear()
            await disturbed(client)(t)

        def rule(entry: Entry) -> Answer:
            if rival and entry.HasField("transact"):
                return refusal(entry, 10, "rival in the way")
            return router.store.answer(entry)

        router.rule = rule
        with pytest.raises(Aborted, match="rival" if rival else "1 attempts: key b'n'") as raised:
            await client.run(held_later, timeout=3.0)
        assert isinstance(raised.value.__cause__, DeadlineExceeded)
        assert isinstance(raised.value, TransactionConflict) is not rival
        assert len(commits(router)) == 1


async def test_run_tells_that_its_first_read_was_not_answered() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        await connected(router, client)
        router.scans_may_go_on.clear()
        with pytest.raises(DeadlineExceeded):
            await client.run(add_one, timeout=1.0)


async def test_run_refuses_wrong_bounds() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        for wrong in ({"attempts": 0}, {"timeout": 0}, {"timeout": "1"}, {"attempts": 1.5}):
            with pytest.raises(InvalidArgument):
                await client.run(add_one, **wrong)


async def test_run_repeats_after_a_rival_was_in_the_way() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        refusals = 2

        def rule(entry: Entry) -> Answer:
            nonlocal refusals
            if entry.HasField("transact") and refusals:
                refusals -= 1
                return refusal(entry, 10, "rival in the way")
            return router.store.answer(entry)

        router.rule = rule
        assert await client.run(add_one) == 1
        assert len({commit.id.request_number for commit in commits(router)}) == 3
        refusals = 9
        with pytest.raises(Aborted, match="rival"):
            await client.run(add_one, attempts=2)


async def test_run_raises_what_its_function_raises_at_once() -> None:
    async with FakeRouter() as router, Client(router.address) as client:

        async def failing(t: Transaction) -> None:
            t.put(b"a", b"1")
            raise TransactionConflict("of another one")

        with pytest.raises(TransactionConflict, match="of another one"):
            await client.run(failing)
        assert commits(router) == []


def _loses_answers(router: FakeRouter, count: int, *, runs: bool) -> None:
    """Say "no answer in time" to the first commits, having run them or not."""
    left = count

    def rule(entry: Entry) -> Answer:
        nonlocal left
        if not entry.HasField("transact") or not left:
            return router.store.answer(entry)
        left -= 1
        if runs:
            router.store.answer(entry)
        return refusal(entry, 13, "lost by the test")  # in doubt, and ends the call

    router.rule = rule


@pytest.mark.parametrize("runs", [True, False])
async def test_run_finds_out_with_the_same_id_and_runs_nothing_twice(runs: bool) -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        calls = 0

        async def counted(t: Transaction) -> int:
            nonlocal calls
            calls += 1
            return await add_one(t)

        _loses_answers(router, 1, runs=runs)
        assert await client.run(counted) == 1
        first, again = commits(router)
        assert first.SerializeToString() == again.SerializeToString()
        assert router.store.values[b"n"][0] == b"1"
        assert calls == 1


async def test_run_asks_for_the_status_where_repeating_does_not_tell() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        _loses_answers(router, 10**6, runs=True)
        assert await client.run(add_one) == 1
        assert router.status_questions == 1
        assert router.store.values[b"n"][0] == b"1"


async def test_run_begins_anew_once_the_commit_is_known_to_be_aborted() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:

        def rule(entry: Entry) -> Answer:
            if entry.HasField("transact") and len(commits(router)) <= 2:
                request_id = entry.transact.id
                name = (request_id.client_id, request_id.request_number)
                router.states[name] = "STATUS_ABORTED"
                return refusal(entry, 13, "lost by the test")
            return router.store.answer(entry)

        router.rule = rule
        assert await client.run(add_one) == 1
        assert [commit.id.request_number for commit in commits(router)] == [1, 1, 2]


async def test_run_raises_outcome_unknown_when_it_cannot_find_out() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        await connected(router, client)
        _loses_answers(router, 10**6, runs=False)
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.run(add_one, timeout=2.0)
        assert {commit.id.request_number for commit in commits(router)} == {
            unknown.value.request_id.request_number
        }
        status = await client.transaction_status(unknown.value.request_id)
        assert status.state is TransactionState.UNKNOWN


async def test_the_block_raises_outcome_unknown_with_the_id_to_ask_for() -> None:
    async with FakeRouter() as router, Client(router.address, limits=QUICK) as client:
        _loses_answers(router, 1, runs=True)
        with pytest.raises(OutcomeUnknown) as unknown:
            async with client.transaction() as t:
                t.put(b"a", b"1")
        status = await client.transaction_status(unknown.value.request_id)
        assert status.state is TransactionState.COMMITTED
        assert status.result is not None
        assert status.result.version == router.store.clock
        assert status.result.succeeded


async def test_a_dropped_commit_goes_through_another_router_with_its_id() -> None:
    async with FakeRouter() as router, FakeRouter(router.store) as second:
        async with Client([router.address, second.address], limits=QUICK) as client:

            def run_and_drop(entry: Entry) -> Answer:
                router.store.answer(entry)
                if entry.HasField("transact"):
                    router.rule = second.rule = router.store.answer
                    raise DropStreamError
                return router.store.answer(entry)

            router.rule = second.rule = run_and_drop
            done = await client.transact(then=[Put(b"a", b"1"), Put(b"b", b"2")])
            assert done.version == router.store.clock
            assert set(router.store.ran.values()) == {1}


# -- questions --------------------------------------------------------------------------------


async def test_open_transactions_are_listed_by_group() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        group = router.transactions.groups.add(group=0, reachable=True, count=1)
        one = group.transactions.add(attempt=2, state="STATE_WAITING", age_us=5, key_count=1)
        one.id.client_id, one.id.request_number = b"a" * 16, 3
        one.keys.append(b"k")
        one.participants.extend((0, 1))
        one.waits_for.add(client_id=b"b" * 16, request_number=9)
        router.transactions.groups.add(group=1)
        first, second = await client.transactions()
        assert not second.reachable
        (told,) = first.transactions
        assert (told.id.request_number, told.state.name, told.keys) == (3, "WAITING", (b"k",))
        assert [str(other) for other in told.waits_for] == ["62" * 16 + "/9"]
        assert [g.group for g in await client.transactions(1)] == [1]
        with pytest.raises(overdb.NotFound):
            await client.transactions(7)
        with pytest.raises(InvalidArgument):
            await client.transactions(-1)


def test_an_id_is_read_as_it_is_written() -> None:
    request_id = RequestId(bytes(range(16)), 7, 0, 0)
    assert RequestId.parse(str(request_id)) == request_id
    for wrong in ("", "ab/1", "0" * 32, "0" * 32 + "/0", "0" * 32 + "/x", "z" * 32 + "/1"):
        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            RequestId.parse(wrong)


# -- the blocking twin ------------------------------------------------------------------------


def test_the_blocking_twin_does_the_same(router_thread: RouterThread) -> None:
    router = router_thread.router
    with overdb.sync.Client(router.address, limits=QUICK) as client:
        for i in range(5):
            client.put(b"k%d" % i, b"1")
        with client.transaction() as t:
            t.put(b"k2", b"own")
            t.delete(b"k3")
            items = list(t.scan(prefix=b"k", limit=4))
            assert [item.key for item in items] == [b"k0", b"k1", b"k2", b"k4"]
            assert t.get(b"k2") == Value(b"own", 0)
        assert t.commit_version == router.store.clock
        assert [c.key for c in commits(router)[0].compares] == [b"k0", b"k1", b"k4"]

        def disturbed() -> None:
            with client.transaction() as t:
                t.get(b"k0")
                client.put(b"k0", b"theirs")
                t.put(b"x", b"1")

        with pytest.raises(TransactionConflict, match="k0"):
            disturbed()
        with pytest.raises(ZeroDivisionError), client.transaction() as t:
            raise ZeroDivisionError
        with pytest.raises(RuntimeError, match="discarded"):
            t.get(b"k0")


def test_the_blocking_run_repeats(router_thread: RouterThread) -> None:
    with overdb.sync.Client(router_thread.router.address, limits=QUICK) as client:
        attempts = 0

        def once_disturbed(t: overdb.sync.Transaction) -> int:
            nonlocal attempts
            attempts += 1
            found = t.get(b"n")
            if attempts == 1:
                client.put(b"n", b"41")
            t.put(b"n", b"%d" % (int(found.value) + 1 if found else 1))
            return attempts

        assert client.run(once_disturbed) == 2
        assert client.get(b"n").value == b"42"  # type: ignore[union-attr]
        with pytest.raises(ZeroDivisionError):
            client.run(lambda _: 1 // 0)
