"""Ids that make a retry exactly-once (PROTOCOL 2.2, 2.10).

A client id is a UUIDv7: it carries its creation time, and servers accept it for one hour. A client
takes a fresh one well before that. Request numbers count from 1 within a client id, and each request
says below which number everything has its answer, so that the servers can forget those results.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

CLIENT_ID_SECONDS_MAX = (
    20 * 60.0
)  # servers accept an id for an hour: 40 minutes are left for retries
FUTURE_ID_MS_MIN = 1_000
NEW_ID_MS_MAX = 10_000  # well below the shortest life that servers may give to ids
STUCK_ID_SECONDS_MAX = 1.0  # how long an id is used on after one of its requests was given up

_HEX_ID = re.compile(r"[0-9a-fA-F]{32}")
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")


class RequestId(NamedTuple):
    """Names one write for good; passing it again makes the repetition the same request.

    ``client_id``: 16 bytes, UUIDv7. ``request_number``: from 1. ``started_at``: microseconds since
    the epoch. ``acknowledged_below``: every number below it of this client id has its answer.
    """

    client_id: bytes
    request_number: int
    started_at: int
    acknowledged_below: int

    def __str__(self) -> str:
        return f"{self.client_id.hex()}/{self.request_number}"

    @classmethod
    def parse(cls, text: str) -> RequestId:
        """Read an id as ``str`` writes it: 32 hexadecimal digits, a slash, the request number.

        Enough to ask for its status (start time and acknowledgement are 0). ValueError otherwise.
        """
        digits, _, number = text.strip().partition("/")
        if not _HEX_ID.fullmatch(digits) or not _NUMBER.fullmatch(number):
            raise ValueError(
                f"{text!r} is no id of a request: expected 32 hexadecimal digits, a slash and a "
                "number from 1 on"
            )
        return cls(bytes.fromhex(digits), int(number), 0, 0)


def uuid7(unix_ms: int, random: bytes) -> bytes:
    """Return a UUIDv7 (RFC 9562): 48 bits of milliseconds since the epoch, then 74 random bits.

    ``random`` has 10 bytes; six of its bits give way to version and variant.
    """
    tail = bytearray(random)
    tail[0] = 0x70 | (tail[0] & 0x0F)
    tail[2] = 0x80 | (tail[2] & 0x3F)
    return unix_ms.to_bytes(6, "big") + bytes(tail)


class Generation:
    """One client id with the numbers that are still open under it."""

    __slots__ = ("born", "born_wall_ms", "client_id", "next_number", "open", "stuck")

    def __init__(self, client_id: bytes, born: float, born_wall_ms: int) -> None:
        self.client_id = client_id
        self.born = born  # monotonic seconds
        self.born_wall_ms = born_wall_ms  # as the id says it
        self.next_number = 1
        self.open: dict[int, None] = {}  # in ascending order: numbers are given out that way
        self.stuck = False  # a number was given up with its outcome unknown and stays open

    def take(self) -> int:
        """Open the next number."""
        number = self.next_number
        self.next_number = number + 1
        self.open[number] = None
        return number

    def release(self, number: int) -> None:
        """Close a number: it has its answer, or nobody is going to ask for it again."""
        self.open.pop(number, None)

    def acknowledged_below(self) -> int:
        """Return the lowest open number: the servers may forget everything below it."""
        return next(iter(self.open), self.next_number)


class ClientIds:
    """Gives out numbers under the present client id, and renews that id.

    Servers count an id's age by wall clocks. The monotonic clock stands still while a machine is suspended,
    and the wall clock may be set: so the larger of both ages counts (!). A wall clock that is behind the id
    is no reason: either may be right, and only the servers know which.

    Besides its age, a number that stays open (outcome unknown) is a reason to renew: it would keep
    ``acknowledged_below`` where it is, and the servers would have to remember everything after it.
    """

    __slots__ = ("_generation", "_monotonic", "_random", "_seconds_max", "_wall_ms")

    def __init__(
        self,
        *,
        seconds_max: float = CLIENT_ID_SECONDS_MAX,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._seconds_max = seconds_max
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._random = random
        self._generation = self._fresh()

    def current(self, now: float) -> Generation:
        """Return the generation for a new request; ``now`` is monotonic seconds."""
        generation = self._generation
        wall_age = (self._wall_ms() - generation.born_wall_ms) / 1000
        age = max(now - generation.born, wall_age)
        if age >= self._seconds_max or (generation.stuck and age >= STUCK_ID_SECONDS_MAX):
            generation = self._generation = self._fresh()
        return generation

    def instead_of(self, refused: Generation) -> Generation:
        """Return the generation for a request whose id the servers refuse: any other than that one."""
        if self._generation is refused:
            self._generation = self._fresh()
        return self._generation

    def is_new(self, generation: Generation) -> bool:
        """Return whether the id was made just now, by the wall clock: another one would be no younger."""
        return self._wall_ms() < generation.born_wall_ms + NEW_ID_MS_MAX

    def is_from_the_future(self, generation: Generation) -> bool:
        """Return whether the wall clock was set back since, so that a new id would be an older one."""
        return self._wall_ms() < generation.born_wall_ms - FUTURE_ID_MS_MIN

    def _fresh(self) -> Generation:
        wall_ms = self._wall_ms()
        return Generation(uuid7(wall_ms, self._random(10)), self._monotonic(), wall_ms)
