"""``overdb.testing.Cluster`` as users have it: real clients, and what can be done to it under them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest

import overdb
from overdb.status import Role
from overdb.testing import Cluster
from overdb.v1 import kv_pb2, kv_pb2_grpc

# What a start takes, in virtual time and in steps of the loop: 0.5 s and 2,100 steps, 60 ms of real time.
START_SECONDS_MAX = 1.0
START_STEPS_MAX = 4_000


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as one:
        yield one


def keys_of_both_groups(cluster: Cluster) -> tuple[bytes, bytes]:
    with cluster.client() as client:
        found: dict[int, bytes] = {}
        for number in range(100):
            key = b"key-%d" % number
            found.setdefault(client.locate(key).group, key)
        return found[0], found[1]


def test_it_starts_within_a_second_and_in_few_steps() -> None:
    with Cluster() as cluster:
        embedded = cluster._embedded
        steps, seconds = embedded.world.loop.steps, embedded._virtual_began - 1000.0
        assert cluster.status().serving
    assert seconds < START_SECONDS_MAX
    assert steps < START_STEPS_MAX


def test_both_clients_and_stubs_of_one_s_own_talk_to_it(cluster: Cluster) -> None:
    async def from_asyncio() -> None:
        async with cluster.async_client() as client:
            await client.put(b"a", b"1")
            assert [item.key async for item in client.scan(b"", b"")] == [b"a"]

    asyncio.run(from_asyncio())
    with cluster.client() as client:
        value = client.get(b"a")
        assert value is not None
        assert value.value == b"1"
        assert client.get(b"none") is None
    with grpc.insecure_channel(cluster.address) as channel:
        stub = kv_pb2_grpc.KVStub(channel)
        assert stub.Get(kv_pb2.GetRequest(key=b"a"), timeout=5).value == b"1"
        with pytest.raises(grpc.RpcError) as refused:
            stub.Get(kv_pb2.GetRequest(key=b""), timeout=5)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "key" in (refused.value.details() or "")


def test_errors_come_with_their_details(cluster: Cluster) -> None:
    with cluster.client() as client, pytest.raises(overdb.InvalidArgument, match="4096"):
        client.put(b"x" * 5000, b"")


def test_a_transaction_over_both_groups_survives_their_leaders(cluster: Cluster) -> None:
    left, right = keys_of_both_groups(cluster)
    with cluster.client() as client:
        for round_ in range(1, 4):
            killed = [cluster.kill_leader(group) for group in (0, 1)]
            done = client.transact(then=[overdb.Add(left), overdb.Add(right)])
            assert [int(result.value) for result in done.results] == [round_, round_]
            assert all(cluster.leader(group) not in killed for group in (0, 1))
            cluster.heal()


def test_a_retried_request_runs_once_although_its_leader_died(cluster: Cluster) -> None:
    async def run() -> None:
        async with cluster.async_client() as client:
            adds = [
                asyncio.create_task(client.transact(then=[overdb.Add(b"n")])) for _ in range(50)
            ]
            await asyncio.sleep(0)
            await asyncio.to_thread(cluster.kill_leader, 0)
            await asyncio.to_thread(cluster.kill_leader, 1)
            results = await asyncio.gather(*adds)
            assert sorted(int(done.results[0].value) for done in results) == list(range(1, 51))

    asyncio.run(run())


def test_a_leader_in_the_minority_is_replaced_and_follows_after_healing(cluster: Cluster) -> None:
    old = cluster.leader(0)
    cluster.partition(old, [name for name in cluster.group(0) if name != old])
    with cluster.client() as client:
        for number in range(20):
            client.put(b"during-%d" % number, b"x")
        cluster.heal()
        assert cluster.leader(0) != old
        replicas = client.status().groups[0].replicas
        assert [replica.role for replica in replicas].count(Role.LEADER) == 1
        assert len({replica.applied_index for replica in replicas}) == 1


def test_without_a_majority_nothing_is_answered_and_afterwards_everything(cluster: Cluster) -> None:
    left, _ = keys_of_both_groups(cluster)
    for name in cluster.group(0)[:2]:
        cluster.kill(name)
    with cluster.client(timeout=0.5) as client:
        with pytest.raises((overdb.Unavailable, overdb.OutcomeUnknown)):
            client.put(left, b"1")
        cluster.heal()
        client.put(left, b"2")


def test_a_client_that_is_cut_off_comes_back(cluster: Cluster) -> None:
    cluster.partition("client", cluster.routers)
    with cluster.client(timeout=0.4) as client:
        with pytest.raises(overdb.OverDBError):
            client.put(b"a", b"1")
    cluster.heal()
    with cluster.client() as client:
        client.put(b"a", b"2")


def test_what_is_acknowledged_outlives_a_loss_of_power_of_all_nodes(cluster: Cluster) -> None:
    with cluster.client() as client:
        for number in range(30):
            client.put(b"k%d" % number, b"v")
        for name in cluster.nodes:
            cluster.lose_power(name)
        cluster.heal()
        assert len(list(client.scan(b"k", b"l"))) == 30


def test_a_paused_leader_is_replaced(cluster: Cluster) -> None:
    old = cluster.leader(1)
    cluster.pause(old)
    with cluster.client() as client:
        for number in range(20):
            client.put(b"k%d" % number, b"v")
    assert cluster.leader(1) != old
    cluster.resume(old)
    cluster.heal()


def test_one_of_two_routers_is_enough() -> None:
    with Cluster(groups=1, routers=2) as cluster, cluster.client() as client:
        assert len(cluster.addresses) == 2
        for router in cluster.routers:
            cluster.kill(router)
            client.put(b"a", router.encode())
            cluster.restart(router)
            cluster.heal()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda c: c.kill_leader(7), r"no group 7: they are numbered from 0 to 1"),
        (lambda c: c.kill("nobody"), r"no 'nobody': s0r0, s0r1"),
        (lambda c: c.partition("s0r0"), "two sides"),
        (lambda c: c.lose_power("router0"), "stores nothing"),
    ],
)
def test_mistakes_are_told(cluster: Cluster, what: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        what(cluster)  # type: ignore[operator]


def test_an_impossible_shape_is_told() -> None:
    with pytest.raises(ValueError, match="replicas=0 is not between"):
        Cluster(replicas=0)


def test_the_timeline_tells_what_happened(cluster: Cluster) -> None:
    killed = cluster.kill_leader(0)
    cluster.leader(0)
    told = "\n".join(cluster.timeline())
    assert f"{killed}     kill" in told
    assert "elected" in told
