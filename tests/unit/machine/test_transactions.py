"""Transactions inside a group: one entry, one moment (PROTOCOL 2.6; results as kv.proto says)."""

from __future__ import annotations

import pytest

from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import (
    Code,
    Compare,
    Delete,
    OperationResult,
    Operator,
    Put,
    Transacted,
    Written,
    WrongGroup,
)
from tests.unit.machine.helpers import (
    NOW,
    Group,
    add,
    delete,
    exists,
    get,
    put,
    refused,
    request,
    transact,
    transacted,
    value,
    version,
)

EQ, NE, LT, GT = Operator.EQUAL, Operator.NOT_EQUAL, Operator.LESS, Operator.GREATER

# "here" has the value "m" and version NOW; "gone" was deleted; "never" was not written.
COMPARES: list[tuple[Compare, bool]] = [
    (value(b"here", EQ, b"m"), True),
    (value(b"here", NE, b"m"), False),
    (value(b"here", LT, b"m"), False),
    (value(b"here", GT, b"m"), False),
    (value(b"here", LT, b"n"), True),
    (value(b"here", GT, b"l"), True),
    (value(b"here", LT, b"m\x00"), True),  # bytewise: a prefix is less
    (value(b"here", GT, b"\xff"), False),  # and bytes have no sign
    (value(b"here", NE, b""), True),
    (version(b"here", EQ, NOW), True),
    (version(b"here", NE, NOW), False),
    (version(b"here", LT, NOW + 1), True),
    (version(b"here", LT, NOW), False),
    (version(b"here", GT, NOW - 1), True),
    (version(b"here", GT, NOW), False),
    (exists(b"here"), True),
    (exists(b"here", EQ, False), False),
    (exists(b"here", NE), False),
    (exists(b"here", NE, False), True),
    *(
        (compare, held)
        for key in (b"gone", b"never")
        for compare, held in (
            (value(key, EQ, b""), False),  # no value is not the empty value
            (value(key, NE, b""), True),
            (value(key, LT, b"\xff"), False),
            (value(key, GT, b""), False),
            (version(key, EQ, 0), True),
            (version(key, NE, 0), False),
            (version(key, LT, 1), True),
            (version(key, GT, 0), False),
            (exists(key), False),
            (exists(key, EQ, False), True),
            (exists(key, NE), True),
            (exists(key, NE, False), False),
        )
    ),
]


@pytest.mark.parametrize(("compare", "held"), COMPARES, ids=str)
def test_a_compare(compare: Compare, held: bool) -> None:
    """kv.proto, Compare."""
    group = Group()
    group.entry(Put(b"here", b"m", request(1)), Put(b"gone", b"x", request(2)))
    group.entry(Delete(b"gone", request(3)))
    result = transacted(group.one(transact(request(4), compares=(compare,))))
    assert result.succeeded == held


def test_one_compare_that_fails_runs_the_other_branch_only() -> None:
    """PROTOCOL 2: ``then`` if *all* compares hold, else ``otherwise``."""
    group = Group()
    group.entry(Put(b"a", b"1", request(1)))
    result = group.one(
        transact(
            request(2),
            put(b"then", b""),
            compares=(exists(b"a"), exists(b"b")),
            otherwise=(put(b"otherwise", b""),),
        )
    )
    assert not transacted(result).succeeded
    assert group.value(b"then") is None
    assert group.value(b"otherwise") == b""


def test_without_compares_then_runs() -> None:
    group = Group()
    assert transacted(group.one(transact(request(1), put(b"a", b"1")))).succeeded


def test_compares_see_what_entries_of_the_same_batch_have_written() -> None:
    """PROTOCOL 2.6: log order, whether or not it is on disk."""
    group = Group()
    group.entry(Put(b"a", b"1", request(1)), write=False)
    (result,) = group.entry(transact(request(2), get(b"a"), compares=(value(b"a", EQ, b"1"),)))
    assert transacted(result).results == (OperationResult(True, b"1", NOW),)


def test_operations_run_in_order_and_see_each_other() -> None:
    """kv.proto, OperationResult: get tells who wrote the value, the others the commit version."""
    group = Group()
    group.entry(Put(b"a", b"old", request(1)))
    result = group.one(
        transact(
            request(2),
            get(b"a"),
            put(b"a", b"new"),
            get(b"a"),
            delete(b"a"),
            get(b"a"),
            delete(b"a"),
            put(b"a", b"last"),
            get(b"none"),
        )
    )
    at = NOW + 1
    assert result == Transacted(
        True,
        (
            OperationResult(True, b"old", NOW),
            OperationResult(True, b"", at),
            OperationResult(True, b"new", at),
            OperationResult(True, b"", at),
            OperationResult(False, b"", 0),
            OperationResult(False, b"", at),
            OperationResult(False, b"", at),
            OperationResult(False, b"", 0),
        ),
        at,
    )
    assert group.store.versions[b"a"] == {NOW: b"old", at: b"last"}


def test_compares_are_on_the_state_before_and_not_on_what_the_branch_writes() -> None:
    """PROTOCOL 2.6."""
    group = Group()
    result = group.one(transact(request(1), put(b"a", b"1"), compares=(exists(b"a", EQ, False),)))
    assert transacted(result).succeeded


def test_an_empty_value_is_a_value() -> None:
    group = Group()
    group.entry(Put(b"a", b"", request(1)))
    result = transacted(group.one(transact(request(2), get(b"a"), compares=(exists(b"a"),))))
    assert result.results == (OperationResult(True, b"", NOW),)


# --- counters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "delta", "after"),
    [
        (None, 5, b"5"),
        (None, -5, b"-5"),
        (b"7", -7, b"0"),
        (b"-7", 3, b"-4"),
        (b"9223372036854775806", 1, b"9223372036854775807"),
        (b"-9223372036854775808", 0, b"-9223372036854775808"),
        (b"+5", 1, b"6"),
        (b"007", 1, b"8"),
    ],
)
def test_add(before: bytes | None, delta: int, after: bytes) -> None:
    """kv.proto, Operation.Add: the result is the new number; found: there was one before."""
    group = Group()
    if before is not None:
        group.entry(Put(b"n", before, request(1)))
    result = transacted(group.one(transact(request(2), add(b"n", delta))))
    assert result.results == (OperationResult(before is not None, after, group.machine.clock),)
    assert group.value(b"n") == after


def test_a_deleted_counter_begins_at_zero_and_adds_add_up() -> None:
    group = Group()
    group.entry(Put(b"n", b"9", request(1)))
    result = transacted(group.one(transact(request(2), delete(b"n"), add(b"n", 2), add(b"n", 3))))
    assert [r.value for r in result.results] == [b"", b"2", b"5"]
    assert [r.found for r in result.results] == [True, False, True]


@pytest.mark.parametrize(
    "before", [b"", b"x", b"1.5", b" 1", b"1 ", b"-", b"--1", b"0x1", b"1_0", "٣".encode()]
    + [b"9223372036854775808", b"-9223372036854775809", b"9" * 19, b"9" * 5000]
)  # fmt: skip
def test_add_to_what_is_no_number_is_refused(before: bytes) -> None:
    """kv.proto, Operation.Add: INVALID_ARGUMENT; the delta would bring some back into range."""
    group = Group()
    group.entry(Put(b"n", before, request(1)))
    delta = 1 if before.startswith(b"-") else -(1 << 62)
    result = group.one(transact(request(2), put(b"a", b""), add(b"n", delta)))
    refused(result, Code.INVALID_ARGUMENT, "b'n'")
    assert b"a" not in group.store.versions
    assert group.value(b"n") == before


@pytest.mark.parametrize(
    ("before", "delta"), [(b"9223372036854775807", 1), (b"-9223372036854775808", -1)]
)
def test_a_sum_beyond_64_bits_is_refused_and_so_is_its_retry(before: bytes, delta: int) -> None:
    """kv.proto, Operation.Add: OUT_OF_RANGE. The refusal is kept: a retry answers the same."""
    group = Group()
    group.entry(Put(b"n", before, request(1)))
    command = transact(request(2), put(b"a", b""), add(b"n", delta), put(b"b", b""))
    first = group.one(command)
    refused(first, Code.OUT_OF_RANGE, "b'n'", "nothing was done")
    assert list(group.store.versions) == [b"n"]
    group.entry(Put(b"n", b"0", request(3)))
    group.restart()
    assert group.one(command) == first
    assert list(group.store.versions) == [b"n"]


def test_what_a_refused_transaction_wrote_before_is_not_seen_by_the_next() -> None:
    """PROTOCOL 2.6: it did nothing, also within its entry."""
    group = Group()
    group.entry(Put(b"n", b"x", request(1)))
    _, result = group.entry(
        transact(request(2), put(b"a", b"1"), add(b"n", 1)), transact(request(3), get(b"a"))
    )
    assert transacted(result).results == (OperationResult(False, b"", 0),)


# --- deletes -----------------------------------------------------------------------------------------


def test_a_delete_writes_a_tombstone_whether_or_not_there_was_a_value() -> None:
    """PROTOCOL 2.1: a delete writes a version too."""
    group = Group()
    group.entry(Put(b"a", b"", request(1)))
    first, second, third = group.entry(
        Delete(b"a", request(2)), Delete(b"a", request(3)), Delete(b"never", request(4))
    )
    assert [r.existed for r in (first, second, third)] == [True, False, False]  # type: ignore[union-attr]
    assert group.store.versions[b"a"] == {NOW: b"", NOW + 1: None, NOW + 2: None}
    assert group.store.versions[b"never"] == {NOW + 3: None}


# --- what may be asked for -----------------------------------------------------------------------------


def test_a_transaction_of_nothing_is_refused() -> None:
    group = Group()
    refused(group.one(transact(request(1))), Code.INVALID_ARGUMENT, "no compares and no operations")


def test_a_transaction_has_a_limit_of_operations_both_branches_together() -> None:
    group = Group(MachineSettings(operations_max=3))
    two = (get(b"a"), get(b"a"))
    refused(
        group.one(transact(request(1), *two, otherwise=two)),
        Code.INVALID_ARGUMENT,
        "4",
        "limit is 3",
    )
    assert transacted(group.one(transact(request(2), *two, otherwise=(get(b"a"),)))).succeeded


def test_a_transaction_has_a_limit_of_bytes() -> None:
    group = Group(MachineSettings(request_bytes_max=10))
    refused(
        group.one(transact(request(1), put(b"a", b"12345"), put(b"b", b"1234"))),
        Code.INVALID_ARGUMENT,
        "11 bytes",
        "limit is 10",
    )
    assert transacted(group.one(transact(request(2), put(b"a", b"12345"), put(b"b", b"123"))))


def test_what_a_transaction_reads_is_bounded() -> None:
    """It is kept for retries and answered in one message: every payload has a limit."""
    group = Group(MachineSettings(request_bytes_max=1000))
    group.entry(Put(b"a", bytes(400), request(1)))
    command = transact(request(2), put(b"b", b""), get(b"a"), get(b"a"), get(b"a"))
    first = group.one(command)
    refused(first, Code.INVALID_ARGUMENT, "b'a'", "1200 bytes", "limit is 1000")
    assert b"b" not in group.store.versions
    group.entry(Delete(b"a", request(3)))
    assert group.one(command) == first
    assert transacted(group.one(transact(request(4), get(b"a"), get(b"a")))).succeeded


@pytest.mark.parametrize("operator", [LT, GT])
def test_existence_is_equal_or_not_equal_only(operator: Operator) -> None:
    group = Group()
    result = group.one(transact(request(1), compares=(exists(b"a", operator),)))
    refused(result, Code.INVALID_ARGUMENT, "EQUAL")


def test_a_key_of_another_group_in_any_place_is_wrong_group_and_nothing_runs() -> None:
    """DESIGN 3."""
    group = Group(MachineSettings(group=0, groups=2))
    own, foreign = (
        next(k for k in _keys() if _owned(group, k) is owned) for owned in (True, False)
    )
    for number, command in enumerate(
        (
            transact(request(1), put(own, b""), put(foreign, b"")),
            transact(request(2), put(own, b""), otherwise=(get(foreign),)),
            transact(request(3), put(own, b""), compares=(exists(foreign, NE),)),
        ),
        1,
    ):
        assert group.one(command) == WrongGroup(group.machine.epoch), number
    assert group.store.versions == {}
    assert group.machine.sessions_open == 0, "it runs under the same id where it belongs"
    assert isinstance(group.one(Put(own, b"", request(1))), Written)


def _keys() -> list[bytes]:
    return [b"k%d" % number for number in range(100)]


def _owned(group: Group, key: bytes) -> bool:
    return group.machine.check_read(key, 0) is None
