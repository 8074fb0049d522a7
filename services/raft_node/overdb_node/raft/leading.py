"""What a leader sends, and what it concludes from the answers (PROTOCOL 1.2; paper 5.3, 5.4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from overdb_node.raft.errors import NotLeader, Overloaded
from overdb_node.raft.messages import Answer, Append, ChunkAnswer, Offer, OfferAnswer, TimeoutNow
from overdb_node.raft.output import ChunkToSend, Dropped, EventKind, Role
from overdb_node.raft.progress import NEVER_TICKS, Progress, Transfer
from overdb_node.raft.types import DiskState, Entry, EntryKind

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft


class Leading:
    """A leader's view of its followers. Empty while another replica leads."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self.progress: dict[int, Progress] = {}
        self.round = (
            1  # an answer of round 0 is of a replica that has heard nothing from this leader
        )
        self._elapsed = 0
        self._quorum_elapsed = 0
        self._first_own_index = 0
        self.transfer_to = 0
        self._transfer_ticks = 0
        self._uncommitted_bytes = 0
        self._uncommitted: list[tuple[int, int]] = []  # (last index, bytes) of each proposal
        self._withheld = -1  # index of a first element that must not be sent

    # --- the term's beginning and end -------------------------------------------------------------

    def start(self) -> None:
        """Become leader: a no-op first, since only own entries commit by counting (paper 5.4.2, 8)."""
        raft = self._raft
        raft.role = Role.LEADER
        raft.leader_id = raft.replica_id
        self._elapsed = self._quorum_elapsed = 0
        self.transfer_to = 0
        self._uncommitted_bytes = 0
        self._uncommitted = []
        self.progress = {}
        raft.reading.start()
        raft.lease.start()
        self.follow_configuration()
        self._first_own_index = raft.log.last_index + 1
        self._append([b""], EntryKind.NOOP)
        raft.agreed_term = raft.term
        raft.emit(EventKind.ELECTED, raft.replica_id)

    def follow_configuration(self) -> None:
        """Make the view of the others that of the newest configuration (PROTOCOL 3.1).

        Called when leadership begins and when the leader appends a configuration. Its log is never cut, and
        nothing is installed over it, as long as it leads.
        """
        raft = self._raft
        known, next_index = self.progress, raft.log.last_index + 1
        others = [m.replica_id for m in raft.log.members if m.replica_id != raft.replica_id]
        self.progress = {other: known.get(other) or Progress(next_index) for other in others}
        raft.lease.restart()
        if self.transfer_to and self.transfer_to not in raft.voters:
            self._abandon_transfer()

    def _abandon_transfer(self) -> None:
        self._raft.emit(EventKind.TRANSFER_ABANDONED, self.transfer_to)
        self.transfer_to = 0

    def stop(self) -> None:
        self._raft.lease.end()
        self.progress = {}
        self.transfer_to = 0

    @property
    def committed_in_term(self) -> bool:
        return self._raft.commit_index >= self._first_own_index

    @property
    def is_streaming(self) -> bool:
        """Whether a follower is being sent the first element (one that went silent is not, after a while)."""
        transfers = (progress.transfer for progress in self.progress.values())
        return any(transfer is not None and transfer.offset >= 0 for transfer in transfers)

    # --- time -----------------------------------------------------------------------------------

    def tick(self) -> None:
        raft = self._raft
        settings = raft.settings
        self._quorum_elapsed += 1
        if self._quorum_elapsed >= settings.election_ticks_min:
            self._quorum_elapsed = 0
            if not self._check_quorum():
                raft.become_follower(raft.term)
                return
        if self.transfer_to:
            self._transfer_ticks += 1
            if self._transfer_ticks >= settings.election_ticks_min:
                self._abandon_transfer()
        for progress in self.progress.values():
            progress.silent_ticks += 1
            if progress.transfer is not None:
                progress.transfer.silent_ticks += 1
        self._elapsed += 1
        if self._elapsed >= settings.heartbeat_ticks:
            self.next_round()
            self.broadcast_heartbeat()

    def _check_quorum(self) -> bool:
        """A leader that a quorum has not answered for an election timeout steps down (6.2)."""
        raft = self._raft
        active = [r for r, p in self.progress.items() if p.active and not p.damaged]
        for progress in self.progress.values():
            if not progress.active:
                progress.transfer = None  # it is down: it must not stop compaction
            progress.active = False
        return raft.is_quorum([raft.replica_id, *active])

    def next_round(self) -> int:
        self.round += 1
        self._raft.lease.round_begins(self.round)
        return self.round

    def broadcast_heartbeat(self) -> None:
        self._elapsed = 0
        self._raft.reading.asked_all(self.round)
        self.send_heartbeats(self.progress)

    def send_heartbeats(self, replicas: Iterable[int]) -> None:
        """Send this round to some of the others. It does not stand in for the next one to all of them."""
        for replica in replicas:
            self._send_heartbeat(replica, self.progress[replica])

    def _send_heartbeat(self, replica: int, progress: Progress) -> None:
        raft = self._raft
        if progress.next <= raft.log.first_index:
            self._offer(replica)
        else:
            raft.send(replica, Append(raft.term, self.round, progress.next, (), raft.commit_index))

    # --- entries --------------------------------------------------------------------------------

    def propose(self, payloads: Sequence[bytes], kind: EntryKind) -> int:
        raft = self._raft
        if not raft.serves or self.transfer_to:
            raise NotLeader
        size = sum(map(len, payloads))
        if (
            self._uncommitted
            and self._uncommitted_bytes + size > raft.settings.uncommitted_bytes_max
        ):
            raise Overloaded
        first = self._append(payloads, kind)
        self._uncommitted_bytes += size
        self._uncommitted.append((raft.log.last_index, size))
        return first

    def _append(self, payloads: Sequence[bytes], kind: EntryKind) -> int:
        raft = self._raft
        first = raft.log.last_index + 1
        raft.log.append([Entry(first + i, raft.term, kind, p) for i, p in enumerate(payloads)])
        raft.agreed = raft.log.last_index
        if kind is EntryKind.CONFIGURATION:
            self.follow_configuration()
        return first

    def send_all(self) -> None:
        """Send every follower what it has not been sent yet, pipelined and bounded in bytes."""
        raft = self._raft
        last = raft.log.last_index
        for replica, progress in self.progress.items():
            if progress.next > last or progress.transfer is not None:
                continue
            if progress.next <= raft.log.first_index:
                self._offer(replica)
                progress.transfer = Transfer(raft.log.snapshot.index, raft.log.snapshot.term)
                continue
            self._send_entries(replica, progress, last)

    def _send_entries(self, replica: int, progress: Progress, last: int) -> None:
        raft = self._raft
        settings = raft.settings
        while progress.next <= last and progress.inflight_bytes < settings.inflight_bytes_max:
            entries, size = raft.log.slice_bytes(progress.next, settings.append_bytes_max)
            if progress.disk == DiskState.FULL:
                entries = tuple(takewhile(self._is_small, entries))
                if not entries:
                    return
            first = progress.next
            raft.send(replica, Append(raft.term, self.round, first, entries, raft.commit_index))
            # An empty payload has a cost too: count the entry, so that the pipeline stays bounded.
            progress.sent(entries[-1].index, size + 32 * len(entries))

    def _is_small(self, entry: Entry) -> bool:
        """Whether a follower without room on its disk takes it (1.4)."""
        return len(entry.payload) <= self._raft.settings.small_entry_bytes

    @property
    def disk_of_majority(self) -> DiskState:
        """Returns the best state of disk that a majority of the voters has, this one included.

        One that fell silent for an election timeout counts as full: it takes nothing either.
        """
        raft = self._raft
        states = sorted(map(self._disk_of, raft.voters))
        return states[len(states) // 2] if states else raft.disk

    def _disk_of(self, voter: int) -> DiskState:
        raft, progress = self._raft, self.progress.get(voter)
        if voter == raft.replica_id:
            return raft.disk
        if progress is None:
            return DiskState.FREE
        if raft.settings.election_ticks_max < progress.silent_ticks < NEVER_TICKS:
            return DiskState.FULL
        return DiskState(min(progress.disk, DiskState.FULL))

    def on_answer(self, replica: int, progress: Progress, answer: Answer) -> None:
        raft = self._raft
        if answer.round == 0 and not answer.ok:
            return  # it tells its term and nothing else
        mine = raft.log.term_at(answer.agreed)
        if mine is not None and mine != answer.agreed_term:
            self._raise_alarm(replica, progress, answer, mine)
            return
        if answer.round < progress.round:
            # Older than what this follower has said since: it counts for commit, not for `next`.
            if answer.ok:
                self._matched(progress, answer.agreed)
            return
        progress.disk = answer.disk
        restarted = answer.agreed < progress.match
        if answer.ok:
            self._matched(progress, answer.agreed)
        if progress.transfer is not None and answer.agreed >= progress.transfer.index:
            progress.transfer = None
        if not answer.ok or restarted or progress.next <= answer.agreed:
            # PROTOCOL: next := a + 1 on every answer. What is under way behind an accepted Append is
            # spared from being sent again: if it got lost, the next message is refused and says so.
            progress.restart_at(answer.agreed + 1)
        progress.acknowledged(answer.agreed)
        self._continue_transfer_of_leadership(replica, progress)

    def _matched(self, progress: Progress, agreed: int) -> None:
        if agreed > progress.match:
            progress.match = agreed
            self.advance_commit()

    def _raise_alarm(self, replica: int, progress: Progress, answer: Answer, mine: int) -> None:
        """The tripwire: two logs that are known to be equal differ. That replica counts no more."""
        if not progress.damaged:
            progress.damaged = True
            progress.match = 0
            self._raft.lease.count()
            self._raft.emit(
                EventKind.REPLICA_DAMAGED,
                replica,
                f"entry {answer.agreed} has term {answer.agreed_term} there and {mine} here",
            )

    def advance_commit(self) -> None:
        """Commit what a quorum has on disk, if it is of this term (paper 5.4.2, figure 8)."""
        raft = self._raft
        voters = raft.voters
        matches = []
        for voter in voters:
            if voter == raft.replica_id:
                matches.append(raft.durable)
            elif voter in self.progress and not self.progress[voter].damaged:
                matches.append(self.progress[voter].match)
            else:
                matches.append(0)
        matches.sort(reverse=True)
        index = matches[len(voters) // 2]
        if index > raft.commit_index and raft.log.term_at(index) == raft.term:
            raft.commit_index = index
            done = 0
            while done < len(self._uncommitted) and self._uncommitted[done][0] <= index:
                self._uncommitted_bytes -= self._uncommitted[done][1]
                done += 1
            del self._uncommitted[:done]
            raft.membership.on_committed()

    # --- snapshots ------------------------------------------------------------------------------

    def _offer(self, replica: int) -> None:
        raft = self._raft
        first = raft.log.snapshot
        raft.send(replica, Offer(raft.term, self.round, first.index, first.term, first.size))

    def on_transfer_answer(
        self, replica: int, progress: Progress, answer: OfferAnswer | ChunkAnswer
    ) -> None:
        """Send the chunk that is asked for, one at a time."""
        raft = self._raft
        first = raft.log.snapshot
        if (answer.index, answer.element_term) != (first.index, first.term):
            return  # about an element that the log does not begin with any more
        if self.is_withheld:
            return
        transfer = progress.transfer
        if transfer is None or transfer.index != first.index:
            transfer = progress.transfer = Transfer(first.index, first.term)
        stalled = transfer.silent_ticks >= raft.settings.chunk_retry_ticks
        under_way = transfer.offset >= 0 and not stalled
        if isinstance(answer, ChunkAnswer):
            offset = answer.next_offset
            if offset == 0 and transfer.offset >= 0:
                self._rest(replica, transfer)
                return
            if under_way and offset <= transfer.offset:
                return  # a duplicate: it must not begin a second chain of chunks
        else:
            offset = answer.send_from
            if under_way:
                return  # offers are heartbeats too
        if transfer.rests and not stalled and offset == 0:
            return
        transfer.silent_ticks = 0
        transfer.rests = False
        transfer.offset = offset
        raft.output.chunks.append(ChunkToSend(replica, raft.term, self.round, first, offset))

    def _rest(self, replica: int, transfer: Transfer) -> None:
        """The follower has nothing any more, be it that it restarted or that all of it was damaged.

        If it is damaged here, the next time ends as this one did. So there is none at once, and none stops
        compaction until there is: a newer element may be what helps.
        """
        first = self._raft.log.snapshot
        self._raft.output.dropped.append(Dropped(replica, first, transfer.offset))
        transfer.silent_ticks = 0
        transfer.offset = -1
        transfer.rests = True

    @property
    def is_withheld(self) -> bool:
        """Whether the host has found the first element damaged. The next one is whole again."""
        return self._withheld == self._raft.log.first_index

    def withhold(self) -> None:
        self._withheld = self._raft.log.first_index
        for progress in self.progress.values():
            if progress.transfer is not None:
                progress.transfer.offset = -1

    # --- handing over ---------------------------------------------------------------------------

    def transfer(self, to: int) -> None:
        raft = self._raft
        if not raft.is_leader:
            raise NotLeader
        if to == raft.replica_id or to not in raft.voters:
            raise ValueError(f"replica {to} is no other voter of this group")
        self.transfer_to, self._transfer_ticks = to, 0
        raft.lease.end()  # a TimeoutNow may arrive late, even after the transfer was given up
        self._continue_transfer_of_leadership(to, self.progress[to])

    def _continue_transfer_of_leadership(self, replica: int, progress: Progress) -> None:
        raft = self._raft
        if replica == self.transfer_to and progress.match == raft.log.last_index:
            raft.send(replica, TimeoutNow(raft.term))
