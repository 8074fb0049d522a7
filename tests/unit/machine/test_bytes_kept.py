"""What is kept for retries is bounded in bytes, and what was read is not kept (PROTOCOL 2.10; FAULTS 86)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from overdb_node.machine import kept, overlay, participant
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.settings import RESULT_BYTES_MAX
from overdb_node.machine.types import (
    Code,
    Configure,
    Forget,
    Inquire,
    Outcome,
    Prepare,
    Put,
    Refused,
    RequestId,
    Resolve,
    Transacted,
    TransactionId,
    Unread,
    Vote,
    Waits,
    Written,
)
from tests.unit.machine.helpers import (
    HOUR,
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
    transacted,
)
from tests.unit.machine.strategies import ENTRIES, Entry

MIB = 1 << 20
LARGE = b"x" * MIB
FEW = MachineSettings(result_bytes_per_client_max=1 << 16, result_bytes_max=1 << 20)


def with_values(group: Group, count: int = 3) -> Group:
    for number in range(count):
        group.one(Put(b"v%d" % number, LARGE, request(number + 1, of=99)))
    return group


def record_bytes(group: Group) -> int:
    return sum(len(name) + len(content) for name, content in group.store.names.items())


def vote(result: object) -> Vote:
    assert isinstance(result, Vote), result
    return result


def prepare(of: int, *then: object, number: int = 1, below: int = 0, attempt: int = 0) -> Prepare:
    id_ = request(number, of, below=below)
    return Prepare(id_, attempt, (0, 1), 7, (), then, ())  # type: ignore[arg-type]


def finish(group: Group, command: Prepare, *, forget: bool = False) -> None:
    at = vote(group.one(command)).version
    identity = TransactionId(*command.id[:2])
    group.one(Resolve(identity, command.attempt, Outcome.THEN, at))
    if forget:
        group.one(Forget(identity, command.attempt))


# --- values that were read -------------------------------------------------------------------------------


def test_many_transactions_that_read_much_keep_little() -> None:
    group = with_values(Group())
    before = record_bytes(group), group.machine.bytes_kept
    for number in range(1, 41):
        command = transact(request(number), put(b"p", b"1"), *(get(b"v%d" % n) for n in range(3)))
        assert transacted(group.one(command)).results[1].value == LARGE
    assert record_bytes(group) - before[0] < 40 * 300
    assert group.machine.bytes_kept - before[1] < 40 * 1024


@pytest.mark.parametrize("restart", [False, True])
def test_a_copy_is_answered_with_the_values_of_its_time(restart: bool) -> None:
    group = with_values(Group(), 2)
    command = transact(
        request(1),
        get(b"v0"),
        put(b"v0", b"own" * 100),
        get(b"v0"),
        put(b"v0", b"other"),
        delete(b"v1"),
        get(b"v1"),
        get(b"none"),
        add(b"n", 3),
    )
    first = transacted(group.one(command))
    assert first.results[2].value == b"own" * 100
    group.one(Put(b"v0", b"later", request(9, of=98)), stamp=NOW + SECOND)
    if restart:
        group.restart()
    assert group.one(command, stamp=NOW + 2 * SECOND) == first
    assert group.value(b"n") == b"3"


def test_a_copy_in_the_same_batch_finds_what_is_not_on_disk_yet() -> None:
    group = Group()
    group.entry(Put(b"k", b"old" * 100, request(1, of=9)), write=False)
    command = transact(request(1), get(b"k"), put(b"k", b"new" * 100))
    (first,) = group.entry(command, write=False)
    (again,) = group.entry(command, write=False)
    assert again == first
    assert transacted(first).results[0].value == b"old" * 100


def test_a_copy_is_refused_when_what_it_read_is_no_longer_kept_and_never_runs_again() -> None:
    """An id outlives old versions here: what it wrote is known, what it read is not."""
    group = with_values(Group(MachineSettings(retention_us=2 * SECOND)), 1)
    command = transact(request(1), get(b"v0"), add(b"n", 1))
    at = transacted(group.one(command)).version
    group.one(Put(b"v0", b"later", request(9, of=98)), stamp=NOW + 10 * SECOND)
    answer = group.one(command, stamp=NOW + 11 * SECOND)
    refused(answer, Code.FAILED_PRECONDITION, str(at), "what it wrote is there", "no longer kept")
    assert group.value(b"n") == b"1"


def test_a_value_that_is_gone_from_this_disk_is_not_made_up() -> None:
    """Version GC goes by the same floor; should one have gone further, nothing else is answered."""
    group = with_values(Group(), 1)
    command = transact(request(1), get(b"v0"), add(b"n", 1))
    group.one(command)
    group.one(Put(b"v0", b"later", request(9, of=98)))
    del group.store.versions[b"v0"][min(group.store.versions[b"v0"])]
    refused(group.one(command), Code.FAILED_PRECONDITION, "no longer kept")


def test_an_older_value_is_not_taken_for_the_one_that_was_read() -> None:
    group = with_values(Group(), 1)
    group.one(Put(b"v0", b"newer" * 100, request(8, of=98)))
    command = transact(request(1), get(b"v0"), add(b"n", 1))
    read = transacted(group.one(command)).results[0]
    del group.store.versions[b"v0"][read.version]
    refused(group.one(command), Code.FAILED_PRECONDITION, "no longer kept")


def test_level_0_keeps_what_release_0_1_0_keeps() -> None:
    group = with_values(Group(MachineSettings(level=0)), 1)
    command = transact(request(1), get(b"v0"))
    first = group.one(command)
    assert record_bytes(group) > MIB
    index, term = group.index + 1, 1
    assert group.machine.apply(index, term, NOW, [command]) == [first]


def test_what_was_kept_at_level_0_is_answered_after_the_raise() -> None:
    group = with_values(Group(MachineSettings(level=0)), 1)
    commands = transact(request(1), get(b"v0")), prepare(2, get(b"v0"))
    first = [group.one(command) for command in commands]
    group.one(Configure(group.settings.limits, 1))
    group.restart()
    assert [group.one(command) for command in commands] == first


def test_a_vote_keeps_no_values_and_its_copies_have_them() -> None:
    group = with_values(Group(), 2)
    command = prepare(1, get(b"v0"), put(b"v1", b"new"), get(b"v1"))
    given = vote(group.one(command))
    assert isinstance(given.then, tuple)
    assert given.then[0].value == LARGE
    assert record_bytes(group) < MIB
    assert group.one(command) == given  # open
    group.restart()
    assert group.one(command) == given
    identity = TransactionId(*command.id[:2])
    group.one(Resolve(identity, 0, Outcome.THEN, given.version))
    group.one(Put(b"v0", b"later", request(9, of=98)), stamp=NOW + SECOND)
    after = vote(group.one(command))
    assert after.then == given.then
    assert after.outcome is Outcome.THEN


def test_a_vote_whose_values_are_gone_is_refused_and_is_no_vote() -> None:
    group = with_values(Group(MachineSettings(retention_us=2 * SECOND)), 1)
    command = prepare(1, get(b"v0"), put(b"p", b"1"))
    finish(group, command)
    group.one(Put(b"v0", b"later", request(9, of=98)), stamp=NOW + 10 * SECOND)
    refused(group.one(command, stamp=NOW + 11 * SECOND), Code.FAILED_PRECONDITION, "no longer kept")


def test_a_finisher_that_asks_for_many_votes_gets_no_values() -> None:
    group = with_values(Group(), 1)
    command = prepare(1, get(b"v0"))
    group.one(command)
    asked = Inquire(command.id, 0, command.fingerprint, command.participants)
    assert vote(group.one(asked)).then == ()


def test_the_results_of_one_entry_hold_a_bounded_number_of_values() -> None:
    group = with_values(Group())
    reads = [get(b"v%d" % n) for n in range(3)]
    commands = [transact(request(1, of=n), *reads) for n in range(1, 21)]
    group.index += 1
    results = group.machine.apply(group.index, 1, NOW, commands)
    held = sum(len(one.value) for r in results if isinstance(r, Transacted) for one in r.results)
    assert held <= overlay.ENTRY_ANSWER_BYTES_MAX + 3 * MIB
    assert isinstance(results[-1], Unread)
    assert len({transacted(group.whole(result)).results for result in results}) == 1


# --- bounds ------------------------------------------------------------------------------------------------


def fill(group: Group, *, of: int = 1) -> tuple[int, Refused]:
    """Requests of one client that acknowledges nothing, until one is refused."""
    for number in range(1, 100_000):
        ops = [put(b"k%d" % n, b"") for n in range(50)]
        ops.append(get(b"k0"))  # so that results differ
        result = group.one(transact(request(number, of=of), *ops))
        if isinstance(result, Refused):
            return number, result
    raise AssertionError("never refused")


def test_a_client_that_acknowledges_nothing_is_refused_before_it_runs() -> None:
    group = Group(FEW)
    number, refusal = fill(group)
    refused(refusal, Code.RESOURCE_EXHAUSTED, "65536", "acknowledged_below", "new client id")
    assert 10 < number < 100
    refused(group.one(Put(b"p", b"1", request(number))), Code.RESOURCE_EXHAUSTED, "bytes")
    assert group.value(b"p") is None
    group.restart()
    refused(group.one(Put(b"p", b"1", request(number))), Code.RESOURCE_EXHAUSTED, "bytes")
    assert isinstance(group.one(Put(b"p", b"1", request(1, of=2))), Written)  # others go on
    done = group.one(Put(b"p", b"2", request(number, below=number)))
    assert isinstance(done, Written)


def test_what_was_promised_is_answered_when_the_bound_is_reached() -> None:
    group = Group(FEW)
    first = group.one(transact(request(1), *(put(b"k%d" % n, b"") for n in range(50)), get(b"k0")))
    fill(group)
    again = group.one(transact(request(1), *(put(b"k%d" % n, b"") for n in range(50)), get(b"k0")))
    assert again == first


def test_client_ids_by_the_thousand_are_refused_and_expire() -> None:
    group = Group(FEW)
    done = 0
    while isinstance(result := group.one(Put(b"p", b"1", request(1, of=done + 1))), Written):
        done += 1
    refused(result, Code.RESOURCE_EXHAUSTED, "client ids", "1048576", "Retry later")
    assert done == FEW.result_bytes_max // (kept.SESSION_BYTES + kept.RESULT_BYTES) + 1
    group.restart()
    refused(group.one(Put(b"p", b"1", request(1, of=done + 1))), Code.RESOURCE_EXHAUSTED)
    known = Put(b"p", b"1", request(1, of=1))
    assert isinstance(group.one(known), Written)  # what ran is answered
    refused(group.one(Put(b"p", b"2", request(2, of=1))), Code.RESOURCE_EXHAUSTED, "not run")
    assert group.value(b"p") == b"1"
    later = NOW + HOUR + SECOND
    for _ in range(done // 16 + 2):
        group.entry(stamp=later)
    fresh = request(1, of=done + 1, created=later, started_at=later)
    assert isinstance(group.one(Put(b"p", b"1", fresh), stamp=later), Written)


def test_transactions_over_several_groups_count_too() -> None:
    group = Group(FEW)
    for number in range(1, 1000):
        command = prepare(1, *(put(b"k%d" % n, b"") for n in range(50)), number=number)
        result = group.one(command)
        if isinstance(result, Refused):
            break
        finish(group, command)
    refused(result, Code.RESOURCE_EXHAUSTED, "65536", "acknowledged_below")
    assert 5 < number < 60
    refused(group.one(Put(b"p", b"1", request(number))), Code.RESOURCE_EXHAUSTED)
    group.restart()
    refused(group.one(command), Code.RESOURCE_EXHAUSTED)
    for done in range(1, number):
        group.one(Forget(TransactionId(command.id.client_id, done), 0))
    later = command._replace(id=command.id._replace(acknowledged_below=number))
    assert isinstance(group.one(later), Vote)  # its own acknowledgement makes the room


def test_what_waits_for_locks_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant, "PARKED_BYTES_MAX", 1000)
    group = Group()
    group.one(prepare(1, put(b"k", b"held")))
    waiting = [group.one(Put(b"k", b"x" * 400, request(1, of=n))) for n in range(2, 5)]
    assert [type(one) for one in waiting] == [Waits, Waits, Refused]
    refused(waiting[2], Code.RESOURCE_EXHAUSTED, "1000", "retry later")


def test_large_parts_that_wait_count_in_all() -> None:
    group = Group(FEW)
    results = [group.one(prepare(n, put(b"k%d" % n, b"x" * 300_000))) for n in range(1, 6)]
    assert isinstance(results[-1], Refused)
    refused(results[-1], Code.RESOURCE_EXHAUSTED, "transactions")


# --- counted as it is, on every replica --------------------------------------------------------------------


def test_a_group_of_level_0_has_no_bound_of_bytes() -> None:
    group = Group(replace(FEW, level=0))
    for number in range(1, 60):
        ops = [*(put(b"k%d" % n, b"") for n in range(50)), get(b"k0")]
        assert isinstance(group.one(transact(request(number), *ops)), Transacted)


def test_the_bounds_are_those_of_the_log() -> None:
    few, many = Group(replace(FEW, level=0)), Group(MachineSettings(level=0))
    for group in (few, many):
        group.one(Configure(many.settings.limits, 1))  # of a leader that does not know them
        assert group.machine._settings.result_bytes_max == RESULT_BYTES_MAX
        group.one(Configure(many.settings.limits, byte_limits=FEW.byte_limits))
        group.restart()
        assert group.machine._settings.byte_limits == FEW.byte_limits
    assert few.machine.digest() == many.machine.digest()
    assert few.store.names == many.store.names


@settings(max_examples=100, deadline=None)
@given(ENTRIES)
def test_the_count_is_the_same_after_a_restart_and_0_in_the_end(entries: list[Entry]) -> None:
    group = Group()
    for entry in entries:
        group.entry(*entry.commands, stamp=entry.stamp)
    counted = group.machine.bytes_kept
    group.restart()
    assert group.machine.bytes_kept == counted
    for _ in range(4):
        group.entry(stamp=NOW + 9 * HOUR)
    assert group.machine.bytes_kept == 0


def test_a_client_s_own_count_is_the_same_after_a_restart() -> None:
    group = Group()
    for number in range(1, 6):
        finish(group, prepare(1, put(b"k", b"1"), number=2 * number))
        group.one(transact(request(2 * number + 1), put(b"a", b"1"), get(b"a"), delete(b"b")))
    session = group.machine._sessions.session_of(request(1).client_id)
    assert session is not None
    counted = session.extra_bytes
    assert counted > 0
    group.restart()
    session = group.machine._sessions.session_of(request(1).client_id)
    assert session is not None
    assert session.extra_bytes == counted
    group.one(Put(b"p", b"1", RequestId(request(1).client_id, 20, NOW, 20)))
    assert session.extra_bytes < counted
