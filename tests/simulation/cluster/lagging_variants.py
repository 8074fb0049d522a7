"""Builds that break one rule of followers that lag each (PROTOCOL 1.1, 1.2)."""

from __future__ import annotations

from pytest import MonkeyPatch  # noqa: PT013  # it is the type of every argument here

from overdb_node.raft.entry_window import EntryWindow
from overdb_node.raft.progress import Progress
from overdb_node.raft.retention import Retention


def held_until_all_is_sent(patch: MonkeyPatch) -> None:
    """1.2 (!): what a follower needs next goes while it installs what it was sent."""
    whole = Retention._is_streamed_to

    def is_streamed_to(self: Retention, progress: Progress) -> bool:
        transfer = progress.transfer
        all_sent = transfer is not None and transfer.sent >= self._raft.log.snapshot.size
        return not all_sent and whole(self, progress)

    patch.setattr(Retention, "_is_streamed_to", is_streamed_to)


def held_until_the_transfer_ends(patch: MonkeyPatch) -> None:
    """1.2 (!): the next snapshot drops the entries behind the one that was sent, which the follower lacks."""
    patch.setattr(Retention, "_is_kept_for", Retention._is_streamed_to)


def nothing_is_evicted(patch: MonkeyPatch) -> None:
    """1.1: all that is kept stays in memory."""
    patch.setattr(EntryWindow, "evict", lambda *_: None)
