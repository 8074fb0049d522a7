"""No command makes ``apply`` fail: a committed entry is applied on every replica, at every start."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import (
    Advance,
    Code,
    Command,
    Compare,
    Delete,
    Operation,
    OperationKind,
    Operator,
    Put,
    RequestId,
    Target,
    Transact,
)
from tests.unit.machine.helpers import NOW, Group, put, refused, request, transact

U64 = st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1), st.just((1 << 64) - 1))
S64 = st.integers(-(1 << 63), (1 << 63) - 1)
KEYS = st.one_of(
    st.sampled_from([b"", b"a", b"{a}", b"{", b"{}", b"x" * 20]), st.binary(max_size=12)
)
CLIENTS = st.one_of(st.binary(max_size=20), st.just(request(1).client_id))
IDS = st.builds(RequestId, CLIENTS, U64, U64, U64)
# A replica of an older release may meet numbers that it does not know.
OPERATIONS = st.builds(
    lambda kind, key, value, delta: Operation(cast(OperationKind, kind), key, value, delta),
    st.one_of(st.sampled_from(OperationKind), st.integers(0, 300)),
    KEYS,
    st.binary(max_size=20),
    S64,
)
COMPARES = st.builds(
    lambda key, operator, target, operand: Compare(
        key, cast(Operator, operator), cast(Target, target), operand
    ),
    KEYS,
    st.one_of(st.sampled_from(Operator), st.integers(0, 300)),
    st.one_of(st.sampled_from(Target), st.integers(0, 300)),
    st.one_of(st.binary(max_size=3), U64, st.booleans()),
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Put, KEYS, st.binary(max_size=20), IDS),
    st.builds(Delete, KEYS, IDS),
    st.builds(
        Transact,
        IDS,
        st.lists(COMPARES, max_size=4).map(tuple),
        st.lists(OPERATIONS, max_size=4).map(tuple),
        st.lists(OPERATIONS, max_size=4).map(tuple),
    ),
    st.builds(Advance, U64),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(U64, st.lists(COMMANDS, max_size=5)), max_size=6))
def test_apply_is_total(entries: list[tuple[int, list[Command]]]) -> None:
    group = Group(MachineSettings(key_bytes_max=10, value_bytes_max=10, operations_max=4))
    for stamp, commands in entries:
        results = group.entry(*commands, stamp=stamp)
        assert len(results) == len(commands)
    digest = group.machine.digest()
    group.restart()
    assert group.machine.digest() == digest


@pytest.mark.parametrize("kind", [0, 5, 99])
def test_an_operation_of_an_unknown_kind_is_refused(kind: int) -> None:
    group = Group()
    unknown = Operation(cast(OperationKind, kind), b"a", b"1", 1)
    result = group.one(transact(request(1), put(b"b", b""), unknown))
    refused(result, Code.INVALID_ARGUMENT, "b'a'", "not known")
    assert group.store.versions == {}


@pytest.mark.parametrize(
    "compare",
    [
        Compare(b"a", cast(Operator, 9), Target.VALUE, b""),
        Compare(b"a", Operator.LESS, cast(Target, 9), b""),
        Compare(b"a", Operator.LESS, Target.VERSION, b""),
        Compare(b"a", Operator.LESS, Target.VALUE, 1),
        Compare(b"a", Operator.EQUAL, Target.EXISTS, 1),
    ],
)
def test_a_compare_that_makes_no_sense_is_refused(compare: Compare) -> None:
    group = Group()
    group.entry(Put(b"a", b"1", request(1)))
    refused(group.one(transact(request(2), compares=(compare,))), Code.INVALID_ARGUMENT, "b'a'")


def test_refusals_name_the_actual_value_even_of_hostile_ids() -> None:
    """One line, whatever bytes are in it."""
    group = Group()
    refused(
        group.one(Put(b"a", b"", RequestId(b"\n\xff" * 5000, 1, NOW, 0))),
        Code.INVALID_ARGUMENT,
        "10000 bytes",
    )
