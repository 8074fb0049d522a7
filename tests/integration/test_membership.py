"""Members of running groups are added, promoted, removed and replaced, with real processes and under load."""

from __future__ import annotations

import asyncio
import shutil
import signal
from asyncio import to_thread
from pathlib import Path

import pytest

import overdb
from overdb.sync import Client
from tests.integration.cluster import LocalCluster, wait_until
from tests.integration.workload import Writers
from tests.ports import free_ports
from tests.sizes import Sizes

pytestmark = pytest.mark.processes


def members(client: Client, group: int = 0) -> dict[int, bool]:
    """Whether each member of a group is a voter."""
    (found,) = client.members(group)
    return {member.id: member.voter for member in found.members}


def caught_up(cluster: LocalCluster, node: int, other: int) -> bool:
    mine, theirs = cluster.describe(node), cluster.describe(other)
    return (
        mine is not None
        and theirs is not None
        and theirs.last_index == theirs.applied_index == mine.applied_index
    )


def problem_of(cluster: LocalCluster, node: int) -> str:
    found = cluster.describe(node)
    return "" if found is None else str(found.problem)


@pytest.fixture
def small(tmp_path: Path) -> LocalCluster:
    """One group of three."""
    return LocalCluster(tmp_path, groups=1)


def test_a_replica_is_added_promoted_and_another_one_removed(small: LocalCluster) -> None:
    """The whole way, each step twice: what is done is answered and not done again. FAULTS 46, 47."""
    with small as cluster, Client(cluster.endpoints, timeout=60.0) as client:
        client.put(b"key", b"1")
        address = f"127.0.0.1:{free_ports(1)[0]}"
        node = cluster.joining(7, like=1, address=address)
        for _ in range(2):
            client.add_member(0, 7, address)
        assert members(client) == {1: True, 2: True, 3: True, 7: False}
        with pytest.raises(overdb.FailedPrecondition, match="replica 7 does not answer the leader"):
            client.promote_member(0, 7)
        client.put(b"key", b"2")  # one that is not there costs nothing
        node.start()
        client.promote_member(0, 7, wait=True)
        client.promote_member(0, 7)
        assert members(client) == {1: True, 2: True, 3: True, 7: True}
        leader = cluster.leader(0)
        for _ in range(2):
            client.remove_member(0, leader)
        client.put(b"key", b"3")
        assert leader not in members(client)
        # The one that was removed says so, and disturbs nobody.
        wait_until(lambda: "was removed" in problem_of(cluster, leader), "it finds out")
        with pytest.raises(overdb.FailedPrecondition, match=f"id {leader} was a member"):
            client.add_member(0, leader, cluster.nodes[leader].address)
        # The new one can lead: whatever counts is in its log and on its disk.
        if cluster.leader(0, besides=leader) != 7:
            assert client.transfer_leadership(0, 7) == 7
        value = client.get(b"key")
        assert value is not None
        assert value.value == b"3"
        (group,) = (g for g in client.status().groups if g.group == 0)
        assert {r.id: r.reachable for r in group.replicas} == dict.fromkeys(members(client), True)
        cluster.nodes[7].kill()
        cluster.nodes[7].start()
        cluster.leader(0, besides=leader)
        client.put(b"key", b"4")


def test_a_lost_disk_is_replaced_under_load(
    cluster: LocalCluster, sizes: Sizes, writer_pause_seconds: float
) -> None:
    """PROTOCOL 3.5, FAULTS 38: the same address, a new id; nothing acknowledged is lost."""
    count, writes = sizes.pick(quick=(12, 80), full=(24, 500))

    async def run() -> None:
        async with (
            Writers(cluster.endpoints, count, pause_seconds=writer_pause_seconds) as writers,
            overdb.Client(cluster.endpoints, timeout=30.0) as client,
        ):
            await writers.acknowledged_more(writes)
            lost = await to_thread(cluster.leader, 0)
            cluster.nodes[lost].kill()
            shutil.rmtree(cluster.directory / f"node-{lost}")
            await writers.acknowledged_more(sizes.pick(quick=60, full=300))
            node = cluster.joining(11, like=lost)
            node.start()
            await client.add_member(0, 11, node.address)
            await client.promote_member(0, 11, wait=True)
            await client.remove_member(0, lost)
            await writers.acknowledged_more(writes)
            # It must be able to carry the group: another one goes.
            leader = await to_thread(cluster.leader, 0, lost)
            victim = next(i for i in (1, 2, 3) if i not in (lost, leader))
            cluster.nodes[victim].kill()
            await writers.acknowledged_more(writes)
            await writers.stop()
            assert writers.written.problems(await writers.read_back()) == []
            # The first two, and one for the leader that was lost, perhaps after a split vote.
            assert len(cluster.events("elected")) <= 6

    asyncio.run(run())


def test_a_wiped_node_under_its_old_id_votes_nothing_away(small: LocalCluster) -> None:
    """FAULTS 38, PROTOCOL 3.5 (!): two of three disks are whole, and the wiped one would outvote them.

    One replica is stopped early, so it lacks what is committed later; a second one loses its disk; the third
    one, which has everything, goes down. The wiped one and the old one are a majority: they must not lead.
    """
    with small as cluster:
        with Client(cluster.endpoints) as client:
            client.put(b"key", b"old")
            leader = cluster.leader(0)
            behind, wiped = (i for i in (1, 2, 3) if i != leader)
            wait_until(lambda: caught_up(cluster, behind, leader), "all have the first value")
            cluster.nodes[behind].kill()
            client.put(b"key", b"acknowledged")
        cluster.nodes[wiped].kill()
        cluster.nodes[leader].kill()
        shutil.rmtree(cluster.directory / f"node-{wiped}")
        cluster.nodes[wiped].start()
        cluster.nodes[behind].start()
        for node in (wiped, behind):
            wait_until(lambda n=node: cluster.describe(n), "both run")  # type: ignore[misc]
        for _ in range(40):  # 4 s: two election timeouts
            for one in (wiped, behind):
                found = cluster.describe(one)
                assert found is None or found.role != "leader"
            signal.sigtimedwait([], 0.1)
        said = f"replica {wiped} has lost its disk"
        wait_until(lambda: said in problem_of(cluster, wiped), "it says what happened")
        cluster.nodes[leader].start()
        with Client(cluster.endpoints, timeout=60.0) as client:
            value = client.get(b"key")
            assert value is not None
            assert value.value == b"acknowledged"
            group = client.status().groups[0]
            assert said in next(r.problem for r in group.replicas if r.id == wiped)
            # And the way out, as the message says.
            cluster.nodes[wiped].stop()
            new = cluster.joining(9, like=wiped)
            new.start()
            client.remove_member(0, wiped)
            client.add_member(0, 9, new.address)
            client.promote_member(0, 9, wait=True)
            assert members(client) == {leader: True, behind: True, 9: True}


def test_a_wiped_voter_that_joined_is_not_heard(small: LocalCluster) -> None:
    """FAULTS 38: its promotion noted its disk; OVERDB_JOIN does not make the id a new one."""
    with small as cluster, Client(cluster.endpoints, timeout=60.0) as client:
        node = cluster.joining(7, like=3, address=f"127.0.0.1:{free_ports(1)[0]}")
        node.start()
        client.add_member(0, 7, node.address)
        client.promote_member(0, 7, wait=True)
        node.kill()
        shutil.rmtree(cluster.directory / "node-7")
        node.start()
        wait_until(lambda: "replica 7 has lost its disk" in problem_of(cluster, 7), "it says so")


def test_a_founder_killed_at_its_first_start_is_no_lost_disk(small: LocalCluster) -> None:
    """FAULTS 37: its directory is there, founded or half; the others had begun, or not."""
    for node in small.processes:
        node.start()
    try:
        for moment in range(4):
            victim = small.nodes[1 + moment % 3]
            identity = small.directory / f"node-{1 + moment % 3}" / "node.json"
            wait_until(identity.exists, "it begins to found")
            victim.kill()
            victim.start()
        small.wait_until_serving(60.0)
    finally:
        small.stop()


def test_a_learner_killed_while_it_joins_goes_on(small: LocalCluster) -> None:
    """FAULTS 37: with entries, and with a snapshot."""
    with small as cluster, Client(cluster.endpoints, timeout=30.0) as client:
        for number in range(200):
            client.put(b"key-%d" % number, b"x" * 1000)
        node = cluster.joining(7, like=1, address=f"127.0.0.1:{free_ports(1)[0]}")
        client.add_member(0, 7, node.address)
        for _ in range(3):
            node.start()
            wait_until((cluster.directory / "node-7" / "node.json").exists, "it founds")
            node.kill()
        node.start()
        client.promote_member(0, 7, wait=True)
        leader = cluster.leader(0)
        wait_until(lambda: caught_up(cluster, 7, leader), "it has everything")


def test_removing_the_leader_under_load_costs_no_request(
    cluster: LocalCluster, sizes: Sizes, writer_pause_seconds: float
) -> None:
    """FAULTS 47: it hands over at once; writers that retry notice nothing but a moment."""
    count, writes = sizes.pick(quick=(12, 60), full=(24, 300))

    async def run() -> None:
        async with (
            Writers(cluster.endpoints, count, pause_seconds=writer_pause_seconds) as writers,
            overdb.Client(cluster.endpoints, timeout=60.0) as client,
        ):
            for group in (0, 1):
                await writers.acknowledged_more(writes)
                leader = await to_thread(cluster.leader, group)
                left = await client.remove_member(group, leader)
                assert leader not in {member.id for member in left.members}
            await writers.acknowledged_more(writes)
            await writers.stop()
            written = writers.written
            assert written.problems(await writers.read_back()) == []
            assert written.unknown == 0
            assert cluster.hand_overs() >= 2  # TimeoutNow, not an election timeout

    asyncio.run(run())


def test_a_router_finds_a_group_whose_members_it_knew_are_all_gone(small: LocalCluster) -> None:
    """Routers learn members from the groups: seeds are only where to begin."""
    with small as cluster, Client(cluster.endpoints, timeout=30.0) as client:
        client.put(b"key", b"kept")
        ports = free_ports(3)
        for old, new, port in zip((1, 2, 3), (7, 8, 9), ports, strict=True):
            node = cluster.joining(new, like=old, address=f"127.0.0.1:{port}")
            node.start()
            client.add_member(0, new, node.address)
            client.promote_member(0, new, wait=True)
            client.remove_member(0, old)
            cluster.nodes[old].stop()
        assert members(client) == {7: True, 8: True, 9: True}
        value = client.get(b"key")
        assert value is not None
        assert value.value == b"kept"
        cluster.nodes[cluster.leader(0, besides=1)].kill()
        client.put(b"key", b"2")
