"""A replica's clocks: which time it stamps entries with, and whether its machine's wall clock is right.

The rule is in ``raft.group_time`` (PROTOCOL 2.1). This file reads the clocks, carries them in messages, and
says what an operator should know.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from overdb_node.leasing import elapsed_us
from overdb_node.machine.machine import TIME_WRONG_US_MIN, Machine
from overdb_node.raft.group_time import HEARD_US_MAX, WALL_US_MAX, GroupTime
from overdb_node.raft.messages import Answer, Append, Message

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft

_log = structlog.get_logger()
# A machine whose wall clock differs by more from the group's time says so, and does not lead if another can.
OFFSET_US_MAX = 10_000_000
# It says so only when this has lasted, and likewise that it is right again: what was heard of others may be
# old for a moment after a pause, and a new leader may know one other clock only, which is the wrong one.
CONFIRM_US = 1_000_000
# A group whose log has come to a time further ahead of its machines' clocks has a time that is wrong.
GROUP_AHEAD_US_MAX = TIME_WRONG_US_MIN
# Clocks heard from others advance with the local clock unless it jumps by more than this.
HEARD_JUMP_US_MAX = 1_000_000
# A leader has an idle group's time go on about so often, where what waits for it takes an hour.
IDLE_US = 30_000_000
_HOUR_US = 3_600_000_000
_SECOND_US = 1_000_000
# A version that is chosen now is not older than this, or than a quarter of the retention of versions.
FRESH_US_MAX = 1_000_000
# Between two attempts to hand leadership over. Each one may cost an election timeout without writes.
HAND_OVER_PAUSE_US = 10_000_000


def wall_us() -> int:
    """Returns this machine's wall clock in microseconds since the epoch; at least 1, as 0 stands for none."""
    return min(max(1, time.time_ns() // 1000), WALL_US_MAX)


class Timekeeper:
    """The clocks of one replica. Lives on the event loop."""

    def __init__(self, raft: Raft, group: int) -> None:
        self._raft = raft
        self._group = group
        self._group_time = GroupTime(raft.replica_id)
        self._leader_said_us = 0  # the group's time by the leader's last heartbeat that knew it
        self._leader_said_at_us = 0
        self._seen_since_us: int | None = (
            None  # since when the clock looks other than was confirmed
        )
        self._wrong_us = 0  # how far off the clock is, once that is confirmed; 0: it is right
        self._hand_over_at_us = 0
        self._worked_at_us: int | None = None  # the group's time when requests were taken in last
        self._moved_at_us = 0
        self._difference_us = wall_us() - elapsed_us()  # of the two clocks, at the last tick
        self._heard_difference_us = (
            self._difference_us
        )  # and when the group's time was asked for last

    # --- in messages ------------------------------------------------------------------------------

    def received(self, sender: int, message: Message) -> None:
        """Take in a clock that a message of another replica carries, after Raft has taken the message."""
        raft = self._raft
        if isinstance(message, Answer):
            if raft.is_leader and message.term == raft.term:
                self._forget_if_jumped()
                self._group_time.heard(
                    raft.term, sender, message.round, message.wall_us, elapsed_us()
                )
        elif isinstance(message, Append) and message.group_time_us and message.term == raft.term:
            self._leader_said_us = min(message.group_time_us, WALL_US_MAX)
            self._leader_said_at_us = elapsed_us()

    def outgoing(self, message: Message) -> Message:
        """Returns the message with the clock that it carries: an Answer the own, a heartbeat the group's."""
        if isinstance(message, Answer):
            return replace(message, wall_us=wall_us())
        if isinstance(message, Append) and not message.entries:
            return replace(message, group_time_us=self.group_time_us() or 0)
        return message

    # --- the group's time -------------------------------------------------------------------------

    def group_time_us(self) -> int | None:
        """Returns the group's time as this replica knows it now, as leader or by its leader's heartbeat."""
        raft, now_us = self._raft, elapsed_us()
        self._forget_if_jumped()
        if raft.is_leader:
            return self._group_time.median(raft.term, raft.voters, wall_us(), now_us)
        age_us = now_us - self._leader_said_at_us
        if self._leader_said_us and 0 <= age_us <= HEARD_US_MAX:
            return self._leader_said_us + age_us
        return None

    def _forget_if_jumped(self) -> None:
        """Discard the clocks heard before the local clock jumped (!).

        Either this clock was set, and the next answers come at once; or all machines slept, and the clocks of
        the others have gone on by as much.
        """
        difference_us = wall_us() - elapsed_us()
        if abs(difference_us - self._heard_difference_us) > HEARD_JUMP_US_MAX:
            self._group_time.forget()
            self._leader_said_us = 0
        self._heard_difference_us = difference_us

    @property
    def offset_us(self) -> int:
        """How far the wall clock is ahead of the group's time, negative: behind; 0: nothing is known."""
        group_us = self.group_time_us()
        return 0 if group_us is None else wall_us() - group_us

    def clocks_that_are_right(self) -> set[int]:
        """Returns the replicas whose clocks were heard and are near the group's time. Of a leader."""
        raft, now_us = self._raft, elapsed_us()
        own_us = wall_us()
        median = self._group_time.median(raft.term, raft.voters, own_us, now_us)
        if median is None:
            return set()
        clocks = self._group_time.clocks(raft.term, own_us, now_us)
        return {one for one, clock in clocks.items() if abs(clock - median) <= OFFSET_US_MAX}

    @property
    def clocks_agree(self) -> bool:
        """Returns whether a quorum of the voters' clocks are near the group's time. Valid on a leader only.

        The lower median of two clocks is the smaller one, right or not: enough to stamp entries with, which
        moves time forward only, and too little to set it back (PROTOCOL 2.1).
        """
        voters = self._raft.voters
        return 2 * len(self.clocks_that_are_right().intersection(voters)) > len(voters)

    # --- whether the clock is right ---------------------------------------------------------------

    def tick(self) -> None:
        """Called at each tick: notices jumps, and a clock that is wrong, or right again, for CONFIRM_US."""
        now_us = elapsed_us()
        self._notice_jump(now_us)
        if self.group_time_us() is None:
            self._seen_since_us = None
            return
        offset_us = self.offset_us
        is_wrong = abs(offset_us) > OFFSET_US_MAX
        if is_wrong == bool(self._wrong_us):
            self._seen_since_us = None
            self._wrong_us = offset_us if is_wrong else 0
        elif self._seen_since_us is None:
            self._seen_since_us = now_us
        elif now_us - self._seen_since_us >= CONFIRM_US:
            self._seen_since_us = None
            self._wrong_us = offset_us if is_wrong else 0
            if is_wrong:
                _log.error("clock_is_wrong", group=self._group, problem=_tell(offset_us))
            else:
                _log.info("clock_is_right", group=self._group)

    def _notice_jump(self, now_us: int) -> None:
        difference_us = wall_us() - now_us
        jump_us = difference_us - self._difference_us
        self._difference_us = difference_us
        if abs(jump_us) > OFFSET_US_MAX:
            _log.warning("clock_jumped", group=self._group, seconds=round(jump_us / 1e6, 1))

    @property
    def problem(self) -> str:
        """What an operator should know of this machine's clock; empty when it is right."""
        return _tell(self._wrong_us) if self._wrong_us else ""

    def group_problem(self, machine: Machine) -> str:
        """What an operator should know of the group's time; empty when it is right. Of a leader."""
        group_us = self.group_time_us() if self._raft.is_leader else None
        if group_us is None or machine.physical - group_us <= GROUP_AHEAD_US_MAX:
            return ""
        if not self.clocks_agree:  # it is not known which of them are right
            return ""
        ahead_seconds = (machine.physical - group_us) // _SECOND_US
        return (
            f"the time of group {self._group} is {ahead_seconds} s ahead of its machines' clocks, and "
            f"requests may be refused: run `overdb time repair --group {self._group}`"
        )

    # --- moving the group's time --------------------------------------------------------------------

    def lag_us(self, machine: Machine) -> int:
        """How far what was applied is behind the group's time; 0 too where a leader does not know it."""
        group_us = self.group_time_us() if self._raft.serves else None
        return 0 if group_us is None else max(0, group_us - machine.physical)

    def is_stale(self, machine: Machine) -> bool:
        """Whether a version chosen from the clock now would be an old one (PROTOCOL 2.7)."""
        return self.lag_us(machine) > min(FRESH_US_MAX, machine.retention_us // 4)

    def should_move_time(self, machine: Machine) -> bool:
        """Whether a leader of an idle group should log an entry now for its stamp alone (PROTOCOL 2.1).

        As long as something in the group may wait for time: old versions that are to go, and client ids.
        """
        group_us = self.group_time_us() if self._raft.serves else None
        if group_us is None:
            self._worked_at_us = None
            return False
        if (
            self._worked_at_us is None
        ):  # this leader's first look: the one before it may have worked
            self._worked_at_us = group_us
        idle_us, now_us = group_us - self._worked_at_us, elapsed_us()
        for span_us in sorted((machine.retention_us, machine.client_id_lifetime_us)):
            if idle_us <= 2 * span_us:
                due = self.lag_us(machine) > _pause_us(span_us)
                if due and now_us - self._moved_at_us >= _SECOND_US // 2:  # else one is on its way
                    self._moved_at_us = now_us
                    return True
                return False
        return False

    def worked(self) -> None:
        """Requests were taken in: the group is not idle."""
        self._worked_at_us = self.group_time_us()

    # --- handing over -------------------------------------------------------------------------------

    def should_hand_over(self) -> bool:
        """Whether a leader should let another one lead now, since its clock is wrong."""
        is_wrong = bool(self._wrong_us) and self._raft.is_leader
        return is_wrong and elapsed_us() >= self._hand_over_at_us

    def hands_over(self) -> None:
        """It does: the next attempt comes after a pause."""
        self._hand_over_at_us = elapsed_us() + HAND_OVER_PAUSE_US


def _pause_us(span_us: int) -> int:
    """Returns how often the time goes on where something waits for ``span_us``."""
    return min(max(min(span_us // 4, IDLE_US), span_us // 120), _HOUR_US)


def _tell(offset_us: int) -> str:
    way = "ahead of" if offset_us > 0 else "behind"
    return (
        f"the clock of this machine is {abs(offset_us) / 1e6:.0f} s {way} its group's time: set it, and see "
        "that NTP runs"
    )
