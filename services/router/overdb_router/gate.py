"""How many calls are worked on at a time, and the end of it: stop taking calls, finish those there are."""

from __future__ import annotations

import asyncio
import contextlib

from overdb_router import refusals
from overdb_router.refusals import Refusal, Refused

_STOPPING = Refusal(
    refusals.UNAVAILABLE, "this router is stopping; nothing was done, retry at another endpoint"
)


class Gate:
    """Counts calls in and out. ``calls_max`` bounds single calls; streams are bounded in bytes instead."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._open = 0
        self._closing = False
        self._emptied = asyncio.Event()

    @property
    def open(self) -> int:
        return self._open

    def enter(self, *, bounded: bool = True) -> None:
        """Let a call in. Raises Refused when stopping (UNAVAILABLE) or full (RESOURCE_EXHAUSTED)."""
        if self._closing:
            raise Refused(_STOPPING)
        if bounded and self._open >= self._calls_max:
            raise Refused(
                refusals.resource_exhausted(
                    "router",
                    f"{self._open} calls are worked on, the limit is {self._calls_max}; retry later, or "
                    "send many requests in one Batch stream",
                )
            )
        self._open += 1

    def leave(self) -> None:
        self._open -= 1
        if not self._open:
            self._emptied.set()

    async def close(self, seconds_max: float) -> None:
        """Take no more calls, and wait for those there are."""
        self._closing = True
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds_max):
                    await self._emptied.wait()
