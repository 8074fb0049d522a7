"""A leader's snapshot transfers: several chunks under way to each follower (PROTOCOL 1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overdb_node.raft.messages import ChunkAnswer, Offer, OfferAnswer
from overdb_node.raft.output import ChunkToSend, Dropped
from overdb_node.raft.progress import Progress, Transfer

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft


class SnapshotSender:
    """Offers the first element and sends it, chunk by chunk, to those who ask for it.

    It never decides that a follower needs it: one that has the entry answers an offer like an Append.
    """

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._withheld = -1  # index of a first element that must not be sent

    def offer(self, replica: int, round_: int) -> None:
        raft = self._raft
        first = raft.log.snapshot
        raft.send(replica, Offer(raft.term, round_, first.index, first.term, first.size))

    def begin(self, replica: int, progress: Progress, round_: int) -> None:
        """Offer it, and send no entries until the follower has answered."""
        first = self._raft.log.snapshot
        self.offer(replica, round_)
        progress.transfer = Transfer(first.index, first.term)

    def answered(self, replica: int, progress: Progress, answer: OfferAnswer | ChunkAnswer) -> None:
        """Send the chunks that follow what the follower has staged."""
        raft = self._raft
        first = raft.log.snapshot
        if (answer.index, answer.element_term) != (first.index, first.term):
            return  # about an element that the log does not begin with any more
        if self.is_withheld or progress.pursuit.rest_ticks:
            return
        transfer = progress.transfer
        if transfer is None or transfer.index != first.index:
            transfer = progress.transfer = Transfer(first.index, first.term)
        if isinstance(answer, ChunkAnswer):
            goes_on = self._on_chunk_answer(replica, progress, transfer, answer)
        else:
            goes_on = self._on_offer_answer(transfer, answer)
        if goes_on:
            self._fill_window(replica, transfer, answer.window_bytes)

    def _on_offer_answer(self, transfer: Transfer, answer: OfferAnswer) -> bool:
        """Offers are heartbeats too: while chunks are under way their answers say nothing new."""
        stalled = transfer.silent_ticks >= self._raft.settings.chunk_retry_ticks
        if transfer.runs and not stalled:
            return False
        if transfer.rests and not stalled and answer.send_from == 0:
            return False
        transfer.begin_at(answer.send_from)
        return True

    def _on_chunk_answer(
        self, replica: int, progress: Progress, transfer: Transfer, answer: ChunkAnswer
    ) -> bool:
        stalled = transfer.silent_ticks >= self._raft.settings.chunk_retry_ticks
        offset, before = answer.next_offset, transfer.acked
        # A follower that does not know windows does not say why it has nothing.
        lost_all = offset == 0 and (before > 0 or not answer.window_bytes)
        if transfer.runs and (answer.dropped or lost_all):
            self._rest(replica, transfer)
            return False
        if transfer.rests and not stalled and offset == 0:
            return False
        if not transfer.runs or stalled:
            transfer.begin_at(offset)
            return True
        if offset > before:
            progress.pursuit.acknowledged_bytes += offset - before
            transfer.acked, transfer.silent_ticks = offset, 0
            transfer.sent = max(transfer.sent, offset)
            return True
        if offset == before and transfer.repeated != offset and answer.window_bytes:
            # A chunk arrived behind one that was lost: go back, once for each loss.
            transfer.sent = transfer.repeated = offset
            return True
        return False  # a duplicate

    def _fill_window(self, replica: int, transfer: Transfer, window_bytes: int) -> None:
        """Hand out chunks within the window: at least one when nothing is under way."""
        raft, settings = self._raft, self._raft.settings
        first = raft.log.snapshot
        end = transfer.acked + min(window_bytes, settings.chunk_window_bytes)
        while transfer.sent < first.size:
            length = min(settings.chunk_bytes_max, first.size - transfer.sent)
            if transfer.sent > transfer.acked and transfer.sent + length > end:
                return
            raft.output.chunks.append(
                ChunkToSend(replica, raft.term, raft.leading.round, first, transfer.sent, length)
            )
            transfer.sent += length

    def _rest(self, replica: int, transfer: Transfer) -> None:
        """The follower has nothing any more, be it that it restarted or that all of it was damaged.

        If it is damaged here, the next time ends as this one did. So there is none at once, and none stops
        compaction until there is: a newer element may be what helps.
        """
        first = self._raft.log.snapshot
        self._raft.output.dropped.append(Dropped(replica, first, transfer.sent))
        transfer.silent_ticks = 0
        transfer.stop()
        transfer.rests = True

    # --- an element that must not be sent ---------------------------------------------------------

    @property
    def is_withheld(self) -> bool:
        """Whether the host has found the first element damaged. The next one is whole again."""
        return self._withheld == self._raft.log.first_index

    def withhold(self) -> None:
        self._withheld = self._raft.log.first_index
        for progress in self._raft.leading.progress.values():
            if progress.transfer is not None:
                progress.transfer.stop()
