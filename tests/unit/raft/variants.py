"""Cores that are broken in just one way each: they prove that the tests can fail (FAULTS, last part).

Each function breaks one sentence of the paper or of PROTOCOL for as long as the ``MonkeyPatch`` lasts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pytest import MonkeyPatch  # noqa: PT013  # it is the type of every argument here

from overdb_node.raft.core import Raft
from overdb_node.raft.election import Election
from overdb_node.raft.entry_window import EntryWindow
from overdb_node.raft.following import Following
from overdb_node.raft.leading import Leading
from overdb_node.raft.log import Log
from overdb_node.raft.messages import Answer, Append, Message, VoteRequest
from overdb_node.raft.output import Install, Output, Persist, Role, Stage
from overdb_node.raft.progress import Progress
from overdb_node.raft.reading import Reading, _Round
from overdb_node.raft.retention import Retention
from overdb_node.raft.types import EntryKind, HardState, Snapshot


def vote_not_saved(patch: MonkeyPatch) -> None:
    """1.0: the term is written, the vote is not."""
    whole = Raft._hand_out_persist

    def hand_out(self: Raft, output: Output) -> None:
        whole(self, output)
        if output.persist is not None:
            kept = output.persist.hard_state
            forgetful = HardState(kept.term, 0, kept.commit_index)
            output.persist = Persist(output.persist.token, forgetful, output.persist.entries)

    patch.setattr(Raft, "_hand_out_persist", hand_out)


def words_before_disk(patch: MonkeyPatch) -> None:
    """1.0: messages do not wait for the fsync of the term and vote in them."""

    def send(self: Raft, to: int, message: Message) -> None:
        self.output.send_now.append((to, message))

    patch.setattr(Raft, "send", send)


def own_vote_counted_early(patch: MonkeyPatch) -> None:
    """1.0 (!): the own vote counts before it is fsynced."""
    whole = Election.campaign

    def campaign(self: Election, *, transfer: bool = False) -> None:
        whole(self, transfer=transfer)
        self._own_vote_pending = False
        self._count(self._raft.replica_id, True)

    patch.setattr(Election, "campaign", campaign)


def own_copy_counted_early(patch: MonkeyPatch) -> None:
    """1.0 (!): the leader counts its own entries before they are fsynced."""
    whole = Leading.advance_commit

    def advance(self: Leading) -> None:
        durable, self._raft.durable = self._raft.durable, self._raft.log.last_index
        whole(self)
        self._raft.durable = durable

    patch.setattr(Leading, "advance_commit", advance)


def cut_leaves_durable(patch: MonkeyPatch) -> None:
    """1.0: a cut does not lower what the end of an older fsync makes durable."""
    whole = Raft.cut_log

    def cut(self: Raft, index: int) -> None:
        persists = deque(self._persists)
        whole(self, index)
        self._persists = persists

    patch.setattr(Raft, "cut_log", cut)


def old_terms_commit_by_counting(patch: MonkeyPatch) -> None:
    """Paper 5.4.2, figure 8: entries of older terms commit by counting too."""

    def advance(self: Leading) -> None:
        raft = self._raft
        matches = [
            raft.durable if voter == raft.replica_id else self.progress[voter].match
            for voter in raft.voters
        ]
        index = sorted(matches, reverse=True)[len(matches) // 2]
        raft.commit_index = max(raft.commit_index, min(index, raft.log.last_index))

    patch.setattr(Leading, "advance_commit", advance)


def no_no_op(patch: MonkeyPatch) -> None:
    """Paper 8: a new leader appends nothing."""
    whole = Leading._append

    def append(self: Leading, payloads: Sequence[bytes], kind: EntryKind) -> int:
        if kind is EntryKind.NOOP:
            self._raft.agreed = self._raft.log.last_index
            return self._raft.log.last_index + 1
        return whole(self, payloads, kind)

    patch.setattr(Leading, "_append", append)


def any_log_gets_the_vote(patch: MonkeyPatch) -> None:
    """Paper 5.4.1: the vote does not look at the log."""

    def is_up_to_date(self: Election, request: VoteRequest) -> bool:
        return True

    patch.setattr(Election, "_is_up_to_date", is_up_to_date)


def pre_vote_off(patch: MonkeyPatch) -> None:
    """Dissertation 9.6: a timeout campaigns at once."""
    patch.setattr(Election, "_pre_campaign", Election.campaign)


def check_quorum_off(patch: MonkeyPatch) -> None:
    """Dissertation 6.2: a leader leads until it hears otherwise."""

    def check(self: Leading) -> bool:
        return True

    patch.setattr(Leading, "_check_quorum", check)


def always_cut(patch: MonkeyPatch) -> None:
    """1.2 (!): cut at the first entry of every Append, difference or not."""

    def take(self: Following, message: Append) -> bool:
        raft = self._raft
        fresh = [e for e in message.entries if e.index > raft.commit_index]
        if fresh and fresh[0].index <= raft.log.last_index:
            raft.cut_log(fresh[0].index)
        raft.log.append(fresh)
        raft.agreed = max(
            min(raft.agreed, raft.log.last_index), message.first_index + len(message.entries) - 1
        )
        return bool(fresh)

    patch.setattr(Following, "_take", take)


def below_commit_is_a_difference(patch: MonkeyPatch) -> None:
    """1.2 (!): "mine has no entry there" is taken for a difference, also where it is compacted."""
    whole = Following._take

    def take(self: Following, message: Append) -> bool:
        raft = self._raft
        for entry in message.entries:
            if raft.log.term_at(entry.index) != entry.term and entry.index <= raft.log.last_index:
                raft.cut_log(entry.index)
                break
        return whole(self, message)

    patch.setattr(Following, "_take", take)


def heartbeat_moves_commit(patch: MonkeyPatch) -> None:
    """1.2: a heartbeat moves the commit index of a log that is not known to match."""
    whole = Following._on_append

    def on_append(self: Following, leader: int, message: Append) -> None:
        raft = self._raft
        if message.first_index > raft.agreed + 1 and not message.entries:
            end = min(message.leader_commit, raft.durable)
            raft.agreed = max(raft.agreed, end)
            raft.commit_index = max(raft.commit_index, end)
        whole(self, leader, message)

    patch.setattr(Following, "_on_append", on_append)


def agreed_kept_over_a_vote(patch: MonkeyPatch) -> None:
    """1.2 (!): ``agreed`` is not forgotten when the term was adopted before its leader spoke."""
    whole = Raft.become_follower

    def become(self: Raft, term: int, leader: int = 0) -> None:
        adopted_silently = term > self.term and leader == 0
        whole(self, term, leader)
        if adopted_silently:
            self.agreed_term = term

    patch.setattr(Raft, "become_follower", become)


def agreed_kept_over_a_restart(patch: MonkeyPatch) -> None:
    """1.2: a restarted replica believes that its log is its last leader's."""
    whole = Raft._check

    def check(self: Raft) -> None:
        if self.agreed_term == 0 and self.leader_id == 0:
            self.agreed_term, self.agreed = self.term, self.log.last_index
        whole(self)

    patch.setattr(Raft, "_check", check)


def answer_before_fsync(patch: MonkeyPatch) -> None:
    """1.2 (!): an answer says ``agreed``, durable or not."""

    def answer(self: Following, leader: int, *, ok: bool) -> None:
        raft = self._raft
        term = raft.log.term_at(raft.agreed) or 0
        raft.send(leader, Answer(raft.term, self._round, ok, raft.agreed, term))

    patch.setattr(Following, "_answer", answer)


def answers_of_any_term_count(patch: MonkeyPatch) -> None:
    """1.2 (!): an answer of an older term counts."""

    def is_of_my_term(self: Raft, term: int) -> bool:
        if term > self.term:
            self.become_follower(term)
        return self.is_leader

    patch.setattr(Raft, "_is_of_my_term", is_of_my_term)


def match_falls(patch: MonkeyPatch) -> None:
    """1.2: ``match`` is set to what the answer says, not to the largest."""

    def matched(self: Leading, progress: Progress, agreed: int) -> None:
        progress.match = agreed
        self.advance_commit()

    patch.setattr(Leading, "_matched", matched)


def next_never_falls(patch: MonkeyPatch) -> None:
    """1.2 (!): ``next`` never goes back below match: a restarted follower is never repaired."""

    def restart_at(self: Progress, index: int) -> None:
        self.next = max(index, self.match + 1)
        self.inflight.clear()
        self.inflight_bytes = 0

    patch.setattr(Progress, "restart_at", restart_at)


def refusals_count_for_match(patch: MonkeyPatch) -> None:
    """1.2: a position beyond what is acknowledged is counted."""
    whole = Leading.on_answer

    def on_answer(self: Leading, replica: int, progress: Progress, answer: Answer) -> None:
        counted = Answer(answer.term, answer.round, True, answer.agreed, answer.agreed_term)
        self._matched(progress, counted.agreed)
        whole(self, replica, progress, answer)

    patch.setattr(Leading, "on_answer", on_answer)


def tripwire_off(patch: MonkeyPatch) -> None:
    """1.2: an answer that contradicts the leader's log is believed."""

    def raise_alarm(
        self: Leading, replica: int, progress: Progress, answer: Answer, mine: int
    ) -> None:
        self._matched(progress, answer.agreed)

    patch.setattr(Leading, "_raise_alarm", raise_alarm)


def install_without_second_test(patch: MonkeyPatch) -> None:
    """1.2: ``snapshot.index <= agreed`` is not tested again when the last chunk is in."""
    whole = Following.on_staged

    def on_staged(
        self: Following, stage: Stage, next_offset: int, snapshot: Snapshot | None
    ) -> None:
        raft = self._raft
        if snapshot is None or snapshot.index > raft.agreed or self._staging is None:
            whole(self, stage, next_offset, snapshot)
            return
        self._staging, self._staged, self._handed_out = None, 0, 0
        raft.installing = snapshot
        kept = raft.log.term_at(snapshot.index) == snapshot.term
        raft.output.install = Install(snapshot, kept)

    patch.setattr(Following, "on_staged", on_staged)


def _begin_with(patch: MonkeyPatch, *, keep: bool) -> None:
    whole = Log.begin_with

    def begin_with(self: Log, snapshot: Snapshot) -> None:
        if keep and snapshot.index <= self.last_index:
            self._window.begin_behind(snapshot.index)
            self.snapshot = snapshot
        elif keep:
            whole(self, snapshot)
        else:
            self._window = EntryWindow(snapshot.index)
            self._configurations.clear()
            self.snapshot = snapshot

    patch.setattr(Log, "begin_with", begin_with)


def snapshot_keeps_a_conflicting_tail(patch: MonkeyPatch) -> None:
    """1.2, paper 7: the entries behind a snapshot are kept although the entry there differs."""
    _begin_with(patch, keep=True)


def snapshot_drops_a_matching_tail(patch: MonkeyPatch) -> None:
    """1.2, paper 7: the entries behind a snapshot are dropped although the entry there is the same."""
    _begin_with(patch, keep=False)


def compacted_while_streamed(patch: MonkeyPatch) -> None:
    """1.2: the leader compacts away what it streams."""
    patch.setattr(Retention, "may_compact", lambda _self, _index: True)


def read_without_own_term_commit(patch: MonkeyPatch) -> None:
    """1.3: a new leader's commit index is believed before it committed in its term."""
    patch.setattr(Leading, "committed_in_term", property(lambda _: True))


def read_round_not_new(patch: MonkeyPatch) -> None:
    """1.3 (!): a round that had begun before the read confirms it."""

    def start_round(self: Reading) -> None:
        raft = self._raft
        if not self.waiting or self._round is not None or not raft.leading.committed_in_term:
            return
        self._round = _Round(raft.leading.round, raft.commit_index, self.waiting)
        self.waiting = []
        raft.leading.broadcast_heartbeat()
        self.on_round()

    patch.setattr(Reading, "start_round", start_round)


def reads_survive_the_leader(patch: MonkeyPatch) -> None:
    """1.3, FAULTS 23: reads are not failed when the leader steps down, and complete later."""

    def fail_all(self: Reading) -> None:
        return

    patch.setattr(Reading, "fail_all", fail_all)


def transfer_never_given_up(patch: MonkeyPatch) -> None:
    """Dissertation 3.10, FAULTS 10: an interrupted transfer refuses writes for ever."""
    whole = Leading.tick

    def tick(self: Leading) -> None:
        self._transfer_ticks = -1
        whole(self)

    patch.setattr(Leading, "tick", tick)


def duplicated_votes_count(patch: MonkeyPatch) -> None:
    """FAULTS 3: votes are counted, not voters."""

    def count(self: Election, voter: int, granted: bool) -> None:
        raft = self._raft
        self._granted[len(self._granted) + 1] = granted
        if 2 * sum(self._granted.values()) > len(raft.voters):
            if raft.role is Role.PRE_CANDIDATE:
                self.campaign()
            else:
                raft.leading.start()

    patch.setattr(Election, "_count", count)


def vote_dropped_when_stepping_down(patch: MonkeyPatch) -> None:
    """FAULTS 2: a candidate that steps down in its own term forgets whom it voted for."""
    whole = Raft.become_follower

    def become(self: Raft, term: int, leader: int = 0) -> None:
        whole(self, term, leader)
        if leader and self.vote == self.replica_id:
            self.set_hard_state(term, 0)

    patch.setattr(Raft, "become_follower", become)


def members_at_apply(patch: MonkeyPatch) -> None:
    """3.1 (!): a configuration counts only from its commit on."""

    def voters(self: Raft) -> list[int]:
        members = self.log.members_at(self.commit_index)
        return [member.replica_id for member in members if member.voter]

    patch.setattr(Raft, "voters", property(voters))
