"""Who is odd: every combination of what the voters of a group can say (FAULTS 31)."""

from __future__ import annotations

from itertools import product

import pytest

from overdb_node.machine.comparison import Differences, Kind, Point, Report, judge

P = Point(1024, Kind.CHAIN, "1", 0)
LATER = Point(2048, Kind.CHAIN, "1", 0)
CONTENT = Point(1500, Kind.CONTENT, "1", 0)


def says(value: int | None, *, diverged: bool = False, at: Point = P) -> Report:
    return Report({} if value is None else {at: value}, diverged)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_replica_is_odd_exactly_if_a_majority_of_all_voters_agrees_without_it(count: int) -> None:
    """All combinations of silent, equal, and two other values, each told by a sound or a diverged voter."""
    voters = range(1, count + 1)
    majority = count // 2 + 1
    for told in product(product([None, 0, 1, 2], [False, True]), repeat=count - 1):
        reports = {
            voter: says(value, diverged=diverged)
            for voter, (value, diverged) in zip(voters[1:], told, strict=True)
        }
        verdict = judge(1, voters, {P: 0}, reports)
        sound = [value for value, diverged in told if not diverged]
        odd = any(sound.count(value) >= majority for value in (1, 2))
        assert (verdict.odd_at == P) == odd, told
        assert (verdict.odd_at is None) == (not odd)
        differing = {v for v, (value, _) in zip(voters[1:], told, strict=True) if value in (1, 2)}
        assert verdict.differing == dict.fromkeys(differing, P), told
        assert verdict.points == sum(value is not None for value, _ in told)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_fewer_than_half_can_be_odd_at_one_point(count: int) -> None:
    """So what goes on serving is a majority, whatever the values are."""
    voters = range(count)
    for values in product([0, 1, 2], repeat=count):
        odd = [
            me
            for me in voters
            if judge(
                me,
                voters,
                {P: values[me]},
                {other: says(values[other]) for other in voters if other != me},
            ).odd_at
        ]
        assert 2 * len(odd) < count, values
        left = [values[voter] for voter in voters if voter not in odd]
        if odd:
            assert 2 * max(map(left.count, left)) > count  # and they are those that agree


def test_a_learner_is_not_believed_and_may_find_itself_odd() -> None:
    reports = {2: says(1), 9: says(1), 10: says(1)}
    verdict = judge(1, [1, 2, 3], {P: 0}, reports)
    assert verdict.odd_at is None
    assert verdict.differing == {2: P}
    assert judge(9, [1, 2, 3], {P: 0}, {1: says(1), 2: says(1)}).odd_at == P
    assert judge(9, [1, 2, 3], {P: 0}, {1: says(1), 2: says(2)}).odd_at is None


def test_the_own_report_of_another_life_does_not_count() -> None:
    assert judge(1, [1, 2, 3], {P: 0}, {1: says(1), 2: says(1)}).odd_at is None


@pytest.mark.parametrize(
    "other",
    [
        P._replace(at=2048),
        P._replace(kind=Kind.CONTENT),
        P._replace(release="2"),
        P._replace(begin=1),
    ],
)
def test_only_equal_points_are_compared(other: Point) -> None:
    """A replica that was upgraded meanwhile has begun another chain."""
    verdict = judge(1, [1, 2, 3], {P: 0}, {2: says(1, at=other), 3: says(1, at=other)})
    assert verdict == (None, {}, 0)


def test_a_majority_is_counted_at_one_point_and_not_over_several() -> None:
    own = {P: 0, LATER: 0}
    assert judge(1, [1, 2, 3], own, {2: says(1), 3: says(1, at=LATER)}).odd_at is None
    both = {2: Report({P: 0, LATER: 1}, False), 3: Report({P: 1, LATER: 1}, False)}
    verdict = judge(1, [1, 2, 3], own, both)
    assert verdict.odd_at == LATER
    assert verdict.differing == {2: LATER, 3: P}


# --- what is remembered ------------------------------------------------------------------------------------

OWN = {P: 0}


def learn(
    found: Differences, reports: dict[int, Report], own: dict[Point, int] | None = None
) -> dict[int, Point]:
    own = own or OWN
    return found.learn([1, 2, 3], own, reports, judge(1, [1, 2, 3], own, reports))


def test_a_difference_is_told_once_and_counted_once() -> None:
    found = Differences()
    assert learn(found, {2: says(1), 3: says(0)}) == {2: P}
    assert learn(found, {2: says(1), 3: says(0)}) == {}
    assert (found.compared, found.differences) == (2, 1)
    assert found.others == {2: P}


def test_a_difference_stays_until_all_later_content_is_equal() -> None:
    """Later chains are equal again, and the state need not be."""
    found = Differences()
    learn(found, {2: says(1)})
    learn(found, {2: says(5, at=LATER)}, {LATER: 5})
    assert found.others == {2: P}
    learn(found, {})  # silent
    assert found.others == {2: P}
    before = P._replace(kind=Kind.CONTENT)  # no later than the difference itself
    learn(found, {2: says(5, at=before)}, {before: 5})
    assert found.others == {2: P}
    learn(found, {2: says(5, at=CONTENT)}, {CONTENT: 6})
    assert found.others == {2: P}
    learn(found, {2: says(5, at=CONTENT)}, {CONTENT: 5})
    assert found.others == {}


def test_one_that_says_itself_that_it_is_odd_is_told_until_it_says_otherwise() -> None:
    found = Differences()
    learn(found, {3: says(None, diverged=True)})
    assert found.others == {3: None}
    learn(found, {2: says(0)})
    assert found.others == {3: None}
    learn(found, {3: says(None)})
    assert found.others == {}


def test_one_that_is_no_member_any_more_is_forgotten() -> None:
    found = Differences()
    learn(found, {2: says(1), 3: says(None, diverged=True)})
    found.learn([1], OWN, {}, judge(1, [1], OWN, {}))
    assert found.others == {}
