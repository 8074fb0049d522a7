"""The decisions of a strict read, in every order of answers (PROTOCOL 2.7)."""

from __future__ import annotations

from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overdb_router.double_collect import TRIES_MAX, DoubleCollect, Step

ORDERS = list(permutations(range(3)))


def collect(double: DoubleCollect, order: tuple[int, ...], versions: list[list[int]]) -> None:
    for part in order[:-1]:
        assert double.collected(part, versions[part]) is Step.WAIT
    assert double.collected(order[-1], versions[order[-1]]) is Step.CONFIRM


@pytest.mark.parametrize(("first", "second"), list(product(ORDERS, ORDERS)))
def test_unchanged_everywhere_is_done_with_the_last_answer_only(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    double = DoubleCollect(3)
    collect(double, first, [[5, 0], [9], [0]])
    assert double.clock == 9
    assert [double.versions(part) for part in range(3)] == [(5, 0), (9,), (0,)]
    for part in second[:-1]:
        assert double.confirmed(part, unchanged=True) is Step.WAIT
    assert double.confirmed(second[-1], unchanged=True) is Step.DONE


@pytest.mark.parametrize(("order", "changed"), list(product(ORDERS, range(3))))
def test_one_change_in_any_place_collects_again_once_all_have_answered(
    order: tuple[int, ...], changed: int
) -> None:
    double = DoubleCollect(3)
    collect(double, order, [[1], [2], [3]])
    for part in order[:-1]:
        assert double.confirmed(part, unchanged=part != changed) is Step.WAIT
    assert double.confirmed(order[-1], unchanged=order[-1] != changed) is Step.COLLECT
    collect(double, order, [[1], [2], [7]])
    assert double.clock == 7
    for part in order[:-1]:
        double.confirmed(part, unchanged=True)
    assert double.confirmed(order[-1], unchanged=True) is Step.DONE


def test_after_a_few_failures_it_gives_up() -> None:
    double = DoubleCollect(2)
    for again in range(TRIES_MAX):
        collect(double, (0, 1), [[again], [again]])
        double.confirmed(0, unchanged=False)
        step = double.confirmed(1, unchanged=True)
        assert step is (Step.GIVE_UP if again == TRIES_MAX - 1 else Step.COLLECT)


def test_the_first_round_is_forgotten_when_it_is_repeated() -> None:
    """Also a clock that was larger: an answer of the second try may come of a key set that was moved."""
    double = DoubleCollect(1)
    assert double.collected(0, [9]) is Step.CONFIRM
    assert double.confirmed(0, unchanged=False) is Step.COLLECT
    assert double.collected(0, [12, 0]) is Step.CONFIRM
    assert double.clock == 12


def test_nobody_answers_twice_in_a_round() -> None:
    double = DoubleCollect(2)
    double.collected(0, [1])
    with pytest.raises(KeyError):
        double.collected(0, [1])


@given(st.data())
def test_done_means_that_all_values_were_current_at_one_moment(data: st.DataObject) -> None:
    """Groups whose keys change at any time between any two answers: a model with a history."""
    parts = data.draw(st.integers(1, 4))
    state = [1] * parts
    history = [tuple(state)]

    def disturb() -> None:
        for part in data.draw(st.lists(st.integers(0, parts - 1), max_size=1)):
            state[part] += 1
            history.append(tuple(state))

    double, step = DoubleCollect(parts), Step.COLLECT
    while step not in (Step.DONE, Step.GIVE_UP):
        for part in data.draw(st.permutations(range(parts))):
            disturb()
            if step is Step.COLLECT:
                after = double.collected(part, [state[part]])
            else:
                after = double.confirmed(part, unchanged=double.versions(part) == (state[part],))
        step = after
    if step is Step.DONE:
        assert tuple(double.versions(part)[0] for part in range(parts)) in history
