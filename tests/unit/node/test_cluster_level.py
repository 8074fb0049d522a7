"""When a group may be raised to a newer level (PROTOCOL 4)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overdb_node.cluster_level import Replied, common_level


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
