"""One question for all who ask it, and never an answer that is older than the call."""

from __future__ import annotations

import asyncio

import pytest

from overdb_router.shared_answer import SharedAnswer


class Question:
    """Counts how often it was asked, and answers with that number when it is told to."""

    def __init__(self) -> None:
        self.asked: list[float] = []  # deadlines
        self.answering = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self, deadline: float) -> int:
        self.asked.append(deadline)
        number = len(self.asked)
        await self.answering.wait()
        if self.error is not None:
            raise self.error
        return number


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


def test_who_asks_while_a_question_is_under_way_shares_the_next() -> None:
    async def scenario() -> None:
        question = Question()
        shared = SharedAnswer(question.ask)
        first = asyncio.create_task(shared.get(soon()))
        await turns()
        later = [asyncio.create_task(shared.get(soon())) for _ in range(50)]
        await turns()
        question.answering.set()
        assert await first == 1
        assert await asyncio.gather(*later) == [2] * 50
        assert len(question.asked) == 2
        assert await shared.get(soon()) == 3

    asyncio.run(scenario())


def test_one_who_gives_up_takes_nobody_along_and_the_question_has_the_latest_deadline() -> None:
    async def scenario() -> None:
        question = Question()
        shared = SharedAnswer(question.ask)
        now = asyncio.get_running_loop().time()
        impatient = asyncio.create_task(shared.get(now + 0.02))
        patient = asyncio.create_task(shared.get(now + 5))
        cancelled = asyncio.create_task(shared.get(now + 5))
        await turns()
        cancelled.cancel()
        with pytest.raises(TimeoutError):
            await impatient
        question.answering.set()
        assert await patient == 1
        assert question.asked == [now + 5]

    asyncio.run(scenario())


def test_an_error_is_everybodys_and_the_next_question_is_asked_all_the_same() -> None:
    async def scenario() -> None:
        question = Question()
        question.answering.set()
        question.error = LookupError("no leader")
        shared = SharedAnswer(question.ask)
        both = await asyncio.gather(shared.get(soon()), shared.get(soon()), return_exceptions=True)
        assert [str(one) for one in both] == ["no leader"] * 2
        question.error = None
        assert await shared.get(soon()) == 2

    asyncio.run(scenario())


def test_closing_cancels_who_waits() -> None:
    async def scenario() -> None:
        shared = SharedAnswer(Question().ask)
        waiting = [asyncio.create_task(shared.get(soon()))]
        await turns()
        waiting.append(asyncio.create_task(shared.get(soon())))
        await turns()
        await shared.close()
        async with asyncio.timeout(1):
            ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)

    asyncio.run(scenario())
