"""Who is no member by the own log is heard when somebody known vouches for it (PROTOCOL 3.8; FAULTS 87)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from overdb.internal.v1 import shard_pb2
from overdb_node import strangers
from overdb_node.strangers import SILENT_ROUNDS_MAX, STRANGERS_MAX, Strangers

STRANGER = 77


def answer(*members: int, leader: int = 1) -> shard_pb2.DescribeResponse:
    return shard_pb2.DescribeResponse(
        leader_id=leader, established=True, members=[shard_pb2.Member(id=i) for i in members]
    )


class World:
    """Answers questions from what it is told, and notes who became known."""

    def __init__(self) -> None:
        self.answers: dict[int, shard_pb2.DescribeResponse] = {}
        self.rounds = 0
        self.known: list[tuple[int, str]] = []
        self.strangers = Strangers(self.ask, lambda *who: self.known.append(who))

    async def ask(self) -> dict[int, shard_pb2.DescribeResponse]:
        self.rounds += 1
        return self.answers

    async def write_until(self, condition: Callable[[], bool], most: int = 1000) -> None:
        """Have the stranger write again and again."""
        for _ in range(most):
            self.strangers.hears(STRANGER, "")
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it does not come to that")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "ASK_SECONDS", 0)


def run(scenario: Callable[[World], object]) -> None:
    async def inside() -> None:
        world = World()
        await scenario(world)  # type: ignore[misc]
        await world.strangers.close()

    asyncio.run(inside())


def test_one_that_a_member_names_is_heard_and_has_a_link_back() -> None:
    async def scenario(world: World) -> None:
        world.answers = {2: answer(1, 2, 3), 3: answer(1, 2, 3, STRANGER)}
        assert not world.strangers.hears(STRANGER, "there:1")  # that packet is lost
        await world.write_until(lambda: world.strangers.hears(STRANGER, ""))
        assert world.known == [(STRANGER, "there:1")]
        assert world.rounds == 1

    run(scenario)


def test_one_that_answers_itself_at_a_known_address_is_heard() -> None:
    async def scenario(world: World) -> None:
        world.answers = {STRANGER: answer(leader=0)}
        await world.write_until(lambda: world.strangers.hears(STRANGER, ""))

    run(scenario)


def test_one_that_nobody_names_is_not_heard_however_long_it_writes() -> None:
    async def scenario(world: World) -> None:
        world.answers = {2: answer(1, 2, 3)}
        await world.write_until(lambda: world.rounds > 3 * SILENT_ROUNDS_MAX)
        assert not world.strangers.hears(STRANGER, "")
        assert world.known == []

    run(scenario)


@pytest.mark.parametrize("answers", [{}, {2: answer(1, 2, 3, leader=0)}])
def test_when_nobody_knows_a_leader_everybody_is_heard_after_a_while(
    answers: dict[int, shard_pb2.DescribeResponse],
) -> None:
    """All members that are known here may have been replaced: better than to stay out for ever."""

    async def scenario(world: World) -> None:
        world.answers = answers
        await world.write_until(lambda: world.strangers.hears(STRANGER, ""))
        assert world.rounds >= SILENT_ROUNDS_MAX

    run(scenario)


def test_a_leader_in_between_begins_the_count_anew() -> None:
    async def scenario(world: World) -> None:
        await world.write_until(lambda: world.rounds == SILENT_ROUNDS_MAX - 1)
        world.answers = {2: answer(1, 2, 3)}
        await world.write_until(lambda: world.rounds == SILENT_ROUNDS_MAX)
        world.answers = {}
        await world.write_until(lambda: world.rounds == 2 * SILENT_ROUNDS_MAX - 1)
        assert world.known == []

    run(scenario)


def test_made_up_ids_do_not_pile_up() -> None:
    async def scenario(world: World) -> None:
        for number in range(10_000):
            world.strangers.hears(number, f"x:{number}")
        made = world.strangers
        assert len(made._waiting) <= STRANGERS_MAX
        assert len(made._addresses) <= STRANGERS_MAX
        for _ in range(4 * SILENT_ROUNDS_MAX):
            for number in range(100):
                world.strangers.hears(number, "")
            await asyncio.sleep(0)
        assert len(made._heard) <= STRANGERS_MAX

    run(scenario)
