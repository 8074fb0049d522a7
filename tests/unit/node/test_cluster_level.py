"""When a group may be raised to a newer level (PROTOCOL 4)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_common.level import LEVEL
from overdb_node.cluster_level import OLDER_ROUTER_TICKS, Replied, common_level
from overdb_node.storage.founding import FORMAT
from overdb_node.transport.peers import Sender
from tests.unit.node.test_comparing import group
from tests.unit.node.test_disk_stall import until


def reply(group: int, replica: int, knows: int, level: int = 0, members: int = 3) -> Replied:
    first = group * members + 1
    ids = frozenset(range(first, first + members))
    return Replied(group, replica, knows, level, ids, members_index=0)


ALL_NEW = [reply(group, group * 3 + number, 1) for group in (0, 1) for number in (1, 2, 3)]
OWN = (1, 2, 3)


def test_a_level_that_all_replicas_of_all_groups_know() -> None:
    assert common_level(ALL_NEW, 0, OWN, 2) == 1


def test_one_old_program_in_this_group_or_another_one_holds_it_up() -> None:
    for old in range(1, 7):
        replies = [r if r.replica_id != old else reply(r.group, old, 0) for r in ALL_NEW]
        assert common_level(replies, 0, OWN, 2) == 0, f"replica {old}"


def test_a_replica_that_does_not_answer_holds_it_up() -> None:
    for silent in range(1, 7):
        replies = [r for r in ALL_NEW if r.replica_id != silent]
        assert common_level(replies, 0, OWN, 2) == 0, f"replica {silent}"


def test_a_group_that_does_not_answer_holds_it_up() -> None:
    assert common_level([r for r in ALL_NEW if r.group == 0], 0, OWN, 2) == 0


def test_the_newest_member_list_of_another_group_counts() -> None:
    """One that was added since, and runs an old program, is in no older list."""
    newer = Replied(1, 4, 1, 0, frozenset((4, 5, 6, 9)), members_index=7)
    replies = [r if r.replica_id != 4 else newer for r in ALL_NEW]
    assert common_level(replies, 0, OWN, 2) == 0
    assert common_level([*replies, reply(1, 9, 1)], 0, OWN, 2) == 1


def test_a_level_in_force_elsewhere_proves_that_all_others_knew_it() -> None:
    """So a group that is raised later needs nobody but its own members."""
    replies = [r for r in ALL_NEW if r.group == 0] + [reply(1, 4, 1, level=1)]
    assert common_level(replies, 0, OWN, 2) == 1
    replies[0] = reply(0, 1, 0)
    assert common_level(replies, 0, OWN, 2) == 0


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 2)), max_size=9, unique_by=lambda one: one[0]
    )
)
def test_it_is_never_newer_than_what_every_member_is_known_to_know(
    known: list[tuple[int, int]],
) -> None:
    replies = [reply((replica - 1) // 3, replica, knows) for replica, knows in known]
    level = common_level(replies, 0, OWN, 3)
    assert all(dict(known).get(replica, 0) >= level for replica in range(1, 10))


def test_a_raised_group_drops_what_an_older_program_says(tmp_path: Path) -> None:
    """PROTOCOL 4.3, 4.4: it would apply the same entries by other rules."""

    async def run() -> None:
        async with group(tmp_path, 1) as running:
            replica = await running.led()
            await until(lambda: replica.machine.level == LEVEL)
            older = Sender(2, incarnation=7, address="127.0.0.1:9", level=LEVEL - 1)
            refusal = replica.admission.admit(older)
            assert f"replica 2 runs a program that knows level {LEVEL - 1}" in refusal
            assert "or a newer one there" in refusal
            present = replace(older, level=LEVEL)
            assert "level" not in replica.admission.admit(present)
            node_file = json.loads((tmp_path / "1" / "node.json").read_text())
            assert node_file["format"] == FORMAT

    asyncio.run(run())


def test_the_level_waits_as_long_as_an_older_router_runs_transactions(tmp_path: Path) -> None:
    """PROTOCOL 4.2: it would decide them by older rules."""
    prepare = log_pb2.Command(prepare=log_pb2.Prepare())
    payload = log_pb2.Commands(commands=[prepare]).SerializeToString()

    async def run() -> None:
        async with group(tmp_path, 1) as running:
            (replica,) = running.replicas.values()
            replica.look_for_older_router(shard_pb2.ShardRequest(commands=payload))
            await until(lambda: replica.level_waits_for == "a router runs an older program")
            assert replica.machine.level == 0
            await until(lambda: replica.machine.level == LEVEL)
            assert replica._ticks >= OLDER_ROUTER_TICKS

    asyncio.run(run())
