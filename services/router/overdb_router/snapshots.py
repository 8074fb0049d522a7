"""Reads at a version: choosing one that covers everything, and bringing groups up to it (PROTOCOL 2.7)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable

import grpc

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_router import refusals
from overdb_router.dispatcher import Dispatcher
from overdb_router.exchange import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN
from overdb_router.operations import Kind, Op
from overdb_router.queues import OVERHEAD_BYTES
from overdb_router.refusals import Refusal, Refused, invalid
from overdb_router.settings import RouterSettings
from overdb_router.shared_answer import SharedAnswer
from overdb_router.topology import Topology

# A read and the timer of its deadline.
_Waiting = tuple[Op, asyncio.TimerHandle]


class Waiter:
    """Lets a coroutine wait for the answer of one request."""

    def __init__(self) -> None:
        self._future: asyncio.Future[shard_pb2.Result | shard_pb2.Value] = (
            asyncio.get_running_loop().create_future()
        )

    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None:  # noqa: ARG002
        if not self._future.done():
            self._future.set_result(result)

    def written(self, op: Op, version: int) -> None:
        self.answered(op, "put", shard_pb2.Result(put=kv_pb2.PutResponse(version=version)))

    def read(self, op: Op, value: shard_pb2.Value) -> None:  # noqa: ARG002
        if not self._future.done():
            self._future.set_result(value)

    def got(self, op: Op, content: bytes, version: int) -> None:
        found = version > 0
        self.read(op, shard_pb2.Value(found=found, value=content, version=version))

    def refused(self, op: Op, refusal: Refusal) -> None:  # noqa: ARG002
        if not self._future.done():
            self._future.set_exception(Refused(refusal))

    async def result(self) -> shard_pb2.Result:
        """Raises Refused."""
        answer = await self._future
        assert isinstance(answer, shard_pb2.Result)
        return answer

    async def value(self) -> shard_pb2.Value:
        """Raises Refused."""
        answer = await self._future
        assert isinstance(answer, shard_pb2.Value)
        return answer


def newest_of(clocks: Iterable[int]) -> int:
    """A snapshot's version: the largest clock of all groups, so it covers all that was acknowledged (2.7)."""
    return max(clocks)


class Snapshots:
    """Asks for clocks and raises them."""

    def __init__(
        self,
        settings: RouterSettings,
        topology: Topology,
        dispatcher: Dispatcher,
        on_task: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._describe_seconds_max = settings.describe_seconds_max
        self._topology = topology
        self._dispatcher = dispatcher
        self._on_task = on_task
        self._loop = asyncio.get_running_loop()
        # By group, version, and whether the version is known to be issued.
        self._behind: dict[tuple[int, int, bool], list[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._newest = SharedAnswer(self._ask_newest)
        self._asked: Counter[int] = Counter()  # of the groups that are being asked for their clocks
        dispatcher.on_behind = self._on_behind

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._newest.close()

    # --- the clocks -----------------------------------------------------------------------------

    async def all_known(self, deadline: float) -> None:
        """Return once every group is known. Raises Refused (UNAVAILABLE) at the deadline."""
        while not self._topology.discovered:
            if self._loop.time() >= deadline:
                raise Refused(
                    Refusal(
                        refusals.UNAVAILABLE,
                        "not all groups are known yet; nothing was done: check that the nodes run, "
                        "then retry",
                    )
                )
            await asyncio.sleep(BACKOFF_SECONDS_MIN)

    async def newest(self, deadline: float) -> int:
        """Return the largest clock of all groups, each confirmed by its quorum after this call began.

        It covers everything acknowledged before. Raises Refused (UNAVAILABLE) when a group does not say
        its clock before the deadline.
        """
        await self.all_known(deadline)
        try:
            return await self._newest.get(deadline)
        except TimeoutError:
            silent = [group for group, asked in self._asked.items() if asked]
            raise Refused(_no_clock(silent or self._topology.groups)) from None

    async def _ask_newest(self, deadline: float) -> int:
        groups = list(self._topology.groups)
        asking = [asyncio.create_task(self._clock(group, deadline)) for group in groups]
        try:
            return newest_of(await asyncio.gather(*asking))
        finally:  # one that fails does not end the others
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _clock(self, group: int, deadline: float) -> int:
        backoff = BACKOFF_SECONDS_MIN
        self._asked[group] += 1
        try:
            while (remaining := deadline - self._loop.time()) > 0:
                clock = await self._describe(group, min(remaining, self._describe_seconds_max))
                if clock is not None:
                    return clock
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._topology.search(group)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
        finally:
            self._asked[group] -= 1
        raise Refused(_no_clock([group]))

    async def _describe(self, group: int, seconds: float) -> int | None:
        """The clock, confirmed by a quorum, as the leader says it; None when nobody does."""
        replica = self._topology.leader_replica(group)
        if replica is None:
            return None
        task = asyncio.current_task()
        assert task is not None
        try:
            answer = await replica.describe(group, seconds, linearizable=True)
        except grpc.aio.AioRpcError:
            return None
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            return None  # its channel was closed: it is no member any more
        self._topology.learn(replica.address, answer)
        return None if answer.HasField("failure") else answer.clock

    # --- groups that are behind -------------------------------------------------------------------

    async def check_issued(self, version: int, deadline: float) -> None:
        """Raise Refused (INVALID_ARGUMENT) when no group has issued a version as high as this one."""
        newest = await self.newest(deadline)
        if version > newest:
            raise Refused(
                invalid(
                    "read.version",
                    f"version {version} is in the future, the newest is {newest}; read at that or an "
                    "older one, or at 0 for the newest",
                )
            )

    async def advance(self, group: int, version: int, deadline: float) -> None:
        """Raise the group's clock to at least ``version``, an issued one. Raises Refused."""
        waiter = Waiter()
        message = log_pb2.Advance(version=version)
        op = Op(Kind.ADVANCE, message, OVERHEAD_BYTES, deadline, waiter)
        self._dispatcher.links[group].leader.submit(op)
        try:
            await waiter.result()
        except Refused as refused:
            if refused.refusal.code == refusals.DEADLINE_EXCEEDED:
                raise Refused(_too_late(group, version)) from None
            raise

    def _on_behind(self, op: Op, group: int) -> None:
        """A read at a version that the group has not reached: bring it there, then read again.

        Reads of the same group and version that come meanwhile wait for the same advance.
        """
        timer = self._loop.call_at(op.deadline, op.refuse, _too_late(group, op.version))
        # What a READ_SET asks for was read before: some group has issued it.
        issued = op.kind is Kind.READ_SET
        waiting = self._behind.setdefault((group, op.version, issued), [])
        waiting.append((op, timer))
        if len(waiting) == 1:
            task = asyncio.create_task(self._catch_up(group, op.version, issued))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._on_task(task)

    async def _catch_up(self, group: int, version: int, issued: bool) -> None:
        waiting = self._behind[group, version, issued]
        deadline = max(op.deadline for op, _ in waiting)
        # Who comes later may have seen the version issued after the clocks were asked.
        asked_for = len(waiting)
        refusal: Refusal | None = None
        try:
            if not issued:
                await self.check_issued(version, deadline)
            await self.advance(group, version, deadline)
        except Refused as refused:
            refusal = refused.refusal
        del self._behind[group, version, issued]
        for _, timer in waiting:
            timer.cancel()
        if refusal is not None:
            for op, _ in waiting[:asked_for]:
                op.refuse(refusal)
            waiting = waiting[asked_for:]
        for op, _ in waiting:
            if not op.done:
                self._dispatcher.submit(op)


def _no_clock(groups: Iterable[int]) -> Refusal:
    names = ", ".join(map(str, groups))
    return Refusal(
        refusals.UNAVAILABLE,
        f"no leader for group {names} could say its newest version in time; nothing was done, retry",
    )


def _too_late(group: int, version: int) -> Refusal:
    return Refusal(
        refusals.UNAVAILABLE,
        f"group {group} could not be brought to version {version} in time; a read changes nothing, "
        "retry",
    )
