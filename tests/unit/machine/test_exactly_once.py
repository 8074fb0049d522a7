"""A request runs once, and its retries get its answer (PROTOCOL 2.2, 2.10; FAULTS 51)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import (
    Code,
    Command,
    Delete,
    Operation,
    Operator,
    Put,
    RequestId,
    Written,
)
from tests.unit.machine.helpers import (
    HOUR,
    NOW,
    SECOND,
    Group,
    add,
    client,
    delete,
    exists,
    get,
    put,
    refused,
    request,
    transact,
    value,
    version,
)

COMMANDS: list[Command] = [
    Put(b"k", b"new", request(9)),
    Delete(b"k", request(9)),
    transact(request(9), get(b"k"), put(b"k", b"x"), get(b"k"), delete(b"k"), add(b"n", -3)),
    transact(
        request(9),
        compares=(exists(b"none"), value(b"k", Operator.EQUAL, b"old")),
        otherwise=(get(b"k"), get(b"none")),
    ),
    transact(request(9), add(b"k", 1)),  # refused by the state: k is no number
]


def ids(command: Command) -> str:
    return type(command).__name__


@pytest.mark.parametrize("command", COMMANDS, ids=ids)
@pytest.mark.parametrize("restart", [False, True])
def test_a_retry_gets_the_same_answer_and_changes_nothing(command: Command, restart: bool) -> None:
    """PROTOCOL 2.2: the state has moved on meanwhile, so running again would answer otherwise."""
    group = Group()
    group.entry(Put(b"k", b"old", request(1)))
    first = group.one(command)
    group.entry(Put(b"k", b"17", request(2)), stamp=NOW + SECOND)
    before = group.store.copy().versions
    if restart:
        group.restart()
    assert group.one(command, stamp=NOW + 2 * SECOND) == first
    assert group.store.versions == before


def test_a_copy_in_the_same_entry_and_in_the_same_batch_runs_once() -> None:
    """PROTOCOL 2.2: also before anything of it is on disk."""
    group = Group()
    command = transact(request(1), add(b"n", 1))
    first, copy = group.entry(command, command, write=False)
    (later,) = group.entry(command)
    assert first == copy == later
    assert group.value(b"n") == b"1"


@pytest.mark.parametrize(
    "other",
    [
        Put(b"k", b"other", request(1)),
        Put(b"other", b"v", request(1)),
        Delete(b"k", request(1)),
        transact(request(1), put(b"k", b"v")),
    ],
    ids=["value", "key", "delete", "transact"],
)
def test_an_id_that_comes_with_another_request_is_refused_and_named(other: Command) -> None:
    """PROTOCOL 2.2."""
    group = Group()
    group.entry(Put(b"k", b"v", request(1)))
    refused(group.one(other), Code.INVALID_ARGUMENT, f"{client().hex()}/1", "different request")
    assert group.store.versions == {b"k": {NOW: b"v"}}


TRANSACTS = [
    transact(request(1), put(b"a", b"bc")),
    transact(request(1), put(b"ab", b"c")),
    transact(request(1), get(b"a"), get(b"bc")),
    transact(request(1), otherwise=(put(b"a", b"bc"),)),
    transact(request(1), compares=(value(b"a", Operator.EQUAL, b"bc"),)),
    transact(request(1), compares=(value(b"a", Operator.LESS, b"bc"),)),
    transact(request(1), compares=(value(b"a", Operator.EQUAL, b"1"),)),
    transact(request(1), compares=(version(b"a", Operator.EQUAL, 1),)),
    transact(request(1), compares=(exists(b"a"),)),
    transact(request(1), compares=(exists(b"a", operand=False),)),
    transact(request(1), add(b"a", 1)),
    transact(request(1), add(b"a", -1)),
]


def test_transactions_that_differ_in_anything_are_different_requests() -> None:
    """PROTOCOL 2.2."""
    for first in TRANSACTS:
        for second in TRANSACTS:
            group = Group()
            answer = group.one(first)
            again = group.one(second)
            if first is second:
                assert again == answer
            else:
                refused(again, Code.INVALID_ARGUMENT, "different request")


def test_a_transactions_fingerprint_does_not_hang_on_names_of_classes() -> None:
    """It lies on disk: a release that names its types otherwise must know its own requests again."""

    class Step(Operation):
        """An operation as another release calls it."""

    command = transact(request(1), put(b"a", b"1"))
    renamed = command._replace(then=tuple(Step(*operation) for operation in command.then))
    assert renamed == command
    group = Group()
    first = group.one(command)
    group.restart()
    assert group.one(renamed) == first


def test_ids_of_two_clients_do_not_meet() -> None:
    group = Group()
    first, second = group.entry(Put(b"k", b"1", request(1, 1)), Put(b"k", b"2", request(1, 2)))
    assert (first, second) == (Written(NOW), Written(NOW + 1))


# --- a stored answer first (2.10 (!)) -----------------------------------------------------------------


def test_a_stored_answer_comes_before_expiry() -> None:
    """PROTOCOL 2.10 (!): a session that waits for its turn to be closed still answers."""
    group = Group()
    commands = [Put(b"k%d" % i, b"", request(1, i + 1)) for i in range(20)]
    first = group.entry(*commands)
    late = NOW + 2 * HOUR
    again = group.entry(*commands, stamp=late)  # closes 16 sessions at most before it runs
    answered = [result for result in again if isinstance(result, Written)]
    assert answered
    assert all(now in (then, now) for then, now in zip(first, again, strict=True))
    assert [now for then, now in zip(first, again, strict=True) if now == then] == answered
    for result in again:
        if not isinstance(result, Written):
            refused(result, Code.FAILED_PRECONDITION, "expired")


def test_a_stored_answer_comes_before_slot_ownership() -> None:
    """PROTOCOL 2.10 (!): or a retry goes to the slot's new owner and runs a second time."""
    group = Group()
    command = Put(b"k", b"v", request(1))
    transaction = transact(request(2), add(b"n", 1))
    answers = group.entry(command, transaction)
    group.settings = replace(group.settings, group=1, groups=4096)  # all but one slot gone
    group.store.names.pop(b"slots")
    group.restart()
    assert group.entry(command, transaction) == answers


def test_a_stored_answer_comes_before_limits() -> None:
    """PROTOCOL 2.10 (!): a limit may have been lowered since; "not run" would be a lie."""
    group = Group()
    command = Put(b"key", b"value", request(1))
    transaction = transact(request(2), put(b"key", b"value"))
    answers = group.entry(command, transaction)
    group.settings = replace(group.settings, value_bytes_max=1)
    group.restart()
    assert group.entry(command, transaction) == answers


def test_a_client_at_its_limit_is_answered_from_store() -> None:
    group = Group(MachineSettings(unacknowledged_per_client_max=1))
    first = group.one(Put(b"k", b"", request(1)))
    assert group.one(Put(b"k", b"", request(1))) == first


# --- what an id must be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (RequestId(b"", 1, NOW, 0), "client_id"),
        (RequestId(client()[:15], 1, NOW, 0), "client_id"),
        (RequestId(client() + b"x", 1, NOW, 0), "client_id"),
        (RequestId(client()[:6] + b"\x40" + client()[7:], 1, NOW, 0), "client_id"),
        (RequestId(client(), 0, NOW, 0), "request_number"),
        (RequestId(client(), 3, NOW, 4), "acknowledged_below"),
    ],
    ids=["empty", "short", "long", "version 4", "number 0", "acknowledged beyond"],
)
@pytest.mark.parametrize("known", [False, True])
def test_a_malformed_id_is_refused_and_nothing_is_kept_of_it(
    bad: RequestId, word: str, known: bool
) -> None:
    """PROTOCOL 2.2."""
    group = Group()
    if known:
        group.entry(Put(b"other", b"", request(1000)))
    kept = group.machine.results_kept
    refused(group.one(Put(b"k", b"v", bad)), Code.INVALID_ARGUMENT, word)
    assert b"k" not in group.store.versions
    assert group.machine.results_kept == kept
    assert group.machine.sessions_open == int(known)


def test_started_at_or_creation_too_far_ahead_is_refused() -> None:
    """PROTOCOL 2.1, 2.2: a minute, by the group's physical time."""
    group = Group()
    group.entry()
    late, later = NOW + 60 * SECOND, NOW + 61 * SECOND
    refused(group.one(Put(b"k", b"", request(1, started_at=later))), Code.INVALID_ARGUMENT, "60 s")
    refused(group.one(Put(b"k", b"", request(1, created=later))), Code.INVALID_ARGUMENT, "60 s")
    assert group.machine.sessions_open == 0
    assert isinstance(group.one(Put(b"k", b"", request(1, created=late, started_at=late))), Written)
    known = request(2, created=late, started_at=later)
    refused(group.one(Put(b"k", b"", known)), Code.INVALID_ARGUMENT, "60 s")


def test_a_refusal_because_of_the_id_is_not_kept() -> None:
    """The same request is taken once the clocks agree: it did nothing."""
    group = Group()
    command = Put(b"k", b"", request(1, started_at=NOW + 61 * SECOND))
    refused(group.one(command), Code.INVALID_ARGUMENT)
    assert isinstance(group.one(command, stamp=NOW + 2 * SECOND), Written)
