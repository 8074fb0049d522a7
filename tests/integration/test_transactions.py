"""Transactions over several groups against real processes: speed, fairness, words (PROTOCOL 2)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import overdb
import overdb.sync
from tests.integration.cluster import LocalCluster, wait_until
from tests.integration.slow_node import SLOW_SECONDS
from tests.integration.transactions import (
    fresh_id,
    in_thread,
    keys_of_groups,
    pair_of_keys,
    share,
    until,
)
from tests.sizes import Sizes

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def client(shared_cluster: LocalCluster) -> Iterator[overdb.sync.Client]:
    with overdb.sync.Client(shared_cluster.endpoints, timeout=10.0) as connected:
        yield connected


# --- one round --------------------------------------------------------------------------------------


def test_a_transaction_over_groups_takes_one_replicated_round(tmp_path: Path, sizes: Sizes) -> None:
    """PROTOCOL 2.3: less than two syncs that follow each other, where the disk is what takes time."""
    cluster = LocalCluster(tmp_path, routers=2)
    for node in cluster.nodes.values():
        node.module, node.is_forked = "tests.integration.slow_node", False
        node.environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep)

    def entries() -> list[tuple[int, int]]:
        seen = [cluster.describe(cluster.leader(group)) for group in range(2)]
        return [(s.last_index, s.commit_index) for s in seen if s is not None]

    async def at_rest(client: overdb.Client) -> None:
        """Nothing is under way: a Resolve on the disk would delay what is measured next."""

        async def still() -> bool:
            before = await in_thread(entries)
            if any(last != committed for last, committed in before) or len(before) < 2:
                return False
            if any(group.count for group in await client.transactions()):
                return False
            await asyncio.sleep(0.15)  # a Forget follows the Resolve
            return await in_thread(entries) == before

        await until(still, "nothing is under way", 20)

    async def run() -> None:
        async with overdb.Client(cluster.endpoints, timeout=20.0) as client:
            keys = await keys_of_groups(client, "one-round-", 1)
            both = [overdb.Add(keys[0][0], 1), overdb.Add(keys[1][0], 1)]
            for key in (keys[0][0], keys[1][0]):
                await client.put(key, b"1")
            await client.transact(then=both)
            transactions = []
            for number in range(sizes.pick(quick=4, full=20)):
                await at_rest(client)
                began = time.monotonic()
                done = await client.transact(then=both)
                transactions.append(time.monotonic() - began)
                assert [one.value for one in done.results] == [b"%d" % (number + 3)] * 2
        print(
            f"\n  over two groups, a sync of {SLOW_SECONDS} s: {[f'{s:.2f}' for s in transactions]} s"
        )
        assert min(transactions) >= SLOW_SECONDS, "the disk was not slow"
        # Two that follow each other would take so long at the least. Other work of the machine only adds.
        assert min(transactions) < 2 * SLOW_SECONDS

    with cluster:
        asyncio.run(run())


# --- fairness ---------------------------------------------------------------------------------------


def test_all_clients_on_the_same_two_keys_get_on_and_none_starves(
    shared_cluster: LocalCluster, sizes: Sizes
) -> None:
    """PROTOCOL 2.2, 2.3: age decides, whichever of two routers a transaction comes through."""
    enough, count = sizes.pick(quick=(160, 8), full=(3600, 12))

    async def run() -> None:
        endpoints = shared_cluster.endpoints
        clients = [overdb.Client(endpoints[n % 2], timeout=60.0) for n in range(count)]
        done = [0] * count
        aborted = 0
        keys = [key for (key,) in await keys_of_groups(clients[0], f"hot-{time.time_ns()}-", 1)]

        async def add(number: int) -> None:
            nonlocal aborted
            while sum(done) < enough:
                try:
                    await clients[number].transact(then=[overdb.Add(key, 1) for key in keys])
                except overdb.Aborted:
                    aborted += 1
                    continue
                done[number] += 1

        for client in clients:  # connected and warm
            await client.get(keys[0])
        began = time.monotonic()
        async with asyncio.timeout(240):
            await asyncio.gather(*(add(n) for n in range(count)))
        took = time.monotonic() - began
        found = await clients[0].transact(then=[overdb.Get(key) for key in keys])
        for client in clients:
            await client.close()
        print(
            f"\n  {count} clients on two keys of two groups through two routers: "
            f"{sum(done) / took:.0f} transactions/s, {share(done)}, router 0 {sum(done[::2])}, "
            f"router 1 {sum(done[1::2])}; {aborted} aborted"
        )
        assert [int(one.value) for one in found.results] == [sum(done)] * 2
        assert min(done) * 10 >= max(done)
        assert min(done) > 0

    asyncio.run(run())


# --- what operations see ----------------------------------------------------------------------------


@pytest.mark.parametrize("then", [True, False])
def test_operations_of_a_branch_run_in_order_and_see_each_other(
    client: overdb.sync.Client, then: bool
) -> None:
    keys = pair_of_keys(client, f"ordered-{then}")
    for key in keys:
        client.put(key, b"old")
    operations: list[overdb.Operation] = []
    # Interleaved, so that results must be put together in the order of the request.
    for make in (
        overdb.Get,
        lambda key: overdb.Put(key, b"40"),
        overdb.Get,
        lambda key: overdb.Add(key, 2),
        overdb.Get,
        overdb.Delete,
        overdb.Get,
        overdb.Delete,
        lambda key: overdb.Add(key, -5),
        lambda key: overdb.Put(key + b"-new", b""),
        lambda key: overdb.Get(key + b"-new"),
    ):
        operations += [make(key) for key in keys]
    never: list[overdb.Operation] = [overdb.Put(key, b"wrong branch") for key in keys]
    compares = [
        overdb.Compare.value(keys[0], "==", b"old"),
        overdb.Compare.value(keys[1], "==" if then else "!=", b"old"),  # the other group decides
    ]
    done = client.transact(compares, operations if then else never, never if then else operations)
    assert done.succeeded is then
    expected = [
        (True, b"old"),
        (True, b""),
        (True, b"40"),
        (True, b"42"),
        (True, b"42"),
        (True, b""),
        (False, b""),
        (False, b""),
        (False, b"-5"),
        (False, b""),
        (True, b""),
    ]
    assert [(r.found, r.value) for r in done.results] == [one for one in expected for _ in keys]
    written = [n for n in range(len(expected)) if n not in (0, 6)]
    assert {done.results[2 * n + side].version for n in written for side in (0, 1)} == {
        done.version
    }
    assert [client.get(key) for key in keys] == [overdb.Value(b"-5", done.version)] * 2
    assert [client.get(key + b"-new") for key in keys] == [overdb.Value(b"", done.version)] * 2


# --- what became of it ------------------------------------------------------------------------------


@pytest.mark.parametrize("holds", [True, False])
def test_the_status_of_a_committed_transaction_has_its_results(
    client: overdb.sync.Client, shared_cluster: LocalCluster, holds: bool
) -> None:
    left, right = pair_of_keys(client, f"told-{holds}")
    client.put(left, b"1")
    client.put(right, b"x")
    request_id = fresh_id()
    done = client.transact(
        [overdb.Compare.value(right, "==", b"x" if holds else b"y")],
        [overdb.Add(left, 1), overdb.Get(right), overdb.Put(right, b"z"), overdb.Get(right)],
        [overdb.Get(right), overdb.Add(left, 5), overdb.Delete(right), overdb.Get(left)],
        request_id=request_id,
    )
    assert done.succeeded is holds
    for endpoint in shared_cluster.endpoints * 2:
        with overdb.sync.Client(endpoint, timeout=10.0) as other:
            status = other.transaction_status(request_id)
            assert status.state is overdb.TransactionState.COMMITTED
            assert status.result == done
    client.put(left, b"later")
    assert client.transaction_status(request_id).result == done


def test_the_status_of_what_was_never_seen_is_unknown(client: overdb.sync.Client) -> None:
    status = client.transaction_status(fresh_id())
    assert status.state is overdb.TransactionState.UNKNOWN
    assert status.result is None


def test_the_status_of_one_that_did_nothing_says_so(client: overdb.sync.Client) -> None:
    left, right = pair_of_keys(client, "told-refused")
    client.put(right, b"no number")
    request_id = fresh_id()
    with pytest.raises(overdb.InvalidArgument, match="number"):
        client.transact(then=[overdb.Add(left), overdb.Add(right)], request_id=request_id)
    wait_until(
        lambda: client.transaction_status(request_id).state is overdb.TransactionState.ABORTED,
        "it is told as aborted",
        10,
    )
    assert client.get(left) is None
