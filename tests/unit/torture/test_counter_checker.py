"""The checker of counters on histories whose verdict is known."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_torture.checkers import check_counters, check_registers
from overdb_torture.history import Operation, Outcome
from tests.sizes import examples


def add(n: int, result: int | None, began: int, ended: int | None) -> Operation:
    outcome = Outcome.MAYBE if result is None else Outcome.OK
    return Operation(0, "add", b"k", n, result, began, ended, outcome)


def read(result: int, began: int, ended: int) -> Operation:
    return Operation(0, "read", b"k", None, result, began, ended, Outcome.OK)


GOOD = {
    "one after the other": [add(1, 1, 0, 1), add(2, 3, 2, 3), read(3, 4, 5)],
    "beside each other": [add(1, 3, 0, 9), add(2, 2, 0, 9), read(0, 1, 2), read(3, 10, 11)],
    "unknown, and there": [add(5, None, 0, None), add(1, 6, 2, 3)],
    "unknown, and not there": [add(5, None, 0, None), add(1, 1, 2, 3), read(1, 4, 5)],
    "two unknown ones, and both there": [
        add(2, None, 0, None),
        add(3, None, 0, None),
        add(1, 6, 2, 3),
    ],
    "an unknown one between two reads": [
        add(2, None, 0, None),
        add(3, None, 0, None),
        read(3, 1, 2),
        read(5, 3, 4),
    ],
    "unknown, and there late": [add(5, None, 0, None), read(0, 2, 3), read(5, 4, 5)],
}
BAD = {
    "lost": [add(1, 1, 0, 1), read(0, 2, 3)],
    "counted twice": [add(1, 1, 0, 1), read(2, 2, 3)],
    "two adds made one number": [add(1, 1, 0, 9), add(1, 1, 0, 9)],
    "more than the unknown ones explain": [add(5, None, 0, None), add(1, 7, 2, 3)],
    "never reached": [add(2, 2, 0, 1), add(2, 4, 2, 3), read(3, 0, 9)],
    "between what an add found and what it made": [
        add(1, None, 0, None),
        add(4, 4, 0, 9),
        read(3, 0, 9),
    ],
    "never reached with the unknown ones either": [
        add(5, None, 0, None),
        add(1, 1, 0, 9),
        read(4, 2, 3),
    ],
    "an unknown one counted for two": [
        add(2, None, 0, None),
        add(4, None, 0, None),
        read(3, 1, 2),
        read(6, 3, 4),
    ],
    "an unknown one before it began": [read(5, 0, 1), add(5, None, 2, None)],
    "went back": [add(3, 3, 0, 1), add(1, 4, 2, 3), read(3, 4, 5)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert check_counters(GOOD[name]).ok, [str(one) for one in check_counters(GOOD[name]).failures]


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    assert not check_counters(BAD[name]).ok


def test_a_failed_add_does_not_count() -> None:
    failed = Operation(0, "add", b"k", 5, None, 0, 1, Outcome.FAILED)
    assert check_counters([failed, read(0, 2, 3)]).ok
    assert not check_counters([failed, read(5, 2, 3)]).ok


def test_a_serial_execution_is_good_and_one_lost_add_is_found() -> None:
    random, total, history = Random(1), 0, []
    for number in range(2000):
        step = random.randint(1, 5)
        total += step
        history.append(add(step, total, number * 10 - random.randint(0, 30), number * 10 + 5))
    assert check_counters(history).ok
    assert not check_counters([*history[:1000], *history[1001:]]).ok


# --- against a search of all orders -----------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """An execution in some order; some adds without an answer, some reads told wrongly."""
    total, history = 0, []
    for number in range(1, draw(st.integers(1, 8)) + 1):
        at = number * 10
        began, ended = at - draw(st.integers(0, 25)), at + draw(st.integers(0, 25))
        kind, size = draw(st.sampled_from(("add", "maybe", "read"))), draw(st.integers(1, 3))
        if kind == "read":
            wrong = draw(st.sampled_from((0, 0, 0, 0, -2, -1, 1, 2)))
            history.append(read(max(0, total + wrong), began, ended))
            continue
        if kind == "add":
            total += size
            history.append(add(size, total, began, ended))
            continue
        if draw(st.booleans()):
            total += size
        history.append(add(size, None, began, None))
    return history


@settings(max_examples=examples(quick=300, full=1000), deadline=None)
@given(histories())
def test_agrees_with_a_search_of_all_orders(history: list[Operation]) -> None:
    as_registers = [
        replace(one, result=None) if one.kind == "read" and not one.result else one
        for one in history
    ]
    assert check_counters(history).ok is check_registers(as_registers).ok


def test_many_unknown_adds_are_judged_in_time() -> None:
    random, total, history = Random(1), 0, []
    for number in range(2000):
        step = random.randint(1, 5)
        unknown = random.random() < 0.2
        total += step if not unknown or random.random() < 0.5 else 0
        result = None if unknown else total
        history.append(add(step, result, number * 10, None if unknown else number * 10 + 5))
    assert check_counters(history).ok
