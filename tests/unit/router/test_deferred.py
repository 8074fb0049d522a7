"""Requests that ride along with what comes next, on the event loop that routers run on."""

from __future__ import annotations

import asyncio

import uvloop

from overdb.internal.v1 import log_pb2
from overdb_router.operations import Kind, Op
from tests.unit.router.fakes import running, until
from tests.unit.router.test_queues import Nobody


def advance(number: int) -> Op:
    deadline = asyncio.get_running_loop().time() + 5
    return Op(Kind.ADVANCE, log_pb2.Advance(version=number), 10, deadline, Nobody(), number)


def test_what_may_wait_for_no_time_at_all_leaves_with_the_rest() -> None:
    """uvloop gives no timer back for a time that is now: the next one must not ask it when it is due."""

    async def scenario() -> None:
        async with running() as cluster:
            link = cluster.router.core.dispatcher.links[0].leader
            ops = [advance(1001), advance(1002), advance(1003)]
            for op, seconds in zip(ops, (0.0, 0.0001, 0.5), strict=True):
                link.submit_within(op, seconds)
            await until(lambda: all(op.done for op in ops))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
