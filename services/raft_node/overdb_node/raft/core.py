"""One replica's Raft as a pure state machine (PROTOCOL section 1).

Inputs are method calls: ``tick``, ``receive``, ``propose``, ``read``, ``change_members``, ``transfer``, and
the host's reports ``persisted``, ``applied_to``, ``fetched``, ``staged``, ``installed``, ``compact``,
``withhold``, ``observe``, ``set_room``. All effects come out of ``take_output``. No clock, no disk, no
randomness of its own: the simulator and production run this very code.

The parts: ``election`` (who leads), ``leading`` (what a leader sends and counts), ``snapshot_sender`` (its
snapshot transfers), ``retention`` (for whom it keeps entries), ``following`` (what a follower accepts),
``reading`` (ReadIndex), ``lease`` (reads without it), ``membership`` (what may change when). They share the
state that is kept here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from random import Random

from overdb_node.raft.election import Election
from overdb_node.raft.errors import NotLeader, ProtocolViolation
from overdb_node.raft.following import Following
from overdb_node.raft.leading import Leading
from overdb_node.raft.lease import Lease
from overdb_node.raft.log import Log
from overdb_node.raft.membership import Change, Encode, Membership
from overdb_node.raft.messages import (
    Answer,
    Append,
    Chunk,
    ChunkAnswer,
    Message,
    Offer,
    OfferAnswer,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from overdb_node.raft.output import Event, EventKind, Fetch, Output, Persist, Role, Stage
from overdb_node.raft.plausible import SENDERS_NOTED_MAX, implausible
from overdb_node.raft.reading import Reading
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import DiskState, Entry, EntryKind, HardState, Snapshot


class Raft:
    """The core. Invariants, asserted after every input (PROTOCOL 1.0):

    ``applied <= commit_index <= agreed <= last`` and ``applied <= durable <= last``.

    Members of one package reach into this state; hosts use the methods and the read-only names below.
    """

    def __init__(
        self,
        replica_id: int,
        settings: RaftSettings,
        random: Random,
        log: Log,
        hard_state: HardState,
        applied: int,
        hold_back_ticks: int = 0,
    ) -> None:
        """Start, or start again: the log and the hard state as found on disk, all of it durable.

        ``hard_state.commit_index`` may be old; the commit index becomes the largest of that, of
        ``applied`` and of the first element's index (PROTOCOL 1.2). For ``hold_back_ticks`` nobody is elected
        with this replica's vote: an earlier life may have promised that (PROTOCOL 1.3).
        """
        self.replica_id = replica_id
        self.settings = settings
        self.random = random
        self.log = log
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader_id = 0
        self.durable = log.last_index
        self.commit_index = max(
            applied, log.first_index, min(hard_state.commit_index, log.last_index)
        )
        self.applied = applied
        log.applied(applied)
        log.evict(settings.log_memory_bytes_max)
        self.agreed_term = 0
        self.agreed = self.commit_index
        self.installing: Snapshot | None = None
        # Senders of messages that no member can have sent, in this term, and why (PROTOCOL 1.5).
        self.refused: dict[int, str] = {}
        # False: the host has said that this replica must not serve. It leads then only where nobody else
        # can be elected, proposes nothing and answers nothing, and hands over.
        self.may_lead = True
        self.disk = DiskState.FREE  # set by ``set_room``
        # Largest snapshot stream that is fetched from the leader; None: any.
        self.snapshot_bytes_max: int | None = None

        self._handed_out = applied  # last entry given to the host to apply
        self._persist_from = log.last_index + 1  # first entry not handed out to be fsynced
        self._persists: deque[tuple[int, int]] = (
            deque()
        )  # (token, last index that it makes durable)
        self._token = 0  # of the newest Persist handed out
        self._persisted = 0  # newest token reported back
        self._hard_state_dirty = False
        self._hard_state_token = 0  # the Persist that carries the present term and vote

        self.output = Output()
        self.election = Election(self, hold_back_ticks)
        self.leading = Leading(self)
        self.following = Following(self)
        self.reading = Reading(self)
        self.lease = Lease(self)
        self.membership = Membership(self)
        self._check()

    # --- what a host may read -------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    @property
    def serves(self) -> bool:
        """Whether it leads and may propose and read."""
        return self.is_leader and self.may_lead

    @property
    def voters(self) -> list[int]:
        """Ids of the voters by the newest configuration in the log (PROTOCOL 3.1)."""
        return self.log.configuration.voters

    @property
    def is_voter(self) -> bool:
        """By the own configuration, unless the group has told that this replica was removed."""
        return self.replica_id in self.voters and not self.membership.removed

    # --- inputs ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time has passed."""
        self.election.promise_ages()
        if self.is_leader:
            self.leading.tick()
        elif self.installing is None:
            self.election.tick()
        self._check()

    def receive(self, sender: int, message: Message) -> None:
        """Handle one message of another replica of this group."""
        if self.installing is not None:
            return  # as if the network had lost it
        if why := implausible(self, sender, message):
            self._refuse(sender, why)
        elif isinstance(message, VoteRequest):
            self.election.on_request(sender, message)
        elif isinstance(message, VoteAnswer):
            self.election.on_answer(sender, message)
        elif isinstance(message, Append | Offer | Chunk):
            self._receive_from_leader(sender, message)
        elif isinstance(message, TimeoutNow):
            may_campaign = self.role is Role.FOLLOWER and self.is_voter and self.may_lead
            if message.term == self.term and may_campaign:
                self.election.campaign(transfer=True)
        elif self._is_of_my_term(message.term):
            self._receive_answer(sender, message)
        self._check()

    def propose(self, payloads: Sequence[bytes]) -> int:
        """Append entries to the leader's log and return the index of the first; their term is ``term``.

        Raises NotLeader (also while leadership is being handed over) and Overloaded.
        """
        return self.leading.propose(payloads, EntryKind.COMMANDS)

    def observe(self, now_us: int) -> None:
        """It is ``now_us`` or later, by a clock of the host that never goes back: for leases."""
        self.lease.observe(now_us)

    def read(self, read: object, now_us: int = 0) -> int | None:
        """Ask for a linearizable read (PROTOCOL 1.3); it comes back in ``reads`` or ``reads_failed``.

        Unless a lease covers ``now_us``, the clock's time after the read has come: then this is all, and what
        is returned is the index that has to be applied. Raises NotLeader.
        """
        if not self.serves:
            raise NotLeader
        if now_us:
            self.lease.observe(now_us)
            if self.lease.covers(now_us):
                self.lease.reads += 1
                return self.commit_index
        self.reading.waiting.append(read)
        return None

    def transfer(self, to: int) -> None:
        """Hand leadership over to a voter (dissertation 3.10).

        Proposals are refused until it is done or an election timeout has passed, after which this
        leader goes on. Raises NotLeader, and ValueError if ``to`` is no other voter.
        """
        self.leading.transfer(to)

    def change_members(self, change: Change, encode: Encode) -> int:
        """Begin a change of the members (PROTOCOL 3); return the index whose commit completes it.

        A change that is in force already is no error: the index is then that of the configuration that has
        it. ``encode`` makes an entry's payload of a configuration. Raises NotLeader, MembershipRefused.
        """
        return self.membership.change(change, encode)

    def removed(self) -> None:
        """The group has told, by a committed configuration, that this replica is no member any more."""
        self.membership.removed = True
        if self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self.become_follower(self.term)
        self._check()

    def step_down(self) -> None:
        """Stop leading, in this term: the host has seen that this replica cannot do its work."""
        if self.is_leader:
            self.become_follower(self.term)
        self._check()

    def stand_aside(self) -> None:
        """Serve no more until ``may_lead`` is set again, and campaign only as the last resort.

        Voting and the log go on. A leader keeps its office until the host has handed it over: its log may
        have what the others lack.
        """
        self.may_lead = False
        self.lease.end()
        if self.is_leader:
            self.reading.fail_all()
        elif self.role is not Role.FOLLOWER:
            self.become_follower(self.term)
        self._check()

    def set_room(self, disk: DiskState, snapshot_bytes_max: int | None) -> None:
        """The host says how much room its disk has (PROTOCOL 1.4)."""
        self.disk = disk
        self.snapshot_bytes_max = snapshot_bytes_max
        self.following.on_look()

    def persisted(self, token: int) -> None:
        """Everything handed out up to the Persist with this token is fsynced."""
        self._persisted = max(self._persisted, token)
        while self._persists and self._persists[0][0] <= token:
            # A cut has lowered what this one still makes durable; one that was lowered below what is
            # durable by now has nothing to add.
            self.durable = max(self.durable, self._persists.popleft()[1])
        self.election.on_persisted()
        if self.is_leader:
            self.leading.advance_commit()
        else:
            self.following.on_persisted()
        self._check()

    def applied_to(self, index: int) -> None:
        """The host has applied everything up to ``index``."""
        assert self.applied <= index <= self._handed_out
        self.applied = index
        self.log.applied(index)
        self.log.evict(self.settings.log_memory_bytes_max)
        self.following.on_applied()

    def fetched(self, fetch: Fetch, entries: Sequence[Entry]) -> None:
        """The entries of ``fetch`` as they are on disk; none: they cannot be read."""
        self.leading.on_fetched(fetch, entries)
        self._check()

    def staged(self, stage: Stage, next_offset: int, snapshot: Snapshot | None) -> None:
        """The bytes of ``stage`` are on disk up to ``next_offset`` (0: they were damaged and dropped).

        ``snapshot`` is given with the last chunk, when all of it is verified and in place.
        """
        self.following.on_staged(stage, next_offset, snapshot)
        self._check()

    def installed(self) -> None:
        """The Install is done: disk and state machine are at the snapshot."""
        snapshot = self.installing
        assert snapshot is not None
        kept = self.log.term_at(snapshot.index) == snapshot.term
        self.log.begin_with(snapshot)
        if not kept:
            self._persists.clear()
            self.durable = snapshot.index
            self._persist_from = snapshot.index + 1
        self.durable = max(self.durable, snapshot.index)
        self._persist_from = max(self._persist_from, snapshot.index + 1)
        self.agreed = snapshot.index if not kept else max(self.agreed, snapshot.index)
        self.commit_index = max(self.commit_index, snapshot.index)
        self.applied = self._handed_out = snapshot.index
        self.log.applied(snapshot.index)
        self.installing = None
        self.emit(EventKind.SNAPSHOT_INSTALLED, detail=f"index {snapshot.index}")
        self.following.on_installed()
        self._check()

    def compact(self, snapshot: Snapshot) -> bool:
        """Make ``snapshot`` of an applied entry the first element.

        False, and nothing done, while a follower that the log is kept for lacks an entry that would go, or is
        being sent the present first element (PROTOCOL 1.2).
        """
        if not self.may_compact(snapshot.index):
            return False
        assert snapshot.index <= min(self.applied, self.durable), "only applied and durable entries"
        assert self.log.term_at(snapshot.index) == snapshot.term
        self.log.begin_with(snapshot)
        self._check()
        return True

    def may_compact(self, index: int) -> bool:
        """Whether ``compact`` with a snapshot of this index would do something now."""
        return index > self.log.first_index and self.leading.retention.may_compact(index)

    def withhold(self, snapshot: Snapshot, why: str) -> None:
        """``snapshot`` is damaged on the own disk: as long as it is the first element, send none of it.

        Followers are offered it as before, since an offer is a heartbeat too. What must help is a newer one,
        and nothing that is under way stops its compaction.
        """
        if snapshot.index == self.log.first_index and not self.leading.snapshots.is_withheld:
            self.leading.snapshots.withhold()
            self.emit(EventKind.OWN_SNAPSHOT_DAMAGED, detail=f"index {snapshot.index}: {why}")

    def take_output(self) -> Output:
        """Return everything to be done since the last call."""
        if self.is_leader:
            self.reading.start_round()
            self.leading.send_all()
        output = self.output
        self._hand_out_persist(output)
        self._hand_out_committed(output)
        self.output = Output()
        return output

    # --- shared by the parts --------------------------------------------------------------------

    def send(self, to: int, message: Message) -> None:
        """Send a message; behind the fsync of term and vote if that is still to come (PROTOCOL 1.0)."""
        if self._hard_state_dirty or self._hard_state_token > self._persisted:
            self.output.send_after_persist.append((to, message))
        else:
            self.output.send_now.append((to, message))

    def emit(self, kind: EventKind, replica: int = 0, detail: str = "") -> None:
        self.output.events.append(Event(kind, self.term, replica, detail))

    def become_follower(self, term: int, leader: int = 0) -> None:
        """Follow ``leader`` (0: nobody known yet) in ``term``, which is this one or a newer one."""
        assert term >= self.term
        was_leader = self.is_leader
        known = self.leader_id
        if term > self.term:
            self.set_hard_state(term, 0)
        self.role = Role.FOLLOWER
        self.leader_id = leader
        if was_leader:
            self.leading.stop()
            self.reading.fail_all()
            self.election.restart_timer()
            self.emit(EventKind.STEPPED_DOWN)
        if leader and leader != known:
            self.emit(EventKind.NEW_LEADER, leader)

    def set_hard_state(self, term: int, vote: int) -> None:
        if term > self.term:
            self.refused.clear()
        self.term, self.vote = term, vote
        self._hard_state_dirty = True

    def hard_state_is_durable(self) -> bool:
        return not self._hard_state_dirty and self._hard_state_token <= self._persisted

    def cut_log(self, index: int) -> None:
        """Drop the entries from ``index`` on; what is durable ends before it (PROTOCOL 1.0)."""
        if index <= self.commit_index:
            raise ProtocolViolation(
                f"term {self.term}: leader {self.leader_id} contradicts the committed entry {index} "
                f"(commit index {self.commit_index}): one of the two logs is damaged or foreign"
            )
        self.log.cut(index)
        self.durable = min(self.durable, index - 1)
        self._persist_from = min(self._persist_from, index)
        self._persists = deque((token, min(last, index - 1)) for token, last in self._persists)

    def is_quorum(self, replicas: Iterable[int]) -> bool:
        """Whether these replicas hold a majority of the voters."""
        voters = self.voters
        counted = set(replicas)
        return 2 * sum(voter in counted for voter in voters) > len(voters)

    # --- inside ---------------------------------------------------------------------------------

    def _refuse(self, sender: int, why: str) -> None:
        """Drop what no member can have sent; told once a term for each sender."""
        if sender in self.refused or len(self.refused) >= SENDERS_NOTED_MAX:
            return
        self.refused[sender] = why
        self.emit(EventKind.MESSAGE_REFUSED, sender, why)

    def _is_of_my_term(self, term: int) -> bool:
        """Whether an answer counts: those of another term never do, a newer one is adopted (1.2)."""
        if term > self.term:
            self.become_follower(term)
        return term == self.term and self.is_leader

    def _receive_from_leader(self, sender: int, message: Append | Offer | Chunk) -> None:
        if message.term < self.term:
            # My term and nothing else. (A candidate that was cut off learns the term like this too.)
            self.send(sender, Answer(self.term, 0, False, 0, 0))
            return
        self.become_follower(message.term, sender)
        self.election.heard_from_leader()
        self.following.on_message(sender, message)

    def _receive_answer(self, sender: int, message: Answer | OfferAnswer | ChunkAnswer) -> None:
        progress = self.leading.progress.get(sender)
        if progress is None:
            return
        progress.active = True
        progress.silent_ticks = 0
        progress.round = max(progress.round, message.round)
        if isinstance(message, Answer):
            self.leading.on_answer(sender, progress, message)
            self.lease.answered(sender, message)
        else:
            self.leading.snapshots.answered(sender, progress, message)
        self.reading.answered(sender, message.round)

    def _hand_out_persist(self, output: Output) -> None:
        last = self.log.last_index
        if not self._hard_state_dirty and self._persist_from > last:
            return
        self._token += 1
        entries = self.log.slice(self._persist_from, last) if self._persist_from <= last else []
        if self._hard_state_dirty:
            self._hard_state_dirty = False
            self._hard_state_token = self._token
        hard_state = HardState(self.term, self.vote, min(self.commit_index, self.durable))
        output.persist = Persist(self._token, hard_state, entries)
        self._persists.append((self._token, last))
        self._persist_from = last + 1

    def _hand_out_committed(self, output: Output) -> None:
        end = min(self.commit_index, self.durable)
        if self._handed_out < end and self.installing is None:
            entries, _ = self.log.slice_bytes(
                self._handed_out + 1, self.settings.committed_bytes_max
            )
            output.committed.extend(entries[: end - self._handed_out])
            self._handed_out = output.committed[-1].index

    @property
    def has_committed_to_hand_out(self) -> bool:
        """Whether ``take_output`` has more to apply: an output is bounded in bytes."""
        return self._handed_out < min(self.commit_index, self.durable)

    def _check(self) -> None:
        last = self.log.last_index
        assert self.applied <= self.commit_index <= self.agreed <= last, self._describe()
        assert self.applied <= self.durable <= last, self._describe()

    def _describe(self) -> str:
        return (
            f"applied {self.applied}, commit {self.commit_index}, agreed {self.agreed} of term "
            f"{self.agreed_term}, durable {self.durable}, last {self.log.last_index}, term {self.term}"
        )
