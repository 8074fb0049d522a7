"""What a follower accepts: the one-step override, and snapshots (PROTOCOL 1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overdb_node.raft.messages import Answer, Append, Chunk, ChunkAnswer, Offer, OfferAnswer
from overdb_node.raft.output import EventKind, Install, Role, Stage
from overdb_node.raft.types import DiskState, Entry, Snapshot

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft


@dataclass(frozen=True, slots=True)
class _StagingKey:
    """What is staged is dropped when any of these changes."""

    term: int
    leader: int
    index: int
    element_term: int


class Following:
    """The follower's half of replication. ``agreed`` itself lives in the core."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._leader_commit = 0  # largest heard from the leader of agreed_term
        self._round = 0  # newest round heard from it
        self._answer_due = False  # an Append was accepted and waits for its fsync
        self._acknowledged = 0  # the largest index that the leader of agreed_term was told
        self._holds_back = False  # the last answer said less than is on disk
        self._staging: _StagingKey | None = None
        self._staged = 0  # bytes of it that are on disk
        self._handed_out = 0  # bytes of it that the host was given
        self._on_disk = 0  # bytes that are staged, of whichever snapshot
        self._on_disk_at_look = 0  # as many when the host looked how much room there is
        # Size of the leader's snapshot that this replica needs and has no room for; 0: there is none.
        self.needs_room_bytes = 0

    def on_message(self, leader: int, message: Append | Offer | Chunk) -> None:
        """A message of the leader of this very term."""
        raft = self._raft
        if raft.agreed_term != raft.term:
            # First contact in this term, also one that was adopted earlier through a vote. The
            # committed prefix is safe ground, by leader completeness; nothing above it is.
            raft.agreed_term, raft.agreed = raft.term, raft.commit_index
            self._leader_commit = self._round = self._acknowledged = 0
            self._answer_due = False
            self.needs_room_bytes = 0
        self._round = max(self._round, message.round)
        if isinstance(message, Append):
            self._on_append(leader, message)
        elif isinstance(message, Offer):
            self._on_offer(leader, message)
        else:
            self._on_chunk(leader, message)

    # --- entries --------------------------------------------------------------------------------

    def _on_append(self, leader: int, message: Append) -> None:
        raft = self._raft
        if message.first_index > raft.agreed + 1:
            self._answer(leader, ok=False)
            return
        self.needs_room_bytes = 0
        self._leader_commit = max(self._leader_commit, message.leader_commit)
        added = self._take(message) if message.entries else False
        self._advance_commit()
        if added:
            self._answer_due = True  # one answer, after the fsync
        else:
            self._answer(leader, ok=True)

    def _take(self, message: Append) -> bool:
        """Walk the entries; cut at the first difference only; return whether anything was added."""
        raft, log = self._raft, self._raft.log
        entries = message.entries
        position = max(0, raft.commit_index + 1 - message.first_index)  # those below are equal
        while position < len(entries):
            entry = entries[position]
            mine = log.term_at(entry.index)
            if mine != entry.term:
                break
            position += 1
        taken = entries[position : self._end_of_room(entries, position)]
        if taken and log.term_at(taken[0].index) is not None:
            raft.cut_log(taken[0].index)
        log.append(taken)
        raft.agreed = max(raft.agreed, message.first_index + position + len(taken) - 1)
        return bool(taken)

    def _end_of_room(self, entries: Sequence[Entry], position: int) -> int:
        """Returns where the entries end that the disk has room for, of those from ``position`` on (1.4)."""
        if self._raft.disk is DiskState.FULL:
            small = self._raft.settings.small_entry_bytes
            for end in range(position, len(entries)):
                if len(entries[end].payload) > small:
                    return end
        return len(entries)

    def on_persisted(self) -> None:
        self._advance_commit()
        raft = self._raft
        if self._answer_due and raft.leader_id and raft.agreed_term == raft.term:
            if raft.durable >= raft.agreed:
                self._answer_due = False
            self._answer(raft.leader_id, ok=True)

    def _advance_commit(self) -> None:
        raft = self._raft
        if raft.agreed_term == raft.term and raft.leader_id:
            raft.commit_index = max(
                raft.commit_index, min(self._leader_commit, raft.agreed, raft.durable)
            )

    def on_applied(self) -> None:
        """What was held back while this replica was behind in applying is acknowledged now."""
        raft = self._raft
        if not self._holds_back or self._is_behind_in_applying():
            return
        self._holds_back = False
        if raft.leader_id and raft.agreed_term == raft.term and not raft.is_leader:
            self._answer(raft.leader_id, ok=True)

    def _is_behind_in_applying(self) -> bool:
        """Whether so much waits to be applied that the leader should send no more for now.

        What is not committed yet does not count alone: it may wait for this very acknowledgement.
        """
        raft = self._raft
        too_much = raft.log.unapplied_bytes > raft.settings.unapplied_bytes_max
        return too_much and raft.applied < raft.commit_index

    def _answer(self, leader: int, *, ok: bool) -> None:
        """Say how far the logs agree on disk, or less: an answer that says less is like one before it."""
        raft = self._raft
        agreed = min(raft.agreed, raft.durable)
        self._holds_back = ok and self._is_behind_in_applying()
        if self._holds_back:
            agreed = min(agreed, max(self._acknowledged, raft.commit_index))
        self._acknowledged = max(self._acknowledged, agreed)
        term_there = raft.log.term_at(agreed)
        assert term_there is not None
        promise = raft.settings.promise_us  # given when the newest round was heard (``Election``)
        # One that needs a snapshot and has no room for it takes nothing, however many bytes are free.
        disk = DiskState.FULL if self.needs_room_bytes else raft.disk
        raft.send(
            leader, Answer(raft.term, self._round, ok, agreed, term_there, promise, disk=disk)
        )

    # --- snapshots ------------------------------------------------------------------------------

    def _on_offer(self, leader: int, offer: Offer) -> None:
        raft = self._raft
        if raft.log.term_at(offer.index) == offer.element_term:
            # The leader's first element is committed, and this log has it with all before it.
            raft.agreed = max(raft.agreed, offer.index)
            raft.commit_index = max(raft.commit_index, min(offer.index, raft.durable))
        if offer.index <= raft.agreed:
            self.needs_room_bytes = 0
            self._answer(leader, ok=True)
            return
        key = _StagingKey(raft.term, leader, offer.index, offer.element_term)
        goes_on = self._staging == key and self._handed_out > 0
        if not goes_on and not self._has_room(offer):
            self._lack_room(leader, offer)
            return
        self.needs_room_bytes = 0
        if self._staging != key:
            raft.emit(
                EventKind.SNAPSHOT_OFFERED, leader, f"index {offer.index}, {offer.size} bytes"
            )
        self._adopt(key)
        raft.send(
            leader,
            OfferAnswer(
                raft.term,
                self._round,
                offer.index,
                offer.element_term,
                self._handed_out,
                raft.settings.chunk_window_bytes,
            ),
        )

    def _has_room(self, offer: Offer) -> bool:
        """Return true if the snapshot fits (1.4). Staged bytes count as free: they are removed first."""
        room = self._raft.snapshot_bytes_max  # half of what was free at the last look
        return room is None or offer.size <= room + self._on_disk_at_look // 2

    def on_look(self) -> None:
        """Note how much was staged when the host measured the free space."""
        self._on_disk_at_look = self._on_disk

    def _lack_room(self, leader: int, offer: Offer) -> None:
        """Answer as to a heartbeat: alive, and the transfer does not begin (1.4)."""
        if not self.needs_room_bytes:
            self._raft.emit(
                EventKind.SNAPSHOT_HAS_NO_ROOM, leader, f"index {offer.index}, {offer.size} bytes"
            )
        self.needs_room_bytes = offer.size
        self._answer(leader, ok=True)

    def _adopt(self, key: _StagingKey) -> None:
        if self._staging != key:
            self._staging = key
            self._staged = self._handed_out = 0

    def _on_chunk(self, leader: int, chunk: Chunk) -> None:
        raft = self._raft
        if chunk.index <= raft.agreed:
            self._answer(leader, ok=True)
            return
        self._adopt(_StagingKey(raft.term, leader, chunk.index, chunk.element_term))
        under_way = self._handed_out - self._staged
        if chunk.offset != self._handed_out:
            if chunk.offset > self._handed_out or not under_way:
                self._answer_chunk(leader)
            return  # a duplicate; the answer to those under way will do
        if under_way and under_way + len(chunk.data) > raft.settings.chunk_window_bytes:
            return  # more than was asked for: it will come again
        self._handed_out += len(chunk.data)
        raft.output.stages.append(
            Stage(
                raft.term,
                leader,
                chunk.index,
                chunk.element_term,
                chunk.offset,
                chunk.size,
                chunk.data,
            )
        )

    def on_staged(self, stage: Stage, next_offset: int, snapshot: Snapshot | None) -> None:
        raft, key = self._raft, self._staging
        self._on_disk = next_offset if snapshot is None else 0
        if key != _StagingKey(stage.term, stage.leader, stage.index, stage.element_term):
            return  # another transfer has begun since
        assert key is not None
        end = stage.offset + len(stage.data)
        if self._handed_out < end:
            return  # handed out before all of it was dropped
        self._staged = next_offset
        if next_offset != end:
            self._handed_out = next_offset  # it was dropped, or is not where the bytes on disk end
        if snapshot is None:
            if key.term == raft.term and key.leader == raft.leader_id:
                was_all = end >= stage.size
                self._answer_chunk(key.leader, dropped=was_all and next_offset == 0)
            return
        self._staging, self._staged, self._handed_out = None, 0, 0
        if key.term == raft.term and raft.role is Role.FOLLOWER:
            self._complete(snapshot)

    def _complete(self, snapshot: Snapshot) -> None:
        """All of it is staged, by this term's leader, who may be silent by now."""
        raft = self._raft
        if snapshot.index <= raft.agreed:  # tested again: the log may have grown past it
            if raft.leader_id:
                self._answer(raft.leader_id, ok=True)
            return
        kept = raft.log.term_at(snapshot.index) == snapshot.term
        raft.installing = snapshot
        raft.output.install = Install(snapshot, kept)

    def _answer_chunk(self, leader: int, *, dropped: bool = False) -> None:
        raft, key = self._raft, self._staging
        assert key is not None
        window = raft.settings.chunk_window_bytes
        raft.send(
            leader,
            ChunkAnswer(
                raft.term,
                self._round,
                key.index,
                key.element_term,
                self._staged,
                window,
                dropped,
            ),
        )

    def on_installed(self) -> None:
        self._answer_due = False
        if self._raft.leader_id:
            self._answer(self._raft.leader_id, ok=True)
