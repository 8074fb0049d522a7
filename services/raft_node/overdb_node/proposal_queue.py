"""Requests that wait to become log entries, and how fast they may, while a follower catches up."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from overdb_node.transport.shard_service import Answers

PACED_TICKS_MAX = (
    20  # a request should wait no longer than this for its turn: beyond, it is refused
)
PACED_BYTES_MIN = 1 << 20


class Proposal(NamedTuple):
    """Commands of one router's message, and who is told what became of them."""

    commands: bytes
    sequence: int
    answers: Answers


class ProposalQueue:
    """First in, first out. All of it is taken at each turn, unless the leader sets a pace (PROTOCOL 1.2).

    With a pace, so many bytes are taken per tick; one that is larger than what is left of the tick's share is
    taken all the same, and the ticks behind it pay for it.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: deque[Proposal] = deque()
        self.queued_bytes = 0
        self._pace_bytes: int | None = None
        self._left_bytes = 0  # of this tick's share

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def why_full(self, size: int) -> str:
        """Why one more request of ``size`` bytes is not taken in; empty when it is."""
        pace = self._pace_bytes
        if pace is not None:
            most = max(PACED_BYTES_MIN, pace * PACED_TICKS_MAX)
            if self._waiting and self.queued_bytes + size > most:
                return (
                    f"writes are slowed so that a replica can catch up, and {self.queued_bytes} bytes wait; "
                    "retry later"
                )
        if self.queued_bytes + size > self._bytes_max:
            return (
                f"{self.queued_bytes} bytes wait to be proposed, the limit is {self._bytes_max}; "
                "retry later"
            )
        return ""

    def add(self, proposal: Proposal) -> None:
        self._waiting.append(proposal)
        self.queued_bytes += len(proposal.commands)

    def tick(self, pace_bytes: int | None) -> None:
        """A tick has passed; from now on so many bytes may be taken in each (None: all)."""
        if pace_bytes is None:
            self._left_bytes = 0
        else:  # what was not used is gone, what was used beyond the share is owed
            self._left_bytes = pace_bytes + min(0, self._left_bytes)
        self._pace_bytes = pace_bytes

    def take(self) -> list[Proposal]:
        """What may be proposed now, in order."""
        if self._pace_bytes is None:
            taken = list(self._waiting)
            self._waiting.clear()
            self.queued_bytes = 0
            return taken
        taken = []
        while self._waiting and self._left_bytes > 0:
            proposal = self._waiting.popleft()
            self.queued_bytes -= len(proposal.commands)
            self._left_bytes -= len(proposal.commands)
            taken.append(proposal)
        return taken

    def take_all(self) -> list[Proposal]:
        """Everything, whatever the pace: this replica does not lead any more."""
        self._pace_bytes = None
        return self.take()
