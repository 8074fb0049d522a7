"""What a commit writes follows from the vote alone (PROTOCOL 2.3, 2.4): nothing is read for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import (
    Acknowledged,
    Code,
    Configure,
    Operation,
    Outcome,
    Prepare,
    Puts,
    Refused,
    Resolve,
    Result,
    Transacted,
    TransactionId,
    Vote,
)
from tests.unit.machine.helpers import (
    NOW,
    SECOND,
    Group,
    add,
    delete,
    get,
    put,
    refused,
    request,
    transact,
)

_LATER = NOW + SECOND
_KEYS = st.sampled_from([b"a", b"b", b"c"])
_OPERATIONS = st.lists(
    st.one_of(
        st.builds(get, _KEYS),
        st.builds(put, _KEYS, st.sampled_from([b"", b"7", b"x"])),
        st.builds(delete, _KEYS),
        st.builds(add, _KEYS, st.integers(-3, 3)),
    ),
    min_size=1,
    max_size=8,
)


def _prepare(*then: Operation, otherwise: Sequence[Operation] = ()) -> Prepare:
    return Prepare(request(1, of=2), 0, (0, 1), 7, (), then, tuple(otherwise), (), ())


def _resolve(command: Prepare, outcome: Outcome = Outcome.THEN, version: int = _LATER) -> Resolve:
    return Resolve(TransactionId(*command.id[:2]), 0, outcome, version)


def _forbid_reads(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    def newest(key: bytes, at: int | None = None) -> None:
        raise AssertionError(f"{key!r} was read")

    monkeypatch.setattr(group.store, "newest", newest)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_commit_reads_nothing(restarts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    group.one(transact(request(1), put(b"count", b"40"), put(b"old", b"v")))
    command = _prepare(get(b"old"), add(b"count", 2), delete(b"old"), put(b"new", b"w"))
    group.one(command)
    if restarts:
        group.restart()
    with monkeypatch.context() as patched:
        _forbid_reads(group, patched)
        assert isinstance(group.one(_resolve(command)), Acknowledged)
    assert [group.value(key) for key in (b"count", b"old", b"new")] == [b"42", None, b"w"]
    assert group.store.newest(b"count") == (_LATER, b"42")


def test_the_other_branch_writes_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    command = _prepare(put(b"k", b"then"), otherwise=[add(b"k", 5), add(b"k", 5)])
    group.one(command)
    _forbid_reads(group, monkeypatch)
    group.one(_resolve(command, Outcome.OTHERWISE))
    monkeypatch.undo()
    assert group.value(b"k") == b"10"


def test_a_branch_that_was_refused_is_not_committed() -> None:
    group = Group()
    group.one(transact(request(1), put(b"k", b"no number")))
    command = _prepare(put(b"other", b"v"), add(b"k", 1))
    vote = group.one(command)
    assert isinstance(vote, Vote)
    assert isinstance(vote.then, Refused)
    refused(group.one(_resolve(command)), Code.DATA_LOSS, "cannot run")
    assert group.value(b"other") is None
    assert group.machine.participant.alarms


@settings(max_examples=200)
@given(_OPERATIONS, _OPERATIONS)
def test_it_writes_what_the_same_branch_in_one_group_writes(
    before: list[Operation], then: list[Operation]
) -> None:
    alone, apart = Group(), Group()
    for group in (alone, apart):
        group.one(transact(request(1), *before))
    result = alone.one(transact(request(1, of=2), *then))
    command = _prepare(*then)
    vote = apart.one(command)
    assert isinstance(vote, Vote)
    if isinstance(vote.then, Refused):
        assert isinstance(result, Refused)
        return
    apart.one(_resolve(command))
    assert isinstance(result, Transacted)
    assert [r[:2] for r in result.results] == [r[:2] for r in vote.then]
    assert [alone.value(k) for k in (b"a", b"b", b"c")] == [
        apart.value(k) for k in (b"a", b"b", b"c")
    ]


def _puts_behind_a_commit(
    values: tuple[Operation, ...], *between: Configure, restarts: bool
) -> Result:
    """A transaction of puts on a key that a commit has written; ``between`` the vote and the commit."""
    group = Group()
    group.one(transact(request(1), put(b"session", b"")))
    command = _prepare(*values)
    group.one(command)
    for configure in between:
        group.one(configure)
    group.one(_resolve(command))
    if restarts:
        group.restart()
    return group.one(Puts(request(2), [b"long"], [b"w"]))


def test_what_a_commit_wrote_is_known_to_have_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    command = _prepare(put(b"k", b"v"))
    group.one(transact(request(1), put(b"session", b"")))
    group.one(command)
    group.one(_resolve(command))
    _forbid_reads(group, monkeypatch)
    result = group.one(Puts(request(2), [b"k"], [b"w"]))
    assert isinstance(result, Transacted)
    assert result.results[0].found


@pytest.mark.parametrize("values", [(put(b"long", b"v"),), (put(b"long", b"v"), delete(b"k"))])
def test_a_key_that_became_too_long_before_the_commit_is_refused_by_all(
    values: tuple[Operation, ...],
) -> None:
    shorter = Configure(replace(MachineSettings(), key_bytes_max=3).limits)
    results = [_puts_behind_a_commit(values, shorter, restarts=one) for one in (False, True)]
    refused(results[0], Code.INVALID_ARGUMENT, "the limit is 3")
    assert results[0] == results[1]


def test_a_delete_that_is_committed_is_seen_by_the_next_puts() -> None:
    results = [
        _puts_behind_a_commit((put(b"long", b"v"), delete(b"long")), restarts=one)
        for one in (False, True)
    ]
    assert isinstance(results[0], Transacted)
    assert not results[0].results[0].found
    assert results[0] == results[1]
