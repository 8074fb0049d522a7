"""What a leader knows of one other replica."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from overdb_node.raft.types import DiskState

NEVER_TICKS = 1 << 30  # silent since for ever


@dataclass(slots=True)
class Transfer:
    """A snapshot under way to a follower, one chunk at a time."""

    index: int
    element_term: int
    silent_ticks: int = 0  # since a chunk was asked for or acknowledged
    offset: int = -1  # of the chunk under way; -1: none
    rests: bool = False  # the follower has dropped all of it: it is not begun again at once


@dataclass(slots=True)
class Progress:
    """``match`` counts for commit. ``next`` only guesses what to send: a wrong guess costs a message.

    ``inflight`` holds (last index, bytes) of Appends sent and not answered, oldest first.
    """

    next: int
    match: int = 0
    round: int = 0  # the newest that it has answered
    active: bool = True  # heard from since the last CheckQuorum
    silent_ticks: int = NEVER_TICKS  # since it was heard; unlike ``active`` pessimistic at first
    disk: int = DiskState.FREE  # as it said last
    damaged: bool = False  # its log contradicts ours (the tripwire): not counted any more
    transfer: Transfer | None = None
    inflight_bytes: int = 0
    inflight: deque[tuple[int, int]] = field(default_factory=deque)

    def sent(self, last_index: int, size: int) -> None:
        self.inflight.append((last_index, size))
        self.inflight_bytes += size
        self.next = last_index + 1

    def acknowledged(self, index: int) -> None:
        """Everything up to ``index`` has arrived."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]

    def restart_at(self, index: int) -> None:
        """Forget what is under way and send from ``index`` on."""
        self.next = index
        self.inflight.clear()
        self.inflight_bytes = 0
