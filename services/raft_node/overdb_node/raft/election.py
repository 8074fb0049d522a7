"""Who leads: PreVote, votes, and what a vote depends on (paper 5.2, 5.4.1; dissertation 6.4, 9.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overdb_node.raft.messages import VoteAnswer, VoteRequest
from overdb_node.raft.output import EventKind, Role
from overdb_node.raft.plausible import TERM_MAX

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft


# A replica that must not serve waits so long for one of the others. Its log may have what they need to be
# elected; then it leads until they have it.
LAST_RESORT_TIMEOUTS = 3


HANDED_OVER = "handed over"  # detail of a campaign that a leader asked for


class Election:
    """The election timer and the votes of the present campaign."""

    def __init__(self, raft: Raft, hold_back_ticks: int) -> None:
        self._raft = raft
        # Until when this replica elects nobody, because a leader may count on that (PROTOCOL 1.3). It ends by
        # time alone: another term, or a leader that is not known any more, takes nothing back.
        self._promised_ticks = hold_back_ticks
        self._promise()
        self._elapsed = 0
        self._timeout = 0
        self._silent_timeouts = 0  # since a leader was heard
        self._granted: dict[int, bool] = {}  # by replica: a duplicated answer counts once
        self._own_vote_pending = False
        self.restart_timer()

    def restart_timer(self) -> None:
        settings = self._raft.settings
        self._elapsed = 0
        self._timeout = self._raft.random.randint(
            settings.election_ticks_min, settings.election_ticks_max
        )

    def heard_from_leader(self) -> None:
        self._elapsed = self._silent_timeouts = 0
        self._promise()

    def _promise(self) -> None:
        settings = self._raft.settings
        if settings.promise_us:
            self._promised_ticks = max(self._promised_ticks, settings.election_ticks_min)

    def promise_ages(self) -> None:
        """A tick has passed. A process that stands still counts too few of them, never too many."""
        if self._promised_ticks:
            self._promised_ticks -= 1

    def tick(self) -> None:
        self._elapsed += 1
        if self._elapsed < self._timeout:
            return
        self.restart_timer()
        self._raft.leader_id = 0
        self._silent_timeouts += 1
        may_lead = self._raft.may_lead or self._silent_timeouts >= LAST_RESORT_TIMEOUTS
        if self._raft.is_voter and may_lead and not self._promised_ticks:  # PROTOCOL 3.6
            self._pre_campaign()

    def _pre_campaign(self) -> None:
        """Ask whether a campaign would be won, without disturbing anyone (dissertation 9.6)."""
        raft = self._raft
        if raft.term >= TERM_MAX:
            return  # there is no term behind it
        raft.role = Role.PRE_CANDIDATE
        self._own_vote_pending = False
        self._granted = {raft.replica_id: True}
        if raft.is_quorum(self._granted):
            self.campaign()
            return
        self._ask(VoteRequest(raft.term + 1, raft.log.last_index, raft.log.last_term, pre=True))

    def campaign(self, *, transfer: bool = False) -> None:
        """Begin a term and ask for votes. The own vote counts once it is fsynced (PROTOCOL 1.0)."""
        raft = self._raft
        if raft.term >= TERM_MAX:
            return
        raft.role = Role.CANDIDATE
        raft.leader_id = 0
        raft.set_hard_state(raft.term + 1, raft.replica_id)
        self.restart_timer()
        self._granted = {}
        self._own_vote_pending = True
        raft.emit(EventKind.CAMPAIGN, detail=HANDED_OVER if transfer else "")
        log = raft.log
        self._ask(VoteRequest(raft.term, log.last_index, log.last_term, transfer=transfer))

    def _ask(self, request: VoteRequest) -> None:
        for voter in self._raft.voters:
            if voter != self._raft.replica_id:
                self._raft.send(voter, request)

    def on_persisted(self) -> None:
        raft = self._raft
        if self._own_vote_pending and raft.hard_state_is_durable():
            self._own_vote_pending = False
            if raft.role is Role.CANDIDATE:
                self._count(raft.replica_id, True)

    # --- answering ------------------------------------------------------------------------------

    def on_request(self, sender: int, request: VoteRequest) -> None:
        """Grant whoever's log is at least as up to date (5.4.1), in any configuration (3.6)."""
        raft = self._raft
        if request.term < raft.term:
            raft.send(sender, VoteAnswer(raft.term, False, request.pre))
            return
        if (self._has_live_leader() or self._promised_ticks) and not request.transfer:
            # Dissertation 4.2.3: who hears from a leader neither votes nor adopts the term, so that a
            # replica that came back cannot depose a leader that works. With leases it is a promise.
            if request.pre:
                raft.send(sender, VoteAnswer(raft.term, False, pre=True))
            return
        if request.pre:
            granted = request.term > raft.term and self._is_up_to_date(request)
            raft.send(sender, VoteAnswer(request.term if granted else raft.term, granted, pre=True))
            return
        if request.term > raft.term:
            raft.become_follower(request.term)
        # A candidate and a leader have voted for themselves.
        granted = raft.vote in (0, sender) and self._is_up_to_date(request)
        if granted:
            if raft.vote == 0:
                raft.set_hard_state(raft.term, sender)
            self.restart_timer()
        raft.send(sender, VoteAnswer(raft.term, granted))

    def _has_live_leader(self) -> bool:
        raft = self._raft
        if raft.is_leader:
            return True  # until CheckQuorum says otherwise
        return raft.leader_id != 0 and self._elapsed < raft.settings.election_ticks_min

    def _is_up_to_date(self, request: VoteRequest) -> bool:
        log = self._raft.log
        return (request.last_term, request.last_index) >= (log.last_term, log.last_index)

    # --- counting -------------------------------------------------------------------------------

    def on_answer(self, sender: int, answer: VoteAnswer) -> None:
        raft = self._raft
        if answer.pre:
            if not answer.granted and answer.term > raft.term:
                raft.become_follower(answer.term)
            elif raft.role is Role.PRE_CANDIDATE and answer.granted:
                if answer.term == raft.term + 1:
                    self._count(sender, True)
            elif raft.role is Role.PRE_CANDIDATE and answer.term == raft.term:
                self._count(sender, False)
            return
        if answer.term > raft.term:
            raft.become_follower(answer.term)
        elif answer.term == raft.term and raft.role is Role.CANDIDATE:
            self._count(sender, answer.granted)

    def has_vote_of(self, voter: int) -> bool:
        """Whether a replica granted its vote in the newest campaign, which may have been an earlier term."""
        return self._granted.get(voter, False)

    def _count(self, voter: int, granted: bool) -> None:
        raft = self._raft
        self._granted[voter] = granted
        if raft.is_quorum(v for v, yes in self._granted.items() if yes):
            if raft.role is Role.PRE_CANDIDATE:
                self.campaign()
            else:
                raft.leading.start()
        elif raft.is_quorum(v for v, yes in self._granted.items() if not yes):
            # Lost. The vote of this term is kept (a second one would be a second leader).
            raft.role = Role.FOLLOWER
