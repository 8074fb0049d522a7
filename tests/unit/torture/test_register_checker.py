"""The register checker on histories whose verdict is known, and against a search of all orders."""

from __future__ import annotations

import pytest

from overdb_torture.checkers import check_registers
from overdb_torture.history import Operation, Outcome
from tests.unit.torture.brute_force import explained, random_registers

MAYBE = Outcome.MAYBE
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
    "a delete of what is there": [w(b"1", 0, 1), op("delete", None, True, 2, 3), r(None, 4, 5)],
    "a delete of nothing": [op("delete", None, False, 0, 1)],
    "two deletes of one value, beside each other": [
        w(b"1", 0, 1),
        op("delete", None, False, 2, 9),
        op("delete", None, True, 2, 9),
    ],
    "an unknown delete was first": [
        w(b"1", 0, 1),
        op("delete", None, None, 2, None, MAYBE),
        op("delete", None, False, 3, 4),
    ],
    "a write brings a value back": [
        w(b"1", 0, 9),
        w(b"2", 0, 9),
        w(b"1", 0, 9),
        r(b"2", 3, 4),
        r(b"1", 5, 6),
    ],
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
    "a delete of a written key that found nothing": [
        w(b"1", 0, 1),
        op("delete", None, False, 2, 3),
    ],
    "a delete of nothing that found something": [op("delete", None, True, 0, 1)],
    "two deletes of one value": [
        w(b"1", 0, 1),
        op("delete", None, True, 2, 9),
        op("delete", None, True, 2, 9),
    ],
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


def test_many_unknown_outcomes_on_one_key_are_decided() -> None:
    """Each may have run or not: 2^30 ways, of which almost all make no difference."""
    writes = [w(b"%d" % n, n, None, MAYBE) for n in range(30)]
    adds = [op("add", 1 + n % 3, None, n, None, MAYBE) for n in range(30)]
    deletes = [op("delete", None, None, n, None, MAYBE) for n in range(30)]
    swaps = [
        op("compare_and_set", (b"%d" % n, b"%d" % (n + 1)), None, n, None, MAYBE) for n in range(30)
    ]
    nothing = [r(b"x", 50, 51)]
    for unknown in (writes, adds, deletes, swaps, [*writes, *deletes, *swaps]):
        assert check_registers([*unknown, *nothing], steps_max=20_000).ok is False
    assert check_registers([*writes, r(b"7", 50, 51), r(b"3", 52, 53)], steps_max=20_000).ok is True
    assert check_registers([*adds, r(b"59", 50, 51)], steps_max=20_000).ok is True
    assert check_registers([*adds, r(b"61", 50, 51)], steps_max=20_000).ok is False  # all make 60
    chain = [w(b"0", 40, 41), *swaps, r(b"30", 50, 51), r(b"30", 52, 53)]
    assert check_registers(chain, steps_max=20_000).ok is True
    assert check_registers([*chain, r(b"29", 54, 55)], steps_max=20_000).ok is False


def test_a_search_without_end_is_given_up_and_says_so() -> None:
    verdict = check_registers([w(b"1", 0, 9), w(b"2", 0, 9), r(b"x", 10, 11)], steps_max=3)
    assert (verdict.ok, verdict.undecided) == (None, [K])


def test_a_failure_shows_the_longest_order_and_what_does_not_fit() -> None:
    unknown = w(b"2", 2, None, MAYBE)
    failure = check_registers([w(b"1", 0, 1), unknown, r(b"2", 3, 4), r(b"1", 5, 6)]).failures[0]
    assert [one.argument or one.result for one in failure.before] == [b"1", b"2", b"2"]
    assert (failure.stuck.result, failure.stuck.began) == (b"1", 5)


# --- against all orders -----------------------------------------------------------------------------------


def test_agrees_with_a_search_of_all_orders() -> None:
    """Of one key with all kinds of operations; ``python -m tests.unit.torture.brute_force`` tries more."""
    for seed in range(4000):
        history = random_registers(seed)
        assert check_registers(history).ok is explained(history), f"seed {seed}: {history}"
