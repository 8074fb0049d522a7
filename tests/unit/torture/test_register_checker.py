"""The register checker on histories whose verdict is known, and against a search of all orders."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_torture.checkers import check_registers
from overdb_torture.history import Operation, Outcome

K = b"k"


def op(
    kind: str,
    argument: object,
    result: object,
    began: int,
    ended: int | None,
    outcome: Outcome = Outcome.OK,
) -> Operation:
    return Operation(began, kind, K, argument, result, began, ended, outcome)


def w(value: bytes, began: int, ended: int | None, outcome: Outcome = Outcome.OK) -> Operation:
    return op("write", value, None, began, ended, outcome)


def r(value: bytes | None, began: int, ended: int) -> Operation:
    return op("read", None, value, began, ended)


GOOD = {
    "nothing": [],
    "one after the other": [w(b"1", 0, 1), r(b"1", 2, 3), w(b"2", 4, 5), r(b"2", 6, 7)],
    "before anything was written": [r(None, 0, 1), w(b"1", 2, 3)],
    "a read beside a write sees the old value": [w(b"1", 0, 1), w(b"2", 2, 9), r(b"1", 3, 4)],
    "a read beside a write sees the new value": [w(b"1", 0, 1), w(b"2", 2, 9), r(b"2", 3, 4)],
    "old, then new, beside one write": [w(b"1", 0, 9), r(None, 1, 2), r(b"1", 3, 4)],
    "writes beside each other in any order": [
        w(b"1", 0, 9),
        w(b"2", 0, 9),
        r(b"2", 10, 11),
        r(b"2", 12, 13),
    ],
    "an unknown write never happens": [
        w(b"1", 0, 1),
        w(b"2", 2, None, Outcome.MAYBE),
        r(b"1", 9, 10),
    ],
    "an unknown write happens much later": [
        w(b"1", 0, 1),
        w(b"2", 2, None, Outcome.MAYBE),
        r(b"1", 9, 10),
        r(b"2", 11, 12),
    ],
    "a delete": [w(b"1", 0, 1), op("delete", None, None, 2, 3), r(None, 4, 5)],
    "adds": [op("add", 2, 2, 0, 1), op("add", 3, 5, 2, 3), r(b"5", 4, 5)],
    "compare and set": [
        w(b"1", 0, 1),
        op("compare_and_set", (b"1", b"2"), True, 2, 3),
        op("compare_and_set", (b"1", b"3"), False, 4, 5),
        r(b"2", 6, 7),
    ],
    "a failed write is not there": [w(b"1", 0, 1), w(b"2", 2, 3, Outcome.FAILED), r(b"1", 4, 5)],
}
BAD = {
    "a stale read": [w(b"1", 0, 1), w(b"2", 2, 3), r(b"1", 4, 5)],
    "a lost write": [w(b"1", 0, 1), r(None, 2, 3)],
    "a value from nowhere": [w(b"1", 0, 1), r(b"7", 2, 3)],
    "new, then old, beside one write": [w(b"1", 0, 9), r(b"1", 1, 2), r(None, 3, 4)],
    "two readers disagree about the order": [
        w(b"1", 0, 9),
        w(b"2", 0, 9),
        r(b"1", 10, 11),
        r(b"2", 12, 13),
    ],
    "a failed write was read": [w(b"1", 0, 1), w(b"2", 2, 3, Outcome.FAILED), r(b"2", 4, 5)],
    "an unknown write is read before it began": [r(b"1", 0, 1), w(b"1", 2, None, Outcome.MAYBE)],
    "an unknown write goes away again": [
        w(b"1", 0, 1),
        w(b"2", 2, None, Outcome.MAYBE),
        r(b"2", 3, 4),
        r(b"1", 5, 6),
    ],
    "a delete comes back": [w(b"1", 0, 1), op("delete", None, None, 2, 3), r(b"1", 4, 5)],
    "an add counts twice": [op("add", 1, 1, 0, 1), op("add", 1, 3, 2, 3)],
    "two winners of one compare": [
        w(b"1", 0, 1),
        op("compare_and_set", (b"1", b"2"), True, 2, 9),
        op("compare_and_set", (b"1", b"3"), True, 2, 9),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    verdict = check_registers(GOOD[name])
    assert verdict.ok is True, [str(one) for one in verdict.failures]


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    verdict = check_registers(BAD[name])
    assert verdict.ok is False
    assert "no order explains" in str(verdict.failures[0])


def test_numbers_stand_for_their_text() -> None:
    history = [
        op("write", 7, None, 0, 1),
        op("add", 2, 9, 2, 3),
        op("read", None, 9, 4, 5),
        r(b"9", 6, 7),
    ]
    assert check_registers(history).ok is True
    assert check_registers([*history, op("read", None, 7, 8, 9)]).ok is False


def test_keys_are_judged_by_themselves() -> None:
    good = [Operation(1, "write", b"a", b"1", None, 0, 1, Outcome.OK)]
    verdict = check_registers([*good, *BAD["a stale read"]])
    assert (verdict.keys, verdict.operations, [one.key for one in verdict.failures]) == (2, 4, [K])


def test_a_search_without_end_is_given_up_and_says_so() -> None:
    unknown = [w(b"%d" % n, 0, None, Outcome.MAYBE) for n in range(30)]
    verdict = check_registers([*unknown, r(b"x", 50, 51)], steps_max=10_000)
    assert (verdict.ok, verdict.undecided) == (None, [K])


# --- against all orders -----------------------------------------------------------------------------------


def explained(operations: list[Operation]) -> bool:
    """By brute force: some order of all the known ones and some of the unknown ones."""
    known = [one for one in operations if one.outcome is Outcome.OK]
    maybe = [one for one in operations if one.outcome is Outcome.MAYBE]
    for chosen in range(1 << len(maybe)):
        taken = known + [one for n, one in enumerate(maybe) if chosen >> n & 1]
        if any(_is_legal(order) for order in permutations(taken)):
            return True
    return False


def _is_legal(order: tuple[Operation, ...]) -> bool:
    for position, one in enumerate(order):
        if any(later.ended is not None and later.ended < one.began for later in order[position:]):
            return False
    state: object = None
    for one in order:
        if one.kind == "read" and one.result != state:
            return False
        if one.kind == "write":
            state = one.argument
        if one.kind == "delete":
            state = None
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    operations = []
    for _ in range(draw(st.integers(1, 6))):
        began = draw(st.integers(0, 12)) * 2
        ended = began + 1 + draw(st.integers(0, 6)) * 2
        value = draw(st.sampled_from([b"1", b"2", b"3"]))
        kind = draw(st.sampled_from(["read", "read", "write", "write", "delete", "maybe"]))
        if kind == "read":
            operations.append(r(draw(st.sampled_from([None, value])), began, ended))
        elif kind == "write":
            operations.append(w(value, began, ended))
        elif kind == "delete":
            operations.append(op("delete", None, None, began, ended))
        else:
            operations.append(w(value, began, None, Outcome.MAYBE))
    return operations


@settings(max_examples=400, deadline=None)
@given(histories())
def test_agrees_with_a_search_of_all_orders(history: list[Operation]) -> None:
    assert check_registers(history).ok is explained(history)
