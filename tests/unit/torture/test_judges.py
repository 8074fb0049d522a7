"""The checkers on histories of a few operations: what must be told apart, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from overdb_torture.checkers import check_counters, check_lists, check_registers
from overdb_torture.history import Append, ListTransaction, Operation, Outcome, Read

OK, MAYBE, FAILED = Outcome.OK, Outcome.MAYBE, Outcome.FAILED
_processes = itertools.count(1)


def op(
    kind: str, argument: object, result: object, began: int, ended: int, outcome: Outcome = OK
) -> Operation:
    end = None if outcome is MAYBE else ended
    return Operation(next(_processes), kind, b"k", argument, result, began, end, outcome)


WRITE = op("write", 1, None, 0, 10)


@pytest.mark.parametrize(
    ("history", "ok"),
    [
        ([WRITE, op("read", None, 1, 20, 30)], True),
        ([WRITE, op("read", None, None, 20, 30)], False),  # lost
        ([WRITE, op("read", None, None, 5, 30)], True),  # at the same time
        ([WRITE, op("write", 2, None, 20, 30), op("read", None, 1, 40, 50)], False),  # stale
        ([WRITE, op("write", 2, None, 20, 30, MAYBE), op("read", None, 1, 40, 50)], True),
        ([WRITE, op("write", 2, None, 20, 30, MAYBE), op("read", None, 2, 90, 99)], True),
        ([WRITE, op("write", 2, None, 20, 30, FAILED), op("read", None, 2, 40, 50)], False),
        ([WRITE, op("read", None, None, 20, 30, FAILED)], True),  # it saw nothing
        ([WRITE, op("add", 5, 6, 20, 30), op("read", None, 6, 40, 50)], True),
        ([WRITE, op("add", 5, 6, 20, 30), op("read", None, 11, 40, 50)], False),  # done twice
        ([WRITE, op("compare_and_set", (1, 7), True, 20, 30), op("read", None, 7, 40, 50)], True),
        ([WRITE, op("compare_and_set", (1, 7), False, 20, 30)], False),
        ([WRITE, op("delete", None, True, 20, 30), op("read", None, None, 40, 50)], True),
        ([WRITE, op("delete", None, True, 20, 30), op("read", None, 1, 40, 50)], False),
    ],
)
def test_registers(history: list[Operation], ok: bool) -> None:
    assert check_registers(history).ok is ok


def test_counters() -> None:
    assert check_counters([op("read", None, 0, 0, 10), op("add", 2, 2, 20, 30)]).ok
    assert not check_counters([op("add", 2, 2, 0, 10), op("add", 3, 3, 20, 30)]).ok
    assert not check_counters([op("add", 2, 2, 0, 10), op("read", None, 0, 20, 30)]).ok


def txn(
    began: int, ended: int, *operations: Append | Read, outcome: Outcome = OK
) -> ListTransaction:
    end = None if outcome is MAYBE else ended
    return ListTransaction(next(_processes), operations, began, end, outcome)


def read(key: bytes, *values: int) -> Read:
    return Read(key, values)


ONE = txn(0, 10, Append(b"a", 1), Append(b"b", 1))


@pytest.mark.parametrize(
    ("history", "ok"),
    [
        ([ONE, txn(20, 30, read(b"a", 1), read(b"b", 1))], True),
        ([ONE, txn(5, 30, read(b"a", 1), read(b"b"))], False),  # torn
        ([ONE, txn(20, 30, read(b"a"), read(b"b"))], False),  # lost
        ([ONE, txn(5, 30, read(b"a"), read(b"b"))], True),
        ([ONE, txn(20, 30, read(b"a", 1, 9))], False),  # nobody's
        (  # write skew: each saw the other's key as it was before
            [
                txn(0, 50, read(b"a"), Append(b"b", 2)),
                txn(0, 50, read(b"b"), Append(b"a", 3)),
                txn(60, 70, read(b"a", 3), read(b"b", 2)),
            ],
            False,
        ),
        (  # two that read see two appends in different orders: a long fork
            [
                txn(0, 50, Append(b"a", 4)),
                txn(0, 50, Append(b"b", 5)),
                txn(0, 50, read(b"a", 4), read(b"b")),
                txn(0, 50, read(b"a"), read(b"b", 5)),
            ],
            False,
        ),
        ([txn(0, 10, Append(b"a", 6), outcome=MAYBE), txn(20, 30, read(b"a"))], True),
        ([txn(0, 10, Append(b"a", 6), outcome=MAYBE), txn(20, 30, read(b"a", 6))], True),
        ([txn(0, 10, Append(b"a", 6), outcome=FAILED), txn(20, 30, read(b"a", 6))], False),
    ],
)
def test_lists(history: Sequence[ListTransaction], ok: bool) -> None:
    assert check_lists(history, strict=True).ok is ok
