"""No command makes ``apply`` fail: a committed entry is applied on every replica, at every start."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node import codec
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.settings import LIMITS
from overdb_node.machine.types import (
    Advance,
    Code,
    Command,
    Compare,
    CompareReplicas,
    Configure,
    Delete,
    Forget,
    Inquire,
    Operation,
    OperationKind,
    Operator,
    Outcome,
    Prepare,
    Put,
    RequestId,
    Resolve,
    Target,
    Transact,
    TransactionId,
)
from tests.sizes import examples
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
U32 = st.one_of(st.integers(0, 2), st.sampled_from([(1 << 31) - 1, 1 << 31, (1 << 32) - 1]))
GROUPS = st.one_of(
    st.just((0, 1)), st.lists(U32, max_size=4).map(tuple), st.just(tuple(range(5000)))
)
TRANSACTIONS = st.builds(TransactionId, CLIENTS, U64)
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
    st.builds(
        Prepare,
        IDS,
        U32,
        GROUPS,
        U64,
        st.lists(COMPARES, max_size=2).map(tuple),
        st.lists(OPERATIONS, max_size=3).map(tuple),
        st.lists(OPERATIONS, max_size=3).map(tuple),
        GROUPS,
        GROUPS,
    ),
    st.builds(Resolve, TRANSACTIONS, U32, st.sampled_from(Outcome), U64),
    st.builds(Inquire, IDS, U32, U64, GROUPS),
    st.builds(Forget, TRANSACTIONS, U32),
    st.builds(CompareReplicas),
    st.builds(Configure, st.tuples(*(U64 for _ in LIMITS)), U32, st.tuples(U64, U64)),
)


def _entry(commands: list[bytes], stamp: int) -> bytes:
    """An envelope of commands whose own bytes are anything."""
    lengths = (b"\x0a" + bytes([len(one)]) + one for one in commands)
    return codec.encode_envelope(stamp, b"".join(lengths))


ENTRIES_OF_BYTES = st.one_of(
    st.binary(max_size=60),
    st.builds(_entry, st.lists(st.binary(max_size=40), max_size=4), U64),
)


@pytest.mark.parametrize("level", [0, 1])
@settings(max_examples=examples(quick=120, full=300), deadline=None)
@given(entries=st.lists(st.tuples(U64, st.lists(COMMANDS, max_size=5)), max_size=6))
def test_apply_is_total(level: int, entries: list[tuple[int, list[Command]]]) -> None:
    limits = MachineSettings(key_bytes_max=10, value_bytes_max=10, operations_max=4, level=0)
    group = Group(limits)
    group.one(Configure(limits.limits, level))  # as a leader does before anything else
    for stamp, commands in entries:
        results = group.entry(*commands, stamp=stamp)
        assert len(results) == len(commands)
    digest = group.machine.digest()
    group.restart()
    assert group.machine.digest() == digest


@settings(max_examples=examples(quick=120, full=300), deadline=None)
@given(st.lists(ENTRIES_OF_BYTES, max_size=4))
def test_an_entry_of_any_bytes_is_applied(payloads: list[bytes]) -> None:
    group = Group(MachineSettings(level=0))
    group.one(Configure(group.settings.limits, 1))
    for payload in payloads:
        stamp, commands = codec.decode_envelope(payload)
        assert len(group.entry(*commands, stamp=stamp)) == len(commands)
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
