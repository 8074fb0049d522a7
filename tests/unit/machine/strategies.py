"""Random requests: few keys, few clients, numbers that come again, so that rules meet."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

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
    Refused,
    RequestId,
    Target,
    Transact,
)
from tests.unit.machine.helpers import HOUR, NOW, SECOND, client


class Entry(NamedTuple):
    stamp: int
    commands: tuple[Command | Refused, ...]


KEYS = st.sampled_from([b"a", b"b", b"n", b"{t}1"])
VALUES = st.sampled_from([b"", b"1", b"-4", b"x", b"9223372036854775807"])
STAMPS = st.one_of(
    st.just(0),
    st.integers(NOW - SECOND, NOW + SECOND),
    st.sampled_from([NOW + HOUR, NOW + 2 * HOUR]),
)


@st.composite
def request_ids(draw: st.DrawFn) -> RequestId:
    number = draw(st.integers(1, 6))
    created = draw(st.sampled_from([NOW, NOW, NOW - HOUR, NOW + 2 * HOUR]))
    return RequestId(
        client(draw(st.integers(1, 3)), created), number, NOW, draw(st.integers(0, number))
    )


_NO_DELTA = st.just(0)  # left out, it would be any integer, and a message carries 64 bits
OPERATIONS = st.one_of(
    st.builds(Operation, st.just(OperationKind.GET), KEYS, delta=_NO_DELTA),
    st.builds(Operation, st.just(OperationKind.PUT), KEYS, VALUES, _NO_DELTA),
    st.builds(Operation, st.just(OperationKind.DELETE), KEYS, delta=_NO_DELTA),
    st.builds(
        Operation, st.just(OperationKind.ADD), KEYS, st.just(b""), st.sampled_from([-3, 1, 1 << 62])
    ),
)
_EQUALITY = st.sampled_from([Operator.EQUAL, Operator.NOT_EQUAL])
COMPARES = st.one_of(
    st.builds(Compare, KEYS, st.sampled_from(Operator), st.just(Target.VALUE), VALUES),
    st.builds(
        Compare,
        KEYS,
        st.sampled_from(Operator),
        st.just(Target.VERSION),
        st.sampled_from([0, NOW, NOW + 1]),
    ),
    st.builds(Compare, KEYS, _EQUALITY, st.just(Target.EXISTS), st.booleans()),
)


def branches(of: st.SearchStrategy[Operation]) -> st.SearchStrategy[tuple[Operation, ...]]:
    return st.lists(of, max_size=4).map(tuple)


COMMANDS: st.SearchStrategy[Command | Refused] = st.one_of(
    st.builds(Put, KEYS, VALUES, request_ids()),
    st.builds(Delete, KEYS, request_ids()),
    st.builds(
        Transact,
        request_ids(),
        st.lists(COMPARES, max_size=3).map(tuple),
        branches(OPERATIONS),
        branches(OPERATIONS),
    ),
    st.builds(Advance, st.sampled_from([0, NOW, NOW + 5 * SECOND, NOW + 9 * HOUR])),
    st.just(Refused(Code.INVALID_ARGUMENT, "unreadable")),
)
ENTRIES = st.lists(
    st.builds(Entry, STAMPS, st.lists(COMMANDS, max_size=6).map(tuple)), min_size=1, max_size=14
)
