"""What a leader sends, and what it concludes from the answers (PROTOCOL 1.2; paper 5.3, 5.4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from overdb_node.raft.errors import NotLeader, Overloaded
from overdb_node.raft.log import prefix_within
from overdb_node.raft.messages import Answer, Append, TimeoutNow
from overdb_node.raft.output import EventKind, Fetch, Role
from overdb_node.raft.progress import NEVER_TICKS, Progress
from overdb_node.raft.retention import Retention
from overdb_node.raft.snapshot_sender import SnapshotSender
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
        self.snapshots = SnapshotSender(raft)
        self.retention = Retention(raft)

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
        self.retention.stop()
        self.progress = {}
        self.transfer_to = 0

    @property
    def committed_in_term(self) -> bool:
        return self._raft.commit_index >= self._first_own_index

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
            progress.tick()
        self.retention.tick()
        self._elapsed += 1
        if self._elapsed >= settings.heartbeat_ticks:
            self.next_round()
            self.broadcast_heartbeat()

    def _check_quorum(self) -> bool:
        """A leader that a quorum has not answered for an election timeout steps down (6.2)."""
        raft = self._raft
        active = [r for r, p in self.progress.items() if p.active and not p.damaged]
        for progress in self.progress.values():
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
            self.snapshots.offer(replica, self.round)
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
        if self._is_behind_in_applying(size):
            raise Overloaded
        first = self._append(payloads, kind)
        self._uncommitted_bytes += size
        self._uncommitted.append((raft.log.last_index, size))
        return first

    def _is_behind_in_applying(self, size: int) -> bool:
        """What is committed and not applied is in memory too, and bounded with the rest."""
        raft = self._raft
        unapplied = raft.log.unapplied_bytes
        behind = raft.applied < raft.commit_index
        return behind and unapplied + size > raft.settings.uncommitted_bytes_max

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
            if progress.next > last or progress.transfer is not None or progress.fetching:
                continue
            if progress.next <= raft.log.first_index:
                if not progress.pursuit.rest_ticks:
                    self.snapshots.begin(replica, progress, self.round)
            elif progress.next <= raft.log.evicted_index:
                self._fetch(replica, progress)
            else:
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
            self._send_append(replica, progress, entries, size)

    def _send_append(
        self, replica: int, progress: Progress, entries: tuple[Entry, ...], size: int
    ) -> None:
        raft = self._raft
        first = progress.next
        raft.send(replica, Append(raft.term, self.round, first, entries, raft.commit_index))
        # An empty payload has a cost too: count the entry, so that the pipeline stays bounded.
        progress.sent(entries[-1].index, size + 32 * len(entries))

    def _fetch(self, replica: int, progress: Progress) -> None:
        """Have entries read that are not in memory any more, one piece at a time."""
        raft, settings = self._raft, self._raft.settings
        if progress.inflight_bytes >= settings.inflight_bytes_max or progress.pursuit.rest_ticks:
            return
        if progress.disk == DiskState.FULL:
            return  # it would take none but small ones
        progress.fetching = True
        last, most = raft.log.evicted_index, settings.fetch_bytes_max
        raft.output.fetches.append(Fetch(replica, raft.term, progress.next, last, most))

    def on_fetched(self, fetch: Fetch, entries: Sequence[Entry]) -> None:
        """Send what was read, if it is still what the follower needs next."""
        raft = self._raft
        progress = self.progress.get(fetch.to)
        if progress is None or fetch.term != raft.term:
            return
        progress.fetching = False
        if progress.next != fetch.first or fetch.first <= raft.log.first_index:
            return  # the follower has said something else since, or they were compacted
        if not entries:
            self.retention.give_up(fetch.to, f"entry {fetch.first} of the log cannot be read")
            return
        sent = 0
        while sent < len(entries):
            part, size = prefix_within(entries, sent, raft.settings.append_bytes_max)
            for entry in part:
                assert raft.log.term_at(entry.index) == entry.term, f"entry {entry.index} differs"
            self._send_append(fetch.to, progress, part, size)
            sent += len(part)

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
            progress.pursuit.acknowledged_bytes += 1  # it moves, whatever was counted as under way
            progress.laps.matched(agreed, self._raft.log.last_index)
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
