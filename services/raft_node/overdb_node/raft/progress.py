"""What a leader knows of one other replica."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from overdb_node.raft.types import DiskState

NEVER_TICKS = 1 << 30  # silent since for ever


@dataclass(slots=True)
class Transfer:
    """A snapshot under way to a follower: chunks within a window of bytes, acknowledged in order.

    ``acked`` is -1 while none are under way. Chunks below ``sent`` have been handed out; ``repeated`` is the
    offset from which they were last handed out again, so that each of the refusals that one lost chunk
    causes does not begin another repetition.
    """

    index: int
    element_term: int
    silent_ticks: int = 0  # since a chunk was asked for or acknowledged
    acked: int = -1
    sent: int = 0
    repeated: int = -1
    rests: bool = False  # the follower has dropped all of it: it is not begun again at once

    @property
    def runs(self) -> bool:
        return self.acked >= 0

    def begin_at(self, offset: int) -> None:
        self.silent_ticks = 0
        self.acked = self.sent = offset
        self.repeated = -1
        self.rests = False

    def stop(self) -> None:
        self.acked = -1


@dataclass(slots=True)
class Pursuit:
    """How a follower that lacks entries, or the snapshot, comes closer; counted while the log is kept for it.

    ``given_up`` counts how often the log was not kept for it any longer since it was last in step, ``why``
    says the reason of the last time.
    """

    acknowledged_bytes: int = 0  # of entries and chunks since the last tick
    bytes_per_tick: int = 0  # a running mean of those
    stalled_ticks: int = 0  # since anything was acknowledged
    slowing_ticks: int = 0  # in which writers were slowed for it
    rest_ticks: int = 0  # until it may be helped again
    waits_for_room: bool = False  # on the leader's disk: with it the rest ends
    given_up: int = 0
    why: str = ""
    extra_bytes: int = (
        0  # it lacked as much when it began again: not counted once more; -1: not known yet
    )

    def tick(self) -> None:
        self.bytes_per_tick = (3 * self.bytes_per_tick + self.acknowledged_bytes) // 4
        self.stalled_ticks = 0 if self.acknowledged_bytes else self.stalled_ticks + 1
        self.acknowledged_bytes = 0
        self.rest_ticks = max(0, self.rest_ticks - 1)

    def near(self) -> None:
        """What it lacks is in the leader's memory."""
        self.slowing_ticks = 0
        if not self.rest_ticks:
            self.given_up, self.why, self.extra_bytes = 0, "", 0

    def give_up(self, why: str, rest_ticks: int) -> None:
        self.given_up += 1
        self.why = why
        self.rest_ticks = rest_ticks
        self.waits_for_room = False
        self.extra_bytes = -1
        self.stalled_ticks = self.slowing_ticks = 0


@dataclass(slots=True)
class Laps:
    """How long a follower takes to reach what was the leader's last entry (dissertation 4.2.1).

    A lap begins with a goal, the last index at that moment, and ends when ``match`` is there. A short lap
    says that what the follower lacks is what is under way anyhow, however many entries that are.
    """

    goal: int = -1  # -1: no lap has begun
    ticks: int = 0  # of the present lap
    last_ticks: int = NEVER_TICKS  # of the last one that ended

    def matched(self, index: int, last_index: int) -> None:
        if index < self.goal:
            return
        if self.goal >= 0:
            self.last_ticks = self.ticks
        self.goal, self.ticks = last_index, 0

    def longest(self) -> int:
        """Of the last lap and the present one."""
        return max(self.last_ticks, self.ticks)


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
    fetching: bool = False  # the host reads entries from disk for it: nothing is sent meanwhile
    pursuit: Pursuit = field(default_factory=Pursuit)
    laps: Laps = field(default_factory=Laps)
    inflight_bytes: int = 0
    inflight: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def position(self) -> int:
        """Up to here it needs nothing: it has it, and has not asked for less since."""
        return min(self.match, self.next - 1)

    def tick(self) -> None:
        self.silent_ticks += 1
        self.laps.ticks += 1
        self.pursuit.tick()
        if self.transfer is not None:
            self.transfer.silent_ticks += 1

    def sent(self, last_index: int, size: int) -> None:
        self.inflight.append((last_index, size))
        self.inflight_bytes += size
        self.next = last_index + 1

    def acknowledged(self, index: int) -> None:
        """Everything up to ``index`` has arrived."""
        while self.inflight and self.inflight[0][0] <= index:
            size = self.inflight.popleft()[1]
            self.inflight_bytes -= size
            self.pursuit.acknowledged_bytes += size

    def restart_at(self, index: int) -> None:
        """Forget what is under way and send from ``index`` on."""
        self.next = index
        self.inflight.clear()
        self.inflight_bytes = 0
