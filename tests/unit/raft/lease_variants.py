"""Cores whose leases are broken in one way each, as those of ``variants``.

Each function breaks one sentence of PROTOCOL 1.3.
"""

from __future__ import annotations

from typing import Any

from pytest import MonkeyPatch  # noqa: PT013  # it is the type of every argument here

from overdb_node.raft.core import Raft
from overdb_node.raft.election import Election
from overdb_node.raft.errors import NotLeader
from overdb_node.raft.leading import Leading
from overdb_node.raft.lease import Lease
from overdb_node.raft.messages import Answer


def lease_never_expires(patch: MonkeyPatch) -> None:
    """FAULTS 24: a read does not look at the time."""
    whole = Raft.read

    def read(self: Raft, read: object, now_us: int = 0) -> int | None:
        if self.serves and now_us and self.lease._until and self.leading.committed_in_term:
            return self.commit_index
        return whole(self, read, now_us)

    patch.setattr(Raft, "read", read)


def old_time(patch: MonkeyPatch) -> None:
    """FAULTS 24: a read looks at the time of the last tick."""
    whole = Raft.read

    def read(self: Raft, read: object, now_us: int = 0) -> int | None:
        if not self.serves:
            raise NotLeader
        return whole(self, read, self.lease._now if now_us else 0)

    patch.setattr(Raft, "read", read)


def begins_with_the_answer(patch: MonkeyPatch) -> None:
    """1.3 (!): a promise counts from when its answer came."""
    whole = Raft.receive

    def receive(self: Raft, sender: int, message: Any) -> None:
        if isinstance(message, Answer) and message.promise_us and self.lease._begun:
            number = self.lease._begun[-1][0]
            self.lease._begun = [(min(number, message.round), self.lease._now)]
        whole(self, sender, message)

    patch.setattr(Raft, "receive", receive)


def any_round_counts(patch: MonkeyPatch) -> None:
    """1.3 (!): an answer is taken for one of the newest round."""
    whole = Lease.answered

    def answered(self: Lease, replica: int, answer: Answer) -> None:
        newest = self._raft.leading.round
        whole(self, replica, Answer(answer.term, newest, True, 0, 0, answer.promise_us))

    patch.setattr(Lease, "answered", answered)


def all_answers_promise(patch: MonkeyPatch) -> None:
    """1.3 (!): an answer without a promise is taken for one with the own."""
    whole = Lease.answered

    def answered(self: Lease, replica: int, answer: Answer) -> None:
        own = self._raft.settings.promise_us
        whole(self, replica, Answer(answer.term, answer.round, True, 0, 0, own))

    patch.setattr(Lease, "answered", answered)


def own_timeout_for_all(patch: MonkeyPatch) -> None:
    """1.3: every promise is taken to be as long as the own."""
    whole = Lease.answered

    def answered(self: Lease, replica: int, answer: Answer) -> None:
        own = self._raft.settings.promise_us if answer.promise_us else 0
        whole(self, replica, Answer(answer.term, answer.round, True, 0, 0, own))

    patch.setattr(Lease, "answered", answered)


def one_promise_will_do(patch: MonkeyPatch) -> None:
    """Dissertation 6.4.1: not a majority, but anybody."""

    def count(self: Lease) -> None:
        self._until = max(self._promised.values(), default=0)

    patch.setattr(Lease, "count", count)


def lease_before_the_own_commit(patch: MonkeyPatch) -> None:
    """1.3, FAULTS 22: nothing of the own term need be committed."""
    patch.setattr(Lease, "covers", lambda self, now_us: now_us < self._until)


def lease_outlives_a_transfer(patch: MonkeyPatch) -> None:
    """1.3 (!): leases go on after a transfer was begun."""
    whole = Leading.transfer

    def transfer(self: Leading, to: int) -> None:
        end = Lease.end
        with MonkeyPatch.context() as inner:
            inner.setattr(Lease, "end", lambda _: None)
            whole(self, to)
        assert Lease.end is end

    patch.setattr(Leading, "transfer", transfer)


def lease_ends_with_the_transfer_only(patch: MonkeyPatch) -> None:
    """1.3 (!): a transfer that was given up is forgotten."""
    patch.setattr(Lease, "end", Lease.restart)


def lease_outlives_the_term(patch: MonkeyPatch) -> None:
    """1.3: who leads again goes on with what it was promised."""
    patch.setattr(Lease, "restart", lambda _: None)


def lease_survives_a_change_of_members(patch: MonkeyPatch) -> None:
    """1.3: promises of before a new configuration count behind it."""
    whole = Leading.follow_configuration

    def follow(self: Leading) -> None:
        with MonkeyPatch.context() as inner:
            inner.setattr(Lease, "restart", lambda _: None)
            whole(self)

    patch.setattr(Leading, "follow_configuration", follow)


def learners_count(patch: MonkeyPatch) -> None:
    """3.4: everybody's promise counts."""

    def count(self: Lease) -> None:
        promised = sorted([1 << 62, *self._promised.values()], reverse=True)
        middle = len(self._raft.voters) // 2
        self._until = promised[middle] if middle < len(promised) else 0

    patch.setattr(Lease, "count", count)


def promise_not_kept(patch: MonkeyPatch) -> None:
    """1.3: a promise is said and not kept in mind: only a leader that is known holds a vote back."""
    patch.setattr(Election, "_promise", lambda _: None)


def promise_ends_with_the_leader(patch: MonkeyPatch) -> None:
    """1.3 (!): a newer term sets free."""
    whole = Raft.become_follower

    def become(self: Raft, term: int, leader: int = 0) -> None:
        if term > self.term:
            self.election._promised_ticks = 0
        whole(self, term, leader)

    patch.setattr(Raft, "become_follower", become)


def promise_forgotten_at_a_restart(patch: MonkeyPatch) -> None:
    """1.3 (!): a replica that starts has promised nothing."""
    whole = Election.__init__

    def init(self: Election, raft: Raft, hold_back_ticks: int) -> None:
        whole(self, raft, 0)
        self._promised_ticks = 0

    patch.setattr(Election, "__init__", init)


def note_of_the_earlier_life_ignored(patch: MonkeyPatch) -> None:
    """1.3 (!): with leases off, a start holds nothing back."""
    whole = Election.__init__

    def init(self: Election, raft: Raft, hold_back_ticks: int) -> None:
        whole(self, raft, 0)

    patch.setattr(Election, "__init__", init)
