"""One question for all who ask it: what one answer costs does not grow with those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# Who comes while a question is under way waits for it to end before the next one is asked, but not longer:
# it may have met somebody who does not answer, and all may be well again by now.
PATIENCE_SECONDS = 0.05
QUESTIONS_MAX = 4  # under way at once


class _Question(Generic[T]):
    """Those who wait for one answer. Nobody joins once it is asked."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[T]] = []
        self.left = 0  # of them who wait no more
        self.deadline = 0.0  # the latest of theirs
        self.began = 0.0
        self.task: asyncio.Task[None] | None = None

    @property
    def deserted(self) -> bool:
        return self.left == len(self.waiting)


class SharedAnswer(Generic[T]):
    """Asks when somebody wants to know.

    Whoever comes while a question is under way waits for the next: an answer must not be older than the call
    that it is given to. ``ask(deadline)`` asks, in seconds of the loop's clock; what it raises all raise.
    """

    def __init__(self, ask: Callable[[float], Awaitable[T]]) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._next: _Question[T] | None = None
        self._asked: list[_Question[T]] = []  # the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def get(self, deadline: float) -> T:
        """Return an answer to a question asked after this call began.

        Raises TimeoutError at ``deadline``, and where nothing is asked any more.
        """
        if self._closed:
            raise TimeoutError
        question = self._next
        if question is None:
            question = self._next = _Question()
            self._loop.call_soon(self._look)
        future: asyncio.Future[T] = self._loop.create_future()
        question.waiting.append(future)
        question.deadline = max(question.deadline, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        finally:
            question.left += 1
            if question.deserted and question.task is not None:
                question.task.cancel()  # has no effect when it is done

    def _look(self) -> None:
        """Ask the next question if it is time, or look again when it is."""
        question = self._next
        if question is None or self._closed:
            return
        if question.deserted:
            self._next = None
            return
        now = self._loop.time()
        if self._asked:
            wait = self._asked[-1].began + PATIENCE_SECONDS - now
            if len(self._asked) >= QUESTIONS_MAX:
                return  # the end of one looks again
            if wait > 0:
                if self._timer is None:
                    self._timer = self._loop.call_later(wait, self._timed)
                return
        self._next = None
        question.began = now
        self._asked.append(question)
        question.task = self._loop.create_task(self._run(question), name="shared-answer")

    def _timed(self) -> None:
        self._timer = None
        self._look()

    async def _run(self, question: _Question[T]) -> None:
        error: Exception = TimeoutError()  # what it ends with if it is cancelled
        try:
            answer = await self._ask(question.deadline)
        except Exception as raised:  # theirs, not this task's
            error = raised
        else:
            for future in question.waiting:
                if not future.done():
                    future.set_result(answer)
        finally:
            for future in question.waiting:
                if not future.done():
                    future.set_exception(error)
            self._asked.remove(question)
            self._look()

    async def close(self) -> None:
        """Ask no more. Who still waits gets a TimeoutError."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [question.task for question in self._asked if question.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for future in self._next.waiting if self._next is not None else ():
            if not future.done():
                future.set_exception(TimeoutError())
