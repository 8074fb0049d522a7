"""An answer that its client cannot receive is refused before anything is written (PROTOCOL 2.3)."""

from __future__ import annotations

from dataclasses import replace

from overdb_common.outcome import ANSWER_BYTES_MAX, answer_bytes
from overdb_node.machine.decision import decide
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.records import unpack_transaction
from overdb_node.machine.types import (
    Acknowledged,
    Code,
    Configure,
    Operation,
    Outcome,
    Prepare,
    Put,
    Refused,
    Resolve,
    Transacted,
    TransactionId,
    Vote,
    VoteKind,
    Waits,
)
from tests.unit.machine.helpers import Group, get, put, refused, request, transact

MIB = 1 << 20
AT_START = MachineSettings(level=0)


def group_with_values(count: int, level: int = 1, length: int = MIB) -> Group:
    group = Group(replace(AT_START, level=level))
    for number in range(count):
        group.one(Put(b"v%d" % number, b"x" * length, request(number + 1, of=9)))
    return group


def gets(count: int) -> tuple[Operation, ...]:
    return tuple(get(b"v%d" % number) for number in range(count))


def vote(result: object) -> Vote:
    assert isinstance(result, Vote), result
    return result


def test_four_values_of_1_mib_leave_no_room_for_what_is_around_them() -> None:
    group = group_with_values(4)
    result = group.one(transact(request(1), put(b"p", b"1"), *gets(4)))
    refused(result, Code.INVALID_ARGUMENT, "v3", str(ANSWER_BYTES_MAX), "nothing was done")
    assert group.value(b"p") is None
    assert isinstance(group.one(transact(request(2), put(b"p", b"1"), *gets(3))), Transacted)


def test_level_0_takes_what_release_0_1_0_takes() -> None:
    group = group_with_values(4, level=0)
    assert isinstance(group.one(transact(request(1), put(b"p", b"1"), *gets(4))), Transacted)


def test_a_vote_has_the_sizes_of_both_branches() -> None:
    group = group_with_values(2, length=100)
    command = Prepare(request(1), 0, (0, 1), 7, (), gets(2), (put(b"p", b"1"),))
    given = vote(group.one(command))
    assert (given.sized, given.then_answer_bytes, given.otherwise_answer_bytes) == (
        True,
        2 * answer_bytes(100),
        answer_bytes(0),
    )
    group.restart()
    assert vote(group.one(command))[-3:] == given[-3:]


def test_a_group_of_level_0_does_not_count_and_stores_what_release_0_1_0_stores() -> None:
    group, release = group_with_values(1, level=0), group_with_values(1, level=0)
    command = Prepare(request(1), 0, (0, 1), 7, (), gets(1), ())
    assert not vote(group.one(command)).sized
    release.one(command._replace(bounded=False))
    assert group.store.names == release.store.names
    (record,) = (c for n, c in group.store.names.items() if n[:1] == b"t")
    transaction, _ = unpack_transaction(record)
    assert transaction.part is not None
    assert not transaction.part.bounded


def test_what_waited_when_the_level_was_raised_is_not_counted() -> None:
    """Its router, of whichever release, was told of no bound."""
    group = group_with_values(1, level=0)
    holder = Prepare(request(1), 0, (0, 1), 7, (), (put(b"v0", b"1"),), ())
    waiter = Prepare(request(1, of=2, started_at=1), 0, (0, 1), 8, (), gets(1), ())
    at = vote(group.one(holder)).version
    assert isinstance(group.one(waiter), Waits)
    group.one(Configure(AT_START.limits, 1))
    group.restart()
    group.one(Resolve(TransactionId(*holder.id[:2]), 0, Outcome.THEN, at))
    ((_, given),) = group.machine.take_released()
    assert not vote(given).sized


def test_from_level_1_on_a_router_of_the_release_before_gets_no_vote() -> None:
    group = group_with_values(1)
    command = Prepare(request(1), 0, (0, 1), 7, (), gets(1), ())
    assert vote(group.one(command)).kind is VoteKind.PREPARED
    result = group.one(command._replace(bounded=False))
    refused(result, Code.FAILED_PRECONDITION, "older")


def test_two_groups_together_are_over_and_each_alone_is_not() -> None:
    groups = [group_with_values(3), group_with_values(3)]
    command = Prepare(request(1), 0, (0, 1), 7, (), (put(b"p", b"1"), *gets(3)), ())
    votes = [vote(group.one(command)) for group in groups]
    assert not any(isinstance(given.then, Refused) for given in votes)
    outcome = decide(TransactionId(*command.id[:2]), 0, votes)
    assert outcome is not None
    assert outcome.outcome is Outcome.NONE
    for group in groups:
        assert isinstance(group.one(outcome), Acknowledged)
        assert group.value(b"p") is None
