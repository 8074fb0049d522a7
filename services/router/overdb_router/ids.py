"""Ids for requests that come without one, so that the router's own retries are exactly-once.

PROTOCOL 2.2: an id is (client id, request number); PROTOCOL 2.10: client ids are UUIDv7, live for an
hour, and ``acknowledged_below`` says which numbers will never be asked about again.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

from overdb.v1 import kv_pb2

FUTURE_ID_NS_MIN = 1_000_000_000
NEW_ID_NS_MAX = 10_000_000_000  # well below the shortest life that nodes may give to ids


def uuid7(milliseconds: int, random: bytes) -> bytes:
    """Return a UUIDv7 (RFC 9562, 5.7): 48 bits of Unix time in ms, version, variant, random bits.

    ``random`` is 10 bytes, of which 74 bits are used.
    """
    head = (milliseconds & (1 << 48) - 1).to_bytes(6, "big")
    return b"".join(
        (
            head,
            bytes((0x70 | random[0] & 0x0F, random[1], 0x80 | random[2] & 0x3F)),
            random[3:10],
        )
    )


class Numbers:
    """The request numbers of one client id: ascending from 1, with the smallest that is still open."""

    __slots__ = ("_closed", "_next", "_open", "client_id")

    def __init__(self, client_id: bytes) -> None:
        self.client_id = client_id
        self._next = 1
        self._open: deque[int] = deque()  # ascending; those in _closed are gone but for their place
        self._closed: set[int] = set()

    def open(self) -> int:
        number = self._next
        self._next = number + 1
        self._open.append(number)
        return number

    def close(self, number: int) -> None:
        """The request has its answer, or nobody will ask for it again."""
        waiting, closed = self._open, self._closed
        closed.add(number)
        while waiting and waiting[0] in closed:
            closed.remove(waiting.popleft())

    @property
    def open_count(self) -> int:
        return len(self._open) - len(self._closed)

    @property
    def acknowledged_below(self) -> int:
        """Every number below this is closed."""
        return self._open[0] if self._open else self._next


class OwnId:
    """The id that the router gave to one request; closed when that request has its answer."""

    __slots__ = ("_ids", "_number", "_numbers", "ahead_since")

    def __init__(self, ids: RouterIds, numbers: Numbers, number: int) -> None:
        self._ids = ids
        self._numbers = numbers
        self._number = number
        self.ahead_since = 0.0  # when it was first refused as from the future; 0: never

    def close(self) -> None:
        self._numbers.close(self._number)

    @property
    def is_new(self) -> bool:
        """Whether the id was made just now, by the wall clock: another one would be no younger."""
        return self._ids.age_ns(self._numbers) < NEW_ID_NS_MAX

    @property
    def is_from_the_future(self) -> bool:
        """Whether the wall clock was set back since, so that a new id would be an older one."""
        return self._ids.age_ns(self._numbers) < -FUTURE_ID_NS_MIN

    def renew(self, request_id: kv_pb2.RequestId, *, same_client: bool = False) -> None:
        """Fill in another id, after every copy under this one was refused before it ran."""
        self._numbers.close(self._number)
        instead_of = None if same_client else self._numbers
        self._numbers, self._number = self._ids.fill(request_id, instead_of)


class RouterIds:
    """Gives ids to requests. A new client id is taken every ``renew_seconds``.

    The larger of both ages counts (!), by the wall clock and by the monotonic one: the first may be set, the
    second stands still while the machine is suspended.
    """

    def __init__(
        self,
        renew_seconds: float,
        wall_ns: Callable[[], int] = time.time_ns,
        random: Callable[[int], bytes] = os.urandom,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._renew_ns = int(renew_seconds * 1e9)
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._random = random
        self._born_ns = (0, 0)  # of the present client id, by both clocks
        self._numbers = Numbers(b"")

    def assign(self, request_id: kv_pb2.RequestId) -> OwnId:
        """Fill ``request_id`` and return what to close at the answer."""
        return OwnId(self, *self.fill(request_id))

    def age_ns(self, numbers: Numbers) -> int:
        """Return how old a client id is by the wall clock; negative: it is from the future."""
        return self._wall_ns() - int.from_bytes(numbers.client_id[:6], "big") * 1_000_000

    def fill(
        self, request_id: kv_pb2.RequestId, instead_of: Numbers | None = None
    ) -> tuple[Numbers, int]:
        """Fill ``request_id``, with no client id of ``instead_of``; return where its number is open."""
        now_ns, monotonic_ns = self._wall_ns(), self._monotonic_ns()
        age = max(now_ns - self._born_ns[0], monotonic_ns - self._born_ns[1])
        if age >= self._renew_ns or self._numbers is instead_of or not self._numbers.client_id:
            self._born_ns = (now_ns, monotonic_ns)
            self._numbers = Numbers(uuid7(now_ns // 1_000_000, self._random(10)))
        numbers = self._numbers
        number = numbers.open()
        request_id.client_id = numbers.client_id
        request_id.request_number = number
        request_id.started_at = now_ns // 1000
        request_id.acknowledged_below = numbers.acknowledged_below
        return numbers, number
