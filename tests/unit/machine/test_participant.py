"""A group's part in transactions over several, message by message (PROTOCOL 2.1 to 2.6, 2.10)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.participant import Participant
from overdb_node.machine.types import (
    Acknowledged,
    Advance,
    Code,
    Command,
    Compare,
    Forget,
    Inquire,
    Operation,
    OperationKind,
    Operator,
    Outcome,
    Prepare,
    Put,
    Refused,
    RequestId,
    Resolve,
    Result,
    Target,
    Token,
    Transact,
    Transacted,
    TransactionId,
    Vote,
    VoteKind,
    Waits,
    Written,
)
from tests.unit.machine.helpers import HOUR, NOW, SECOND, Group, client, request

A, B = b"a", b"b"


def put(key: bytes, value: bytes = b"v") -> Operation:
    return Operation(OperationKind.PUT, key, value)


def get(key: bytes) -> Operation:
    return Operation(OperationKind.GET, key)


def prepare(
    of: int,
    *then: Operation,
    attempt: int = 0,
    age: int = 0,
    number: int = 1,
    below: int = 0,
    compares: tuple[Compare, ...] = (),
    otherwise: tuple[Operation, ...] = (),
    fingerprint: int = 7,
    created: int = NOW,
) -> Prepare:
    """Of a client of its own; ``age`` in microseconds after NOW, smaller is older."""
    identity = request(number, of, started_at=NOW + age, below=below, created=created)
    return Prepare(identity, attempt, (0, 1), fingerprint, compares, then, otherwise)


def identity(command: Prepare) -> TransactionId:
    return TransactionId(*command.id[:2])


def commit(
    command: Prepare, version: int, outcome: Outcome = Outcome.THEN, attempt: int = 0
) -> Resolve:
    return Resolve(identity(command), attempt, outcome, version)


def abort(command: Prepare, attempt: int = 0) -> Resolve:
    return Resolve(identity(command), attempt, Outcome.ABORTED, 0)


def inquire(command: Prepare, attempt: int = 0) -> Inquire:
    return Inquire(command.id, attempt, command.fingerprint, command.participants)


def forget(command: Prepare, attempt: int = 0) -> Forget:
    return Forget(identity(command), attempt)


def vote(result: Result) -> Vote:
    assert isinstance(result, Vote), result
    return result


@pytest.fixture
def group() -> Group:
    return Group()


# --- 2.1 ----------------------------------------------------------------------------------------------


def test_2_1_every_vote_and_every_write_has_a_timestamp_of_its_own(group: Group) -> None:
    results = group.entry(
        prepare(1, put(A)),
        Put(B, b"", request(1, 9)),
        prepare(2, put(b"c")),
        Put(b"d", b"", request(2, 9)),
    )
    versions = [r.version for r in results if isinstance(r, Vote | Written)]
    assert versions == list(range(versions[0], versions[0] + 4))
    assert versions[0] == group.machine.clock - 3 == NOW  # the first is the clock as it is


def test_2_1_a_commit_raises_the_clock_before_anything_that_it_sets_free(group: Group) -> None:
    first = prepare(1, put(A, b"1"))
    group.one(first)
    parked = Put(A, b"2", request(1, 9))
    assert isinstance(group.one(parked), Waits)
    waiting = prepare(2, put(A, b"3"), age=-5)
    assert isinstance(group.one(waiting), Waits)
    far = NOW + 30 * SECOND
    group.entry(commit(first, far))
    (ran, granted) = group.machine.take_released()
    assert ran == (Token(client(9), 1, 0), Written(far + 1))
    assert vote(granted[1]).version == far + 2
    assert group.store.newest(A, far) == (far, b"1")


def test_2_1_after_an_abort_the_clock_as_it_is_is_not_used_again(group: Group) -> None:
    first = prepare(1, put(A))
    group.one(first)
    group.one(Put(A, b"2", request(1, 9)))
    results = group.entry(abort(first), Put(B, b"", request(2, 9)))
    ((_, ran),) = group.machine.take_released()
    assert isinstance(ran, Written)
    assert isinstance(results[1], Written)
    assert results[1].version == ran.version + 1


def test_2_1_another_groups_timestamps_do_not_move_the_time_that_expiry_goes_by(
    group: Group,
) -> None:
    first = prepare(1, put(A))
    group.one(first)
    group.one(commit(first, NOW + 2 * HOUR))
    assert group.machine.clock == NOW + 2 * HOUR
    assert isinstance(group.one(Put(B, b"", request(1, 9))), Written)  # not expired


# --- 2.3 ----------------------------------------------------------------------------------------------


def test_2_3_a_vote_once_stored_is_answered_again_and_with_the_outcome(group: Group) -> None:
    first = prepare(1, put(A))
    given = vote(group.one(first))
    assert (given.kind, given.holds, given.outcome) == (VoteKind.PREPARED, True, None)
    assert group.one(first) == given
    group.one(commit(first, given.version + 5))
    again = vote(group.one(first))
    assert (again.version, again.outcome) == (given.version, Outcome.THEN)
    assert again.commit_version == given.version + 5


def test_2_3_a_copy_of_what_waits_is_remembered_and_nothing_else(group: Group) -> None:
    """(!) It does not enter the queues again, and no vote is given for it."""
    first, second = prepare(1, put(A)), prepare(2, put(A), age=-5)
    group.one(first)
    waits = group.one(second)
    assert isinstance(waits, Waits)
    assert group.one(second) == waits
    group.one(abort(first))
    ((token, granted),) = group.machine.take_released()
    assert token == waits.token
    assert vote(granted).kind is VoteKind.PREPARED
    group.one(abort(second))
    assert not group.machine.participant.locks


def test_2_3_a_message_of_an_older_attempt_changes_nothing(group: Group) -> None:
    """(!) Every kind: Prepare, Resolve, Inquire, Forget."""
    older = prepare(1, put(A, b"old"))
    newer = prepare(1, put(A, b"old"), attempt=1)
    group.entry(older, newer)
    before = group.machine.participant.digest_items()
    assert group.one(older) == Vote(VoteKind.SUPERSEDED, 1)
    assert group.one(abort(older)) == Acknowledged()
    assert vote(group.one(inquire(older))).kind is VoteKind.REFUSED
    assert group.one(forget(older)) == Acknowledged()
    assert set(group.machine.participant.open) == {identity(older)}
    assert group.machine.participant.open[identity(older)].attempt == 1
    assert group.machine.participant.digest_items() == before


@pytest.mark.parametrize("message", ["prepare", "abort", "inquire"])
@pytest.mark.parametrize("waits", [False, True])
def test_2_3_a_newer_attempt_first_aborts_the_older_one(
    group: Group, message: str, waits: bool
) -> None:
    """(!) For every kind of message; whoever waits behind it is let in."""
    first, older = prepare(9, put(A)), prepare(1, put(A), age=-5)
    if waits:
        group.one(first)
    group.one(older)
    follower = prepare(3, put(A), age=-9)
    assert isinstance(group.one(follower), Waits)
    newer = prepare(1, put(B), attempt=1, age=-5)
    commands: dict[str, Command] = {
        "prepare": newer,
        "abort": abort(newer, 1),
        "inquire": inquire(newer, 1),
    }
    command = commands[message]
    group.one(command)
    released = dict(group.machine.take_released())
    if waits:
        assert released.pop(Token(client(1), 1, 0)) == Vote(VoteKind.SUPERSEDED, 1)
        assert not released  # the first one holds the key still
        group.one(abort(first))
        released = dict(group.machine.take_released())
    assert vote(released[Token(client(3), 1, 0)]).kind is VoteKind.PREPARED


def test_2_3_stale_is_not_a_vote_and_stores_nothing(group: Group) -> None:
    """(!) The id is stale by a later request of the client, or expired."""
    group.one(Put(B, b"", request(5, 1, below=5)))
    assert vote(group.one(prepare(1, put(A)))).kind is VoteKind.STALE
    expired = prepare(2, put(A), created=NOW - 2 * HOUR)
    assert vote(group.one(expired)).kind is VoteKind.STALE
    assert vote(group.one(inquire(expired))).kind is VoteKind.REFUSED  # said, not stored
    assert group.one(abort(expired)) == Acknowledged()
    assert not list(group.machine.participant.transactions())


def test_2_3_wait_die_the_older_waits_the_younger_dies_with_the_rivals_name(group: Group) -> None:
    group.one(prepare(1, put(A)))
    died = vote(group.one(prepare(2, put(A), age=5)))
    assert (died.kind, died.again, died.key) == (VoteKind.REFUSED, True, A)
    assert died.rival == TransactionId(client(1), 1)
    assert died.refusal is not None
    assert client(1).hex() in died.refusal.message
    assert isinstance(group.one(prepare(3, put(A), age=-5)), Waits)
    # Older than the holder and younger than the one that waits ahead of it: it dies.
    assert vote(group.one(prepare(4, put(A), age=-3))).kind is VoteKind.REFUSED


def test_2_3_grants_are_first_in_first_out(group: Group) -> None:
    """An older one never passes a younger one that waits ahead of it."""
    first = prepare(1, put(A))
    second, third = prepare(2, put(A), age=-5), prepare(3, put(A), age=-9)
    group.entry(first, second, third)
    group.one(abort(first))
    ((token, _),) = group.machine.take_released()
    assert token.client_id == client(2)


def test_2_3_shared_locks_go_together_and_block_writers(group: Group) -> None:
    for number in (1, 2):
        assert vote(group.one(prepare(number, get(A)))).kind is VoteKind.PREPARED
    writer = prepare(3, put(A), age=-5)
    assert isinstance(group.one(writer), Waits)
    # A reader behind the writer does not pass it.
    assert isinstance(group.one(prepare(4, get(A), age=-9)), Waits)
    group.one(abort(prepare(1)))
    assert not group.machine.take_released()
    group.one(abort(prepare(2)))
    ((token, _),) = group.machine.take_released()
    assert token.client_id == client(3)


def test_2_3_the_vote_has_what_both_branches_read_in_their_order(group: Group) -> None:
    group.one(Put(A, b"5", request(1, 9)))
    version = group.machine.clock
    add = Operation(OperationKind.ADD, A, delta=2)
    given = vote(
        group.one(
            prepare(
                1,
                get(A), add, get(A), Operation(OperationKind.DELETE, A), get(A),
                compares=(Compare(A, Operator.EQUAL, Target.VALUE, b"6"),),
                otherwise=(get(A), put(B), get(B)),
            )
        )
    )  # fmt: skip
    assert not given.holds
    assert not isinstance(given.then, Refused)
    assert not isinstance(given.otherwise, Refused)
    assert [(r.found, r.value, r.version) for r in given.then] == [
        (True, b"5", version), (True, b"7", 0), (True, b"7", 0), (True, b"", 0), (False, b"", 0),
    ]  # fmt: skip
    assert [(r.found, r.value) for r in given.otherwise] == [
        (True, b"5"),
        (False, b""),
        (True, b"v"),
    ]


def test_2_3_an_operation_that_cannot_run_is_an_error_of_its_branch_alone(group: Group) -> None:
    group.one(Put(A, b"text", request(1, 9)))
    command = prepare(1, put(B), Operation(OperationKind.ADD, A, delta=1), otherwise=(get(A),))
    given = vote(group.one(command))
    assert given.kind is VoteKind.PREPARED
    assert isinstance(given.then, Refused)
    assert given.then.code is Code.INVALID_ARGUMENT
    assert not isinstance(given.otherwise, Refused)
    group.one(commit(command, given.version, Outcome.NONE))
    assert group.value(B) is None  # without effect
    assert not group.machine.participant.locks


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (prepare(1, put(b"")), Code.INVALID_ARGUMENT),
        (prepare(1, put(A, b"x" * (1 << 21))), Code.INVALID_ARGUMENT),
        (prepare(1), Code.INVALID_ARGUMENT),
        (prepare(1, put(A), age=120 * SECOND), Code.INVALID_ARGUMENT),
    ],
)
def test_2_3_what_is_malformed_is_refused_for_good(
    group: Group, command: Prepare, code: Code
) -> None:
    given = vote(group.one(command))
    assert (given.kind, given.again) == (VoteKind.REFUSED, False)
    assert given.refusal is not None
    assert given.refusal.code is code
    assert group.one(command) == given


# --- 2.4 ----------------------------------------------------------------------------------------------


def test_2_4_a_commit_writes_its_branch_at_the_commit_timestamp_once(group: Group) -> None:
    command = prepare(1, put(A, b"1"), otherwise=(put(A, b"2"),))
    given = vote(group.one(command))
    at = given.version + 100
    assert group.value(A) is None
    for _ in range(2):
        assert group.one(commit(command, at, Outcome.OTHERWISE)) == Acknowledged()
    assert group.store.newest(A) == (at, b"2")
    assert list(group.store.versions[A]) == [at]


def test_2_4_an_abort_frees_the_keys_and_writes_nothing(group: Group) -> None:
    command = prepare(1, put(A))
    group.one(command)
    group.one(abort(command))
    assert group.value(A) is None
    assert isinstance(group.one(Put(A, b"", request(1, 9))), Written)


def test_2_4_an_abort_that_finds_no_record_stores_a_refused(group: Group) -> None:
    """(!) The Prepare that comes after it must not lock anything."""
    command = prepare(1, put(A))
    group.one(abort(command))
    assert vote(group.one(command)).kind is VoteKind.REFUSED
    assert not group.machine.participant.locks


def test_2_4_an_abort_takes_one_that_waits_out_of_the_queues(group: Group) -> None:
    first, second = prepare(1, put(A)), prepare(2, put(A), age=-5)
    group.entry(first, second)
    group.one(abort(second))
    ((token, given),) = group.machine.take_released()
    assert token == Token(client(2), 1, 0)
    assert vote(given).kind is VoteKind.REFUSED
    group.one(abort(first))
    assert not group.machine.participant.locks


@pytest.mark.parametrize(
    "contradiction",
    [
        lambda c, _: abort(c),
        lambda c, at: commit(c, at + 1),
        lambda c, at: commit(c, at, Outcome.OTHERWISE),
        lambda c, _: c._replace(attempt=1),
        lambda c, _: inquire(c, 1),
    ],
)
def test_2_4_what_contradicts_a_commit_is_refused_and_raises_an_alarm(
    group: Group, contradiction: Callable[[Prepare, int], Resolve]
) -> None:
    command = prepare(1, put(A, b"1"))
    at = vote(group.one(command)).version
    group.one(commit(command, at))
    result = group.one(contradiction(command, at))
    assert isinstance(result, Refused)
    assert result.code is Code.DATA_LOSS
    assert len(group.machine.participant.alarms) == 1
    assert group.store.newest(A) == (at, b"1")


# --- 2.5 ----------------------------------------------------------------------------------------------


def test_2_5_an_inquiry_answers_the_vote(group: Group) -> None:
    command = prepare(1, put(A))
    given = vote(group.one(command))
    asked = vote(group.one(inquire(command)))
    assert asked == given._replace(then=(), otherwise=())  # a finisher has no use for results


def test_2_5_an_inquiry_without_a_record_is_a_fence(group: Group) -> None:
    command = prepare(1, put(A))
    assert vote(group.one(inquire(command))).kind is VoteKind.REFUSED
    group.restart()
    assert vote(group.one(command)).kind is VoteKind.REFUSED
    assert vote(group.one(command._replace(attempt=1))).kind is VoteKind.PREPARED


def test_2_5_an_inquiry_refuses_one_that_waits(group: Group) -> None:
    first, second, third = (
        prepare(1, put(A)),
        prepare(2, put(A), age=-5),
        prepare(3, put(A), age=-9),
    )
    group.entry(first, second, third)
    assert vote(group.one(inquire(second))).kind is VoteKind.REFUSED
    group.machine.take_released()
    group.one(abort(first))
    ((token, _),) = group.machine.take_released()
    assert token.client_id == client(3)


# --- 2.6 ----------------------------------------------------------------------------------------------


def test_2_6_a_write_on_a_held_key_is_parked_and_runs_at_the_release(group: Group) -> None:
    first = prepare(1, put(A, b"1"))
    at = vote(group.one(first)).version
    parked = Put(A, b"2", request(1, 9))
    waits = group.one(parked)
    assert isinstance(waits, Waits)
    assert group.one(parked) == waits  # (!) a copy waits for the same result
    group.one(commit(first, at))
    ((token, ran),) = group.machine.take_released()
    assert token == waits.token
    assert group.one(parked) == ran  # and never runs again
    assert [value for _, value in sorted(group.store.versions[A].items())] == [b"1", b"2"]


def test_2_6_a_shared_lock_parks_writers_and_no_readers(group: Group) -> None:
    group.one(prepare(1, get(A)))
    assert isinstance(group.one(Put(A, b"", request(1, 9))), Waits)
    reading = Transact(request(2, 9), (), (get(A),), ())
    assert isinstance(group.one(reading), Transacted)


def test_2_6_parked_ones_run_in_log_order_before_waiters_are_granted(group: Group) -> None:
    first = prepare(1, put(A))
    group.one(first)
    waiter = prepare(2, put(A), age=-5)
    group.one(waiter)
    group.entry(*(Put(A, b"%d" % n, request(n, 9)) for n in (1, 2, 3)))
    group.one(abort(first))
    released = group.machine.take_released()
    assert [token.client_id for token, _ in released] == [client(9)] * 3 + [client(2)]
    assert [token.request_number for token, _ in released[:3]] == [1, 2, 3]


def test_2_6_a_parked_one_that_is_oldest_is_in_the_way_of_later_ones(group: Group) -> None:
    """So it does not starve: what comes after it waits or dies against it."""
    first = prepare(1, put(A))
    group.one(first)
    parked = Put(A, b"2", RequestId(client(9), 1, NOW - 5, 0))
    group.one(parked)
    assert vote(group.one(prepare(2, put(A), age=-3))).rival == TransactionId(client(9), 1)
    older = prepare(3, put(A), age=-9)
    assert isinstance(group.one(older), Waits)
    group.one(abort(first))
    assert [token.client_id for token, _ in group.machine.take_released()] == [client(9), client(3)]


def test_2_6_a_read_waits_for_a_vote_without_an_outcome_only(group: Group) -> None:
    participant: Participant = group.machine.participant
    first, waiting = prepare(1, put(A), get(B)), prepare(2, put(A), put(b"c"), age=-5)
    at = vote(group.one(first)).version
    group.one(waiting)
    assert participant.reader_waits(A, None)
    assert not participant.reader_waits(B, None)  # shared
    assert not participant.reader_waits(b"c", None)  # held by one that has no vote
    assert participant.reader_waits(A, at)
    assert not participant.reader_waits(A, at - 1)  # it will be committed above


def test_2_6_what_is_parked_is_bounded_and_the_refusal_is_not_kept() -> None:
    """All of it runs in one entry, so there must not be too much of it."""
    group = Group(MachineSettings(parked_keys_max=2))
    first = prepare(1, put(A))
    group.one(first)
    waiting = [group.one(Put(A, b"", request(n, 9))) for n in (1, 2)]
    assert all(isinstance(one, Waits) for one in waiting)
    refused = group.one(Put(A, b"", request(3, 9)))
    assert isinstance(refused, Refused)
    assert refused.code is Code.RESOURCE_EXHAUSTED
    assert isinstance(group.one(Put(B, b"", request(4, 9))), Written)  # a free key
    group.one(abort(first))
    assert isinstance(group.one(Put(A, b"", request(3, 9))), Written)  # the same id runs now


def test_2_3_a_client_that_acknowledges_nothing_is_bounded() -> None:
    group = Group(MachineSettings(unacknowledged_per_client_max=2))
    for number in (1, 2):
        assert isinstance(group.one(prepare(1, put(b"%d" % number), number=number)), Vote)
    refused = group.one(prepare(1, put(A), number=3))
    assert isinstance(refused, Refused)
    assert refused.code is Code.RESOURCE_EXHAUSTED


# --- 2.10 ---------------------------------------------------------------------------------------------


def acknowledged(group: Group, of: int = 1) -> None:
    """A later request of the same client says that it has its answer."""
    group.one(Put(b"later", b"", request(2, of, below=2)))


def committed(group: Group) -> Prepare:
    command = prepare(1, put(A))
    group.one(commit(command, vote(group.one(command)).version))
    return command


def test_2_10_a_committed_record_goes_with_forget_and_the_clients_word_both(group: Group) -> None:
    """(!) As a fact in this group's own log, in either order."""
    command = committed(group)
    group.one(forget(command))
    assert vote(group.one(command)).outcome is Outcome.THEN  # a retry is answered
    acknowledged(group)
    assert not list(group.machine.participant.transactions())
    assert vote(group.one(command)).kind is VoteKind.STALE


def test_2_10_the_clients_word_first_then_forget(group: Group) -> None:
    command = committed(group)
    acknowledged(group)
    assert vote(group.one(command)).outcome is Outcome.THEN  # (!) a stored record is answered first
    group.one(forget(command))
    assert not list(group.machine.participant.transactions())


def test_2_10_forget_of_another_attempt_counts_for_nothing(group: Group) -> None:
    command = prepare(1, put(A), attempt=1)
    group.one(Resolve(identity(command), 1, Outcome.THEN, vote(group.one(command)).version))
    acknowledged(group)
    group.one(forget(command, attempt=0))
    assert list(group.machine.participant.transactions())


def test_2_10_an_open_record_never_goes_a_refused_one_with_the_clients_word(group: Group) -> None:
    group.one(prepare(1, put(A)))
    refused = prepare(2, put(A), age=5)
    group.one(refused)
    for of in (1, 2):
        acknowledged(group, of)
    assert set(group.machine.participant.open) == {TransactionId(client(1), 1)}
    assert len(list(group.machine.participant.transactions())) == 1


def test_2_10_an_expired_client_takes_its_records_along() -> None:
    group = Group(MachineSettings(client_id_lifetime_us=10 * SECOND))
    command = committed(group)
    group.one(forget(command))
    group.one(inquire(prepare(2, put(B))))  # a fence of a client that was never seen
    group.one(Advance(0), stamp=NOW + 11 * SECOND)
    assert not list(group.machine.participant.transactions())
    assert not [name for name in group.store.names if name.startswith(b"t")]
    assert vote(group.one(command, stamp=NOW + 11 * SECOND)).kind is VoteKind.STALE


# --- one id, one request ------------------------------------------------------------------------------


def test_an_id_is_for_one_request_in_a_group_or_over_several(group: Group) -> None:
    command = prepare(1, put(A))
    group.one(command)
    other = command._replace(fingerprint=8)
    answer = vote(group.one(other))
    assert answer.kind is VoteKind.REUSED
    assert answer.refusal is not None
    assert "over several groups (0, 1)" in answer.refusal.message
    assert vote(group.one(inquire(other))).kind is VoteKind.REFUSED
    single = Put(B, b"", request(1, 1))
    refused = group.one(single)
    assert isinstance(refused, Refused)
    assert client(1).hex() in refused.message
    group.one(Put(B, b"", request(1, 9)))
    assert vote(group.one(prepare(9, put(B)))).kind is VoteKind.REUSED
    group.one(Put(A, b"", request(2, 9)))  # parked
    assert vote(group.one(prepare(9, put(B), number=2))).kind is VoteKind.REUSED


# --- restart ------------------------------------------------------------------------------------------


def test_a_restart_keeps_locks_queues_votes_and_what_is_parked() -> None:
    """FAULTS 43: all of it is in the records, so it is in every snapshot too."""

    def play(*, restart: bool) -> tuple[str, list[tuple[Token, Result]]]:
        group = Group()
        first = prepare(1, put(A, b"1"), get(B))
        steps = (
            first,
            prepare(2, put(A, b"2"), put(B), age=-5),
            Put(A, b"3", RequestId(client(8), 1, NOW - 7, 0)),
            Transact(request(1, 9), (), (get(B), put(A, b"4")), ()),
            prepare(3, get(A), age=-9),
            inquire(prepare(4, put(A))),
            commit(first, NOW + 50),
            abort(prepare(2)),
            abort(prepare(3)),
        )
        released = []
        for step in steps:
            group.one(step)
            released += group.machine.take_released()
            if restart:
                group.restart()
        assert not group.machine.participant.locks
        return group.machine.digest(), released

    assert play(restart=True) == play(restart=False)
