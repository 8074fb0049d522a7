"""One question for all who ask it: what one answer costs does not grow with those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedAnswer(Generic[T]):
    """Asks when somebody wants to know, one time after the other.

    Whoever comes while a question is under way waits for the next: an answer must not be older than the call
    that it is given to. ``ask(deadline)`` asks, in seconds of the loop's clock; what it raises all raise.
    """

    def __init__(self, ask: Callable[[float], Awaitable[T]]) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[T]] = []  # for the question that comes next
        self._deadline = 0.0  # the latest of theirs
        self._task: asyncio.Task[None] | None = None

    async def get(self, deadline: float) -> T:
        """Return an answer to a question asked after this call began. TimeoutError at ``deadline``."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(future)
        self._deadline = max(self._deadline, deadline)
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name="shared-answer")
        async with asyncio.timeout_at(deadline):
            return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                deadline, self._deadline = self._deadline, 0.0
                try:
                    answer = await self._ask(deadline)
                except Exception as error:  # theirs, not this task's
                    for future in waiting:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for future in waiting:
                        if not future.done():
                            future.set_result(answer)
                finally:
                    for future in waiting:
                        future.cancel()  # has no effect unless this task is cancelled
        finally:
            self._task = None

    async def close(self) -> None:
        """Ask no more; who still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for future in self._waiting:
            future.cancel()
