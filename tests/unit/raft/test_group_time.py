"""The time of a group: one clock of three that is wrong moves nothing (PROTOCOL 2.1; FAULTS 81)."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from overdb_node.raft.group_time import HEARD_US_MAX, WALL_US_MAX, GroupTime, lower_median

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_790_000_000 * SECOND
AT = 5_000 * SECOND  # by the clock that nobody sets
TERM = 7
VOTERS = (1, 2, 3)


def heard(**clocks: int) -> GroupTime:
    """Of leader 1: ``r2=NOW`` is what replica 2 said in round 1."""
    time = GroupTime(1)
    for name, wall in clocks.items():
        time.heard(TERM, int(name[1:]), 1, wall, AT)
    return time


def test_the_leader_alone_has_no_time_before_a_quorum_has_said_its_own() -> None:
    time = GroupTime(1)
    assert time.median(TERM, VOTERS, NOW, AT) is None
    time.heard(TERM, 2, 1, NOW, AT)
    assert time.median(TERM, VOTERS, NOW, AT) == NOW


def test_a_group_of_one_goes_by_its_own_clock() -> None:
    assert GroupTime(1).median(TERM, (1,), NOW + DAY, AT) == NOW + DAY


def test_one_wrong_clock_of_three_moves_nothing() -> None:
    for wrong in (-3650 * DAY, -DAY, -120 * SECOND, 120 * SECOND, DAY, 3650 * DAY):
        on_a_follower = heard(r2=NOW + wrong, r3=NOW)
        assert on_a_follower.median(TERM, VOTERS, NOW, AT) == NOW
        on_the_leader = heard(r2=NOW, r3=NOW)
        assert on_the_leader.median(TERM, VOTERS, NOW + wrong, AT) == NOW


def test_of_two_clocks_the_one_behind_counts() -> None:
    """Time that stands still for a while does less harm than time that ran ahead."""
    assert heard(r2=NOW).median(TERM, VOTERS, NOW + DAY, AT) == NOW
    assert heard(r2=NOW + DAY).median(TERM, (1, 2), NOW, AT) == NOW


def test_a_clock_that_was_heard_goes_on_until_it_is_too_old() -> None:
    """A machine's clock may have been set since: the third of the bounds that are marked (!)."""
    time = heard(r2=NOW)
    later = AT + HEARD_US_MAX
    assert time.clocks(TERM, NOW, later) == {1: NOW, 2: NOW + HEARD_US_MAX}
    assert time.median(TERM, VOTERS, NOW + DAY, later) == NOW + HEARD_US_MAX
    assert time.median(TERM, VOTERS, NOW + DAY, later + 1) is None


def test_two_machines_that_are_wrong_one_after_the_other_move_nothing() -> None:
    """The first one was mended while nobody heard it."""
    time = heard(r2=NOW + DAY, r3=NOW)
    later = AT + HEARD_US_MAX + 1
    time.heard(TERM, 3, 9, NOW + HEARD_US_MAX + 1, later)
    assert time.median(TERM, VOTERS, NOW + HEARD_US_MAX + DAY, later) == NOW + HEARD_US_MAX + 1


def test_a_clock_that_nobody_sets_and_that_went_back_counts_for_nothing() -> None:
    assert heard(r2=NOW).median(TERM, VOTERS, NOW, AT - 1) is None


def test_what_was_heard_in_another_term_does_not_count() -> None:
    time = heard(r2=NOW, r3=NOW)
    assert time.median(TERM + 1, VOTERS, NOW, AT) is None
    time.heard(TERM + 1, 2, 1, NOW, AT)
    assert time.clocks(TERM + 1, NOW, AT) == {1: NOW, 2: NOW}


def test_an_answer_that_was_overtaken_does_not_set_a_clock_back() -> None:
    time = GroupTime(1)
    time.heard(TERM, 2, 8, NOW, AT)
    time.heard(TERM, 2, 7, NOW - 2 * SECOND, AT)
    assert time.clocks(TERM, NOW, AT)[2] == NOW
    time.heard(TERM, 2, 8, NOW - DAY, AT)  # set back meanwhile: that is followed
    assert time.clocks(TERM, NOW, AT)[2] == NOW - DAY


def test_learners_and_replicas_that_were_removed_do_not_count() -> None:
    time = heard(r2=NOW, r9=NOW + DAY, r8=NOW + DAY)
    assert time.median(TERM, VOTERS, NOW, AT) == NOW


def test_a_leader_that_is_no_voter_any_more_does_not_count() -> None:
    time = heard(r2=NOW, r3=NOW)
    assert time.median(TERM, (2, 3), NOW + DAY, AT) == NOW


def test_followers_that_say_no_clock_leave_the_time_to_the_leader() -> None:
    """Release 0.1.0: with an old majority it is as it was, with an old minority it is as it should be."""
    assert heard(r2=0).median(TERM, VOTERS, NOW, AT) == NOW
    assert heard(r2=0, r3=0).median(TERM, VOTERS, NOW, AT) == NOW
    assert heard(r2=0, r3=NOW - SECOND).median(TERM, VOTERS, NOW, AT) == NOW - SECOND


def test_no_clock_is_beyond_what_a_stamp_can_be() -> None:
    time = heard(r2=1 << 64, r3=1 << 64)
    assert time.median(TERM, VOTERS, WALL_US_MAX, AT) == WALL_US_MAX


walls = st.integers(min_value=1, max_value=WALL_US_MAX)


@given(
    correct=st.lists(st.integers(NOW - SECOND, NOW + SECOND), min_size=1, max_size=6),
    wrong=st.lists(walls, max_size=5),
)
def test_a_minority_of_arbitrary_clocks_never_moves_the_median_out_of_the_others_range(
    correct: list[int], wrong: list[int]
) -> None:
    wrong = wrong[: max(0, (len(correct) + len(wrong) - 1) // 2)]
    wrong = wrong[: max(0, len(correct) - 1)]
    assert min(correct) <= lower_median([*correct, *wrong]) <= max(correct)


@given(
    voters=st.integers(1, 7),
    clocks=st.lists(st.one_of(st.none(), walls), min_size=7, max_size=7),
    own=walls,
)
def test_the_time_is_at_or_behind_more_than_half_of_a_quorum_of_clocks(
    voters: int, clocks: list[int | None], own: int
) -> None:
    """Whatever anybody says: to move a group ahead, so many machines must be ahead."""
    time = GroupTime(1)
    said = [own]
    for replica in range(2, voters + 1):
        clock = clocks[replica - 1]
        if clock is not None:
            time.heard(TERM, replica, 1, clock, AT)
            said.append(clock)
    found = time.median(TERM, range(1, voters + 1), own, AT)
    if 2 * len(said) <= voters:
        assert found is None
    else:
        assert found is not None
        assert sum(clock >= found for clock in said) > len(said) // 2
        assert sum(clock <= found for clock in said) >= len(said) / 2


def test_every_choice_of_two_right_clocks_of_three_decides() -> None:
    for right in combinations(VOTERS, 2):
        clocks = {voter: NOW if voter in right else NOW + DAY for voter in VOTERS}
        time = heard(r2=clocks[2], r3=clocks[3])
        assert time.median(TERM, VOTERS, clocks[1], AT) == NOW
