"""One question for all who ask it, and never an answer that is older than the call."""

from __future__ import annotations

import asyncio

import pytest

from overdb_router import shared_answer
from overdb_router.shared_answer import SharedAnswer


class Question:
    """Counts how often it was asked, and answers with that number when it is told to."""

    cancelled = 0

    def __init__(self) -> None:
        self.asked: list[float] = []  # deadlines
        self.answering = asyncio.Event()
        self.error: BaseException | None = None

    async def ask(self, deadline: float) -> int:
        self.asked.append(deadline)
        number = len(self.asked)
        try:
            await self.answering.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
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


def test_closing_lets_everybody_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_answer, "PATIENCE_SECONDS", 60.0)

    async def scenario() -> None:
        shared = SharedAnswer(Question().ask)
        waiting = [asyncio.create_task(shared.get(soon()))]
        await turns()
        waiting.append(asyncio.create_task(shared.get(soon())))
        await turns()
        await shared.close()
        waiting.append(asyncio.create_task(shared.get(soon())))
        async with asyncio.timeout(1):
            ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in ended] == [TimeoutError] * 3

    asyncio.run(scenario())


def test_a_question_that_is_stuck_holds_up_nobody_who_comes_later() -> None:
    """It may have met a leader that stands still, where another one leads by now."""

    async def scenario() -> None:
        question = Question()
        shared = SharedAnswer(question.ask)
        stuck = asyncio.create_task(shared.get(soon()))
        await turns()
        later = asyncio.create_task(shared.get(soon()))
        async with asyncio.timeout(1):
            while len(question.asked) < 2:  # the first has no answer yet
                await asyncio.sleep(0.005)
        question.answering.set()
        assert (await stuck, await later) == (1, 2)

    asyncio.run(scenario())


def test_no_more_than_a_few_questions_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_answer, "PATIENCE_SECONDS", 0.0)

    async def scenario() -> None:
        question = Question()
        shared = SharedAnswer(question.ask)
        callers = []
        for _ in range(10):
            callers.append(asyncio.create_task(shared.get(soon())))
            await turns()
        assert len(question.asked) == shared_answer.QUESTIONS_MAX
        question.answering.set()
        assert sorted(await asyncio.gather(*callers)) == [1, 2, 3, 4, 5, 5, 5, 5, 5, 5]

    asyncio.run(scenario())


def test_a_question_that_nobody_waits_for_any_more_ends() -> None:
    async def scenario() -> None:
        question = Question()
        shared = SharedAnswer(question.ask)
        with pytest.raises(TimeoutError):
            await shared.get(asyncio.get_running_loop().time() + 0.01)
        await turns()
        assert question.cancelled == 1
        question.answering.set()
        assert await shared.get(soon()) == 2

    asyncio.run(scenario())


def test_what_is_cancelled_inside_strands_nobody() -> None:
    async def scenario() -> None:
        question = Question()
        question.answering.set()
        shared = SharedAnswer(question.ask)
        question.error = asyncio.CancelledError()
        with pytest.raises(TimeoutError):
            await shared.get(soon())
        question.error = None
        assert await shared.get(soon()) == 2

    asyncio.run(scenario())
