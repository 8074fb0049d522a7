"""Tests of the tests: each sentence marked (!) in PROTOCOL section 2 switched off, and seen to go red.

A variant breaks one sentence in the code of production, and names what must notice: the search of
schedules, or the test of that paragraph. Each trial is green without its variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from overdb.internal.v1 import shard_pb2
from overdb_node import finishing, reads
from overdb_node.machine import records
from overdb_node.machine.clock import Clock
from overdb_node.machine.decision import decide
from overdb_node.machine.locks import Age, Locks
from overdb_node.machine.participant import Participant
from overdb_node.machine.sessions import Sessions
from overdb_node.machine.types import (
    Acknowledged,
    Forget,
    Outcome,
    Prepare,
    RequestId,
    Resolve,
    Result,
    Vote,
    VoteKind,
    Waits,
)
from overdb_router import snapshots
from overdb_router.double_collect import DoubleCollect, Step
from overdb_router.txn import types as txn
from overdb_router.txn.commit import Commit
from tests.simulation.transactions.checks import check
from tests.simulation.transactions.world import World, router_vote
from tests.unit.machine import test_participant as directed
from tests.unit.machine.helpers import Group

Patch = pytest.MonkeyPatch
SCHEDULES_MAX = 3000  # the budget of a variant; nearly all are caught within a few dozen


def search() -> None:
    """Schedules, until the first that breaks something that is promised."""
    for seed in range(SCHEDULES_MAX):
        world = World(seed)
        world.run()
        check(world)


# --- directed trials that no test of one group alone can be ----------------------------------------------


def two_never_wait_for_each_other() -> None:
    """2.2, 2.3: two transactions that meet in two groups in different orders."""
    one, two = Group(), Group()
    first, second = (
        directed.prepare(1, directed.put(b"a")),
        directed.prepare(2, directed.put(b"a"), age=5),
    )
    results = [one.one(first), one.one(second), two.one(second), two.one(first)]
    assert sum(isinstance(result, Waits) for result in results) < 2, "a deadlock"


def acknowledgements_of_an_older_attempt_count_for_nothing() -> None:
    """2.2: Forget follows when all have acknowledged this attempt's Resolve."""
    commit = Commit((0, 1), own_id=False)
    commit.start()
    commit.vote(0, txn.Refused(0, "rival", again=True))
    commit.wake()
    for group in (0, 1):
        commit.vote(group, txn.Prepared(1, True, 5))
    late = [*commit.resolved(0, 0), *commit.resolved(1, 0)]
    assert not late, "forgotten before everybody knows"


def a_stale_id_is_left_alone() -> None:
    """2.3: one group has forgotten what the other one still keeps, and a late copy comes by."""
    groups = [Group(), Group()]
    command = directed.prepare(1, directed.put(b"a"))
    versions = [directed.vote(group.one(command)).version for group in groups]
    for group in groups:
        group.one(directed.commit(command, max(versions)))
    groups[0].one(directed.forget(command))
    directed.acknowledged(groups[0])
    commit = Commit((0, 1), own_id=False)
    actions: list[txn.Action] = commit.start()
    while actions:
        action = actions.pop(0)
        if isinstance(action, txn.Prepare):
            answer = directed.vote(
                groups[action.group].one(command._replace(attempt=action.attempt))
            )
            actions += commit.vote(action.group, router_vote(answer, action.group))
        elif isinstance(action, txn.Resolve):
            resolve = Resolve(
                directed.identity(command), action.attempt, Outcome(action.branch), action.version
            )
            groups[action.group].one(resolve)
        elif isinstance(action, txn.Backoff):
            actions += commit.wake()
        assert not any(group.machine.participant.alarms for group in groups), "an abort of a commit"


def giving_up_is_not_knowing() -> None:
    """2.3: the attempt that was aborted is not the last, another router runs the next one."""
    groups = [Group(), Group()]
    command = directed.prepare(1, directed.put(b"a"))
    groups[0].one(directed.prepare(9, directed.put(b"a"), age=-9))
    commit = Commit((0, 1), own_id=False)
    commit.start()
    for number, group in enumerate(groups):
        commit.vote(number, router_vote(directed.vote(group.one(command)), number))
    verdicts = [a.verdict for a in commit.give_up() if isinstance(a, txn.Verdict)]
    groups[0].one(directed.abort(directed.prepare(9)))
    again = command._replace(attempt=1)
    votes = [directed.vote(group.one(again)) for group in groups]
    assert all(vote.kind is VoteKind.PREPARED for vote in votes)  # so it is committed
    assert not any(isinstance(one, txn.NotRun | txn.Failed) for one in verdicts), "a lie"


def a_finisher_acts_while_its_own_vote_is_open() -> None:
    """2.5: an answer that comes when the transaction is over, and forgotten elsewhere."""
    own, other = Group(), Group()
    command = directed.prepare(1, directed.put(b"a"))
    votes = [directed.vote(group.one(command)) for group in (own, other)]
    transaction = own.machine.participant.open[directed.identity(command)]
    at = max(vote.version for vote in votes)
    for group in (own, other):
        group.one(directed.commit(command, at))
    other.one(directed.forget(command))
    directed.acknowledged(other)
    late = directed.vote(other.one(directed.inquire(command)))
    outcome = decide(transaction.id, 0, [votes[0], late])
    assert outcome is not None
    replica = SimpleNamespace(machine=own.machine, raft=SimpleNamespace(serves=True))
    finisher: Any = SimpleNamespace(_replica=replica)
    if finishing.Finisher._is_still_open(finisher, transaction):
        own.one(outcome)
    assert not own.machine.participant.alarms, "an abort of a commit"


def a_set_is_read_in_one_state() -> None:
    """2.6: keys that one transaction writes are never seen half."""
    group = Group()
    command = directed.prepare(1, directed.put(b"a", b"1"), directed.put(b"b", b"1"))
    at = directed.vote(group.one(command)).version
    read = shard_pb2.Read(set=shard_pb2.ReadSet(keys=[b"b", b"c", b"a"]))
    assert reads.is_blocked(group.machine, read), "it may have been acknowledged already"
    group.one(directed.commit(command, at))
    assert not reads.is_blocked(group.machine, read)


DIRECTED = (
    two_never_wait_for_each_other,
    acknowledgements_of_an_older_attempt_count_for_nothing,
    a_stale_id_is_left_alone,
    giving_up_is_not_knowing,
    a_finisher_acts_while_its_own_vote_is_open,
    a_set_is_read_in_one_state,
)


@pytest.mark.parametrize("trial", DIRECTED, ids=lambda trial: trial.__name__)
def test_the_trial_is_green(trial: Callable[[], None]) -> None:
    trial()


# --- variants ------------------------------------------------------------------------------------------


def one_timestamp_for_several_writes(patch: Patch) -> None:
    patch.setattr(Clock, "take", lambda clock: clock.value)


def release_before_the_clock_is_raised(patch: Patch) -> None:
    patch.setattr(Clock, "advance", lambda *_: None)


def expiry_by_other_groups_timestamps(patch: Patch) -> None:
    advance = Clock.advance

    def broken(clock: Clock, version: int) -> None:
        advance(clock, version)
        clock.physical = max(clock.physical, version)

    patch.setattr(Clock, "advance", broken)


def age_by_arrival(patch: Patch) -> None:
    arrivals: Iterator[int] = iter(range(0, -1000, -1))

    def broken(request: RequestId) -> Age:
        return Age(next(arrivals), request.client_id, request.request_number)

    patch.setattr(records, "age_of", broken)


def votes_of_any_attempt_count(patch: Patch) -> None:
    vote = Commit.vote

    def broken(commit: Commit, group: int, given: txn.Vote) -> list[txn.Action]:
        if isinstance(given, txn.Prepared):
            given = txn.Prepared(commit.attempt, given.holds, given.version, payload=given.payload)
        return vote(commit, group, given)

    patch.setattr(Commit, "vote", broken)


def acknowledgements_of_any_attempt_count(patch: Patch) -> None:
    resolved = Commit.resolved
    patch.setattr(
        Commit, "resolved", lambda commit, group, _: resolved(commit, group, commit.attempt)
    )


def forget_of_any_attempt_counts(patch: Patch) -> None:
    forget = Participant.forget

    def broken(participant: Participant, command: Forget) -> Result:
        stored = participant.find_id(command.id)
        return forget(participant, command._replace(attempt=stored.attempt if stored else 0))

    patch.setattr(Participant, "forget", broken)


def a_copy_of_a_waiting_prepare_queues_up_again(patch: Patch) -> None:
    again = Participant._prepare_again

    def broken(
        participant: Participant, stored: records.Transaction, command: Prepare
    ) -> Result | None:
        if stored.vote is None and stored.attempt == command.attempt:
            return participant._lock(stored)
        return again(participant, stored, command)

    patch.setattr(Participant, "_prepare_again", broken)


def an_older_prepare_gets_the_newer_vote(patch: Patch) -> None:
    again = Participant._prepare_again

    def broken(
        participant: Participant, stored: records.Transaction, command: Prepare
    ) -> Result | None:
        if command.attempt < stored.attempt and stored.vote is not None:
            return stored.vote._replace(attempt=command.attempt)
        return again(participant, stored, command)

    patch.setattr(Participant, "_prepare_again", broken)


def an_older_resolve_counts(patch: Patch) -> None:
    resolve = Participant.resolve

    def broken(participant: Participant, command: Resolve) -> Result:
        stored = participant.find_id(command.id)
        if stored is not None and command.attempt < stored.attempt:
            command = command._replace(attempt=stored.attempt)
        return resolve(participant, command)

    patch.setattr(Participant, "resolve", broken)


def a_newer_attempt_leaves_the_older_one_open(patch: Patch) -> None:
    abort = Participant._abort

    def broken(
        participant: Participant, transaction: records.Transaction, superseded_by: int | None = None
    ) -> None:
        if superseded_by is None:
            abort(participant, transaction)

    patch.setattr(Participant, "_abort", broken)


def stale_taken_for_a_refusal(patch: Patch) -> None:
    vote = Commit.vote

    def broken(commit: Commit, group: int, given: txn.Vote) -> list[txn.Action]:
        if isinstance(given, txn.Stale):
            given = txn.Refused(commit.attempt, given.error, again=True)
        return vote(commit, group, given)

    patch.setattr(Commit, "vote", broken)


def giving_up_says_not_run(patch: Patch) -> None:
    give_up = Commit.give_up

    def broken(commit: Commit) -> list[txn.Action]:
        commit._own_id = True
        return give_up(commit)

    patch.setattr(Commit, "give_up", broken)


def an_abort_without_a_record_stores_nothing(patch: Patch) -> None:
    patch.setattr(Participant, "_fence", lambda *_: Vote(VoteKind.REFUSED, 0))


def an_abort_of_a_stale_id_is_stored(patch: Patch) -> None:
    patch.setattr(Participant, "_is_gone", lambda *_: False)


def a_finisher_acts_on_old_answers(patch: Patch) -> None:
    patch.setattr(finishing.Finisher, "_is_still_open", lambda *_: True)


def a_copy_of_a_parked_request_runs(patch: Patch) -> None:
    patch.setattr(Participant, "stored_answer", lambda *_: None)


def a_set_is_read_key_by_key(patch: Patch) -> None:
    waits = reads.blocking_key

    def broken(machine: Any, read: shard_pb2.Read) -> bytes | None:
        return None if read.HasField("set") else waits(machine, read)

    patch.setattr(reads, "blocking_key", broken)


def a_snapshot_at_some_groups_clock(patch: Patch) -> None:
    patch.setattr(snapshots, "newest_of", min)


def strict_reads_in_one_round(patch: Patch) -> None:
    confirmed = DoubleCollect.confirmed

    def broken(collect: DoubleCollect, part: int, *, unchanged: bool) -> Step:
        return confirmed(collect, part, unchanged=True)

    patch.setattr(DoubleCollect, "confirmed", broken)


def forgotten_before_the_client_has_its_answer(patch: Patch) -> None:
    def broken(participant: Participant, transaction: records.Transaction) -> None:
        if participant._is_droppable(transaction):
            participant._drop(transaction)

    patch.setattr(Participant, "_drop_if_gone", broken)


def staleness_before_the_stored_answer(patch: Patch) -> None:
    prepare = Participant.prepare

    def broken(participant: Participant, command: Prepare) -> Result:
        if participant._is_gone(records.identity_of(command.id)):
            return Vote(VoteKind.STALE, command.attempt, refusal=participant._stale(command.id))
        return prepare(participant, command)

    patch.setattr(Participant, "prepare", broken)


# Besides the marked sentences, what else was found likely (and the list of FAULTS).


def locks_granted_oldest_first(patch: Patch) -> None:
    promote = Locks.promote

    def broken(locks: Locks, keys: Any) -> Any:
        for queue in locks._queues.values():
            queue.entries.sort(key=lambda one: (one not in queue.held, one.age))
        return promote(locks, keys)

    patch.setattr(Locks, "promote", broken)


def dedup_off(patch: Patch) -> None:
    patch.setattr(Sessions, "find", lambda *_: None)


def nobody_dies(patch: Patch) -> None:
    patch.setattr(Locks, "rival", lambda *_: None)


def readers_look_through_locks(patch: Patch) -> None:
    patch.setattr(Participant, "reader_waits", lambda *_: False)


def writes_look_through_locks(patch: Patch) -> None:
    patch.setattr(Participant, "park", lambda *_: None)


def a_lock_freed_without_an_outcome(patch: Patch) -> None:
    vote = Participant._vote

    def broken(participant: Participant, transaction: records.Transaction) -> Vote:
        given = vote(participant, transaction)
        assert isinstance(given, Vote)
        participant.locks.leave(transaction)
        return given

    patch.setattr(Participant, "_vote", broken)


def a_vote_that_changes(patch: Patch) -> None:
    inquire = Participant.inquire

    def broken(participant: Participant, command: Any) -> Result:
        stored = participant.find(command.id)
        if stored is not None and stored.is_open and stored.attempt == command.attempt:
            participant._abort(stored)
            return Vote(VoteKind.REFUSED, command.attempt)
        return inquire(participant, command)

    patch.setattr(Participant, "inquire", broken)


def the_commit_at_the_own_vote(patch: Patch) -> None:
    commit = Participant._commit

    def broken(participant: Participant, stored: records.Transaction, command: Resolve) -> Result:
        if stored.is_open and stored.vote is not None:
            command = command._replace(version=stored.vote.version)
        elif stored.is_committed:
            return Acknowledged()
        return commit(participant, stored, command)

    patch.setattr(Participant, "_commit", broken)


def a_branch_by_the_own_compares(patch: Patch) -> None:
    commit = Participant._commit

    def broken(participant: Participant, stored: records.Transaction, command: Resolve) -> Result:
        if stored.is_open and stored.vote is not None:
            own = Outcome.THEN if stored.vote.holds else Outcome.OTHERWISE
            command = command._replace(outcome=own)
        elif stored.is_committed:
            return Acknowledged()
        return commit(participant, stored, command)

    patch.setattr(Participant, "_commit", broken)


def on(test: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    """A test of one group as a trial."""

    def trial() -> None:
        test(Group(), *arguments)

    return trial


VARIANTS: tuple[tuple[Callable[[Patch], None], Callable[[], None]], ...] = (
    (one_timestamp_for_several_writes, search),
    (release_before_the_clock_is_raised, search),
    (
        expiry_by_other_groups_timestamps,
        on(directed.test_2_1_another_groups_timestamps_do_not_move_the_time_that_expiry_goes_by),
    ),
    (age_by_arrival, two_never_wait_for_each_other),
    (votes_of_any_attempt_count, search),
    (acknowledgements_of_any_attempt_count, acknowledgements_of_an_older_attempt_count_for_nothing),
    (
        forget_of_any_attempt_counts,
        on(directed.test_2_10_forget_of_another_attempt_counts_for_nothing),
    ),
    (a_copy_of_a_waiting_prepare_queues_up_again, search),
    (an_older_prepare_gets_the_newer_vote, search),
    (an_older_resolve_counts, search),
    (a_newer_attempt_leaves_the_older_one_open, search),
    (stale_taken_for_a_refusal, a_stale_id_is_left_alone),
    (giving_up_says_not_run, giving_up_is_not_knowing),
    (
        an_abort_without_a_record_stores_nothing,
        on(directed.test_2_4_an_abort_that_finds_no_record_stores_a_refused),
    ),
    (
        an_abort_of_a_stale_id_is_stored,
        on(directed.test_2_3_stale_is_not_a_vote_and_stores_nothing),
    ),
    (a_finisher_acts_on_old_answers, a_finisher_acts_while_its_own_vote_is_open),
    (a_copy_of_a_parked_request_runs, search),
    (a_set_is_read_key_by_key, a_set_is_read_in_one_state),
    (a_snapshot_at_some_groups_clock, search),
    (strict_reads_in_one_round, search),
    (forgotten_before_the_client_has_its_answer, search),
    (
        staleness_before_the_stored_answer,
        on(directed.test_2_10_the_clients_word_first_then_forget),
    ),
    (locks_granted_oldest_first, on(directed.test_2_3_grants_are_first_in_first_out)),
    (dedup_off, search),
    (nobody_dies, two_never_wait_for_each_other),
    (readers_look_through_locks, search),
    (writes_look_through_locks, search),
    (a_lock_freed_without_an_outcome, search),
    (a_vote_that_changes, search),
    (the_commit_at_the_own_vote, search),
    (a_branch_by_the_own_compares, search),
)


@pytest.mark.parametrize(
    ("variant", "trial"), VARIANTS, ids=lambda one: getattr(one, "__name__", "")
)
def test_a_broken_build_goes_red(
    variant: Callable[[Patch], None], trial: Callable[[], None], monkeypatch: Patch
) -> None:
    variant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - red in any way
        trial()
