"""The link to one group: requests in, one stream to its leader, answers out.

Whatever waits at one turn of the loop leaves in one message (two, when both commands and reads wait);
while it is being written the next one fills. A request stays with the link until it has its answer or
its deadline has passed, through any number of leaders: what was under way to the one before is sent
again, in its order and with the same ids, so writes run once (PROTOCOL 2.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import grpc
import structlog
from overdb.internal.v1 import shard_pb2

from overdb_router import refusals
from overdb_router.channels import Channels, Replica
from overdb_router.operations import Kind, Op
from overdb_router.queues import Outgoing, Queue
from overdb_router.refusals import Refusal
from overdb_router.settings import RouterSettings
from overdb_router.topology import Leader, Topology

_log = structlog.get_logger()

_Failure = shard_pb2.Failure
_Call = grpc.aio.StreamStreamCall[shard_pb2.ShardRequest, shard_pb2.ShardResponse]

# Waits between attempts to find and reach a leader.
BACKOFF_SECONDS_MIN = 0.02
BACKOFF_SECONDS_MAX = 0.25
# Requests in one message: more than that shares nothing any more.
OPERATIONS_MAX = 4096
# Resolution of deadlines and of the doubt about a leader that does not answer.
TICK_SECONDS = 0.025


class Returned(Protocol):
    """Where requests go back to that this group cannot answer."""

    def wrong_group(self, op: Op, group: int) -> None:
        """The key's slot is not owned by the group."""

    def behind(self, op: Op, group: int, clock: int) -> None:
        """The version to read at is above the group's clock."""


class GroupLink:
    """All requests of this router for one group, or (``stale``) those that any replica may answer."""

    def __init__(
        self,
        group: int,
        settings: RouterSettings,
        topology: Topology,
        channels: Channels,
        returned: Returned,
        observe: Callable[[int, float, int], None],
        stale_choice: Callable[[Sequence[str]], str] | None = None,
    ) -> None:
        self.group = group
        self._settings = settings
        self._topology = topology
        self._channels = channels
        self._returned = returned
        self._observe = observe
        self._stale_choice = stale_choice
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(settings.message_bytes_max, OPERATIONS_MAX)
        self._in_flight: dict[int, Outgoing] = {}
        self._in_flight_bytes = 0
        self._sequence = 0
        self._wake = asyncio.Event()  # the writer has something to do
        self._changed = asyncio.Event()  # the group's leader may be another one
        self._heard_at = 0.0
        self._ticking = False
        self._target: Leader | None = None
        self._task = asyncio.create_task(self._run(), name=f"group-{group}")

    # --- what callers see -----------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """Requests that have no answer yet, as the bounds count them."""
        return self._queue.bytes + self._in_flight_bytes

    @property
    def idle(self) -> bool:
        return not self._in_flight and not self._queue

    def submit(self, op: Op) -> None:
        """Take in a request; its sink is told, later, exactly once."""
        waiting = self._queue.bytes + self._in_flight_bytes
        if waiting + op.size > self._settings.queued_bytes_max and waiting:
            op.refuse(self._overloaded(waiting))
            return
        self._queue.add(op)
        self._wake.set()
        if not self._ticking:
            self._start_ticking()

    def leader_changed(self) -> None:
        """The topology knows something new of this group."""
        self._changed.set()

    async def close(self) -> None:
        """End the stream. Requests without an answer are refused."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._requeue()
        for op in self._queue.take_all():
            op.refuse(self._given_up(op, "the router stopped"))

    # --- the stream -----------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = BACKOFF_SECONDS_MIN
        while True:
            self._changed.clear()
            target = self._choose()
            if target is None:
                if not self._stale_choice:
                    self._topology.ask_around(self.group)
            else:
                answered = await self._serve(target)
                self._requeue()
                if answered:
                    backoff = BACKOFF_SECONDS_MIN
                    continue
            await self._pause(backoff)
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    def _choose(self) -> Leader | None:
        if self._stale_choice is None:
            return self._topology.leader_of(self.group)
        return Leader(0, self._stale_choice(self._topology.addresses_of(self.group)), 0)

    async def _pause(self, seconds: float) -> None:
        """Wait, until something is known that may help."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _serve(self, target: Leader) -> bool:
        """Exchange with one replica until it is lost; return whether it has answered anything."""
        replica = self._channels.replica(target.address)
        if self._stale_choice is not None:
            await self._until_wanted()
        connecting = asyncio.create_task(replica.connected())
        await self._first_of(connecting, target)
        if not (connecting.done() and not connecting.cancelled() and connecting.result()):
            self._lost(target, "not reachable")
            return False
        self._target = target
        answered_before = self._heard_at
        exchange = asyncio.create_task(self._exchange(replica))
        try:
            await self._first_of(exchange, target)
        finally:
            self._target = None
        if exchange.done() and not exchange.cancelled():
            exchange.result()
            self._lost(target, "stream ended")
        return self._heard_at != answered_before

    async def _first_of(
        self, task: asyncio.Task[bool] | asyncio.Task[None], target: Leader
    ) -> None:
        """Wait for the task or for the group to have another leader; then the task is over."""
        moved = asyncio.create_task(self._until_moved(target))
        try:
            await asyncio.wait([task, moved], return_when=asyncio.FIRST_COMPLETED)
        finally:
            moved.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _until_moved(self, target: Leader) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            leader = self._topology.leader_of(self.group)
            if self._stale_choice is not None:
                continue
            if leader is None or (leader.replica_id, leader.address) != target[:2]:
                return

    async def _until_wanted(self) -> None:
        """Stale reads are rare: no stream is kept for them before one comes."""
        while not self._queue:
            self._wake.clear()
            await self._wake.wait()

    async def _exchange(self, replica: Replica) -> None:
        """Write and read until either ends. Never raises for what the network does."""
        call = replica.exchange()
        writing = asyncio.create_task(self._write(call))
        try:
            while True:
                response = await call.read()
                if not isinstance(response, shard_pb2.ShardResponse):
                    break
                self._take(response)
            if await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._answer_too_large(await call.details() or "")
        except grpc.aio.AioRpcError as error:
            _log.debug("stream_failed", group=self.group, code=error.code().name)
        finally:
            call.cancel()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, call: _Call) -> None:
        queue, in_flight, wake = self._queue, self._in_flight, self._wake
        window = self._settings.messages_in_flight_max
        try:
            while True:
                out = queue.take() if len(in_flight) < window else None
                if out is None:
                    wake.clear()
                    await wake.wait()
                    continue
                self._sequence += 1
                now = self._loop.time()
                if not in_flight:
                    self._heard_at = max(self._heard_at, now)
                out.sent_at = now
                in_flight[self._sequence] = out
                self._in_flight_bytes += out.size
                await call.write(out.request(self._sequence, self.group))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader ends, and with it this stream

    def _lost(self, target: Leader, reason: str) -> None:
        if self._stale_choice is None:
            _log.debug("link_lost", group=self.group, replica=target.replica_id, reason=reason)
            self._topology.lost(self.group, target)

    def _requeue(self) -> None:
        """Have everything that was under way sent again, before all that waits."""
        if not self._in_flight:
            return
        ops = [op for out in self._in_flight.values() for op in out.ops]
        for op in ops:
            op.sent = True
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._queue.put_first(ops)
        self._wake.set()

    # --- answers --------------------------------------------------------------------------------

    def _take(self, response: shard_pb2.ShardResponse) -> None:
        out = self._in_flight.pop(response.sequence, None)
        if out is None:
            return  # all of its requests were given up meanwhile
        now = self._loop.time()
        self._heard_at = now
        self._in_flight_bytes -= out.size
        if response.HasField("failure"):
            self._failed(out, response.failure)
        elif response.results:
            self._answer_commands(out.ops, response.results)
        else:
            self._answer_reads(out.ops, response.values)
        if self._stale_choice is None:
            self._topology.answered(self.group)
        self._observe(self.group, now - out.sent_at, len(out.ops))
        if self._queue:
            self._wake.set()

    def _answer_commands(self, ops: Sequence[Op], results: Iterable[shard_pb2.Result]) -> None:
        for op, result in zip(ops, results, strict=True):
            if op.done:
                continue
            field = result.WhichOneof("result")
            if field == "wrong_group":
                self._returned.wrong_group(op, self.group)
            elif field == "error":
                op.refuse(refusals.from_error(result.error))
            elif field is None:
                op.refuse(self._broken_answer())
            else:
                op.finish()
                op.sink.answered(op, field, result)

    def _answer_reads(self, ops: Sequence[Op], values: Iterable[shard_pb2.Value]) -> None:
        for op, value in zip(ops, values, strict=True):
            if op.done:
                continue
            if value.found:
                op.finish()
                op.sink.read(op, value)
            elif value.HasField("error"):
                op.refuse(refusals.from_error(value.error))
            elif value.HasField("wrong_group"):
                self._returned.wrong_group(op, self.group)
            elif value.HasField("behind"):
                self._returned.behind(op, self.group, value.behind.clock)
            else:
                op.finish()
                op.sink.read(op, value)

    def _failed(self, out: Outgoing, failure: shard_pb2.Failure) -> None:
        """A whole message was refused."""
        reason = failure.reason
        if reason in (_Failure.REASON_NOT_LEADER, _Failure.REASON_WRONG_GROUP_ID):
            self._in_flight[self._sequence_of_first()] = out
            self._in_flight_bytes += out.size
            if self._target is not None:
                self._lost(self._target, "not the leader")
                self._topology.hinted(self.group, failure)
            self._changed.set()
        else:
            self._refuse_message(out, failure)

    def _sequence_of_first(self) -> int:
        """Return a sequence before all that are under way, so that what comes back stays first."""
        return min(self._in_flight, default=self._sequence) - 1

    def _refuse_message(self, out: Outgoing, failure: shard_pb2.Failure) -> None:
        """Nothing of this message was done; of what an earlier leader had, nobody knows: try on."""
        if failure.reason == _Failure.REASON_INVALID:
            refusal = Refusal(refusals.INTERNAL, f"group {self.group}: {failure.message}")
        else:
            refusal = refusals.resource_exhausted(f"group {self.group}", failure.message)
        unknown = [op for op in out.ops if op.sent and op.kind is not Kind.GET and not op.done]
        for op in unknown:
            self._loop.call_later(BACKOFF_SECONDS_MAX, self._again, op)
        held = set(map(id, unknown))
        for op in out.ops:
            if id(op) not in held:
                op.refuse(refusal)

    def _again(self, op: Op) -> None:
        if op.done:
            return
        if op.deadline <= self._loop.time():
            op.refuse(self._given_up(op, "its group is overloaded"))
            return
        self._queue.add(op)
        self._wake.set()

    def _answer_too_large(self, details: str) -> None:
        """The answer to some message did not fit into one: ask for less at a time, down to one."""
        if self._queue.operations_max > 1:
            largest = max((len(out.ops) for out in self._in_flight.values()), default=2)
            self._queue.operations_max = max(1, min(largest, self._queue.operations_max) // 4)
            _log.info("answer_too_large", group=self.group, now=self._queue.operations_max)
            return
        self._queue.operations_max = OPERATIONS_MAX
        refusal = Refusal(
            refusals.INTERNAL,
            f"group {self.group}: the answer is too large for one message ({details}); ask for fewer "
            "keys at a time. A transaction has run",
        )
        for out in self._in_flight.values():
            for op in out.ops:
                op.refuse(refusal)

    # --- time -----------------------------------------------------------------------------------

    def _start_ticking(self) -> None:
        self._ticking = True
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        self._expire(now)
        if self._in_flight and now - self._heard_at > self._settings.stall_seconds:
            self._doubt(now)
        if self.idle:
            self._ticking = False
        else:
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _doubt(self, now: float) -> None:
        """The leader owes answers: maybe the others have another one by now."""
        self._heard_at = now - self._settings.stall_seconds + BACKOFF_SECONDS_MAX
        if self._stale_choice is None:
            self._topology.ask_around(self.group)

    def _expire(self, now: float) -> None:
        for op in self._queue.expired(now):
            op.refuse(self._given_up(op, "no answer in time"))
        for sequence, out in list(self._in_flight.items()):
            if out.deadline > now:
                continue
            remaining = float("inf")
            for op in out.ops:
                if op.done:
                    continue
                if op.deadline <= now:
                    op.sent = True
                    op.refuse(self._given_up(op, "no answer in time"))
                else:
                    remaining = min(remaining, op.deadline)
            out.deadline = remaining
            if remaining == float("inf"):
                del self._in_flight[sequence]
                self._in_flight_bytes -= out.size
                self._wake.set()

    # --- words ----------------------------------------------------------------------------------

    def _given_up(self, op: Op, reason: str) -> Refusal:
        """What to answer when the deadline has passed (FAULTS 50, 52)."""
        no_leader = self._topology.leader_of(self.group) is None and self._stale_choice is None
        if op.sent and op.kind is not Kind.GET:
            return Refusal(
                refusals.DEADLINE_EXCEEDED,
                f"outcome unknown: the request went to group {self.group}, {reason}; retry with the "
                "same id, or ask TransactionStatus",
            )
        if no_leader:
            return Refusal(
                refusals.UNAVAILABLE,
                f"no leader for group {self.group}: {self._why_no_leader()}; nothing was done, retry",
            )
        if op.sent:
            return Refusal(
                refusals.DEADLINE_EXCEEDED,
                f"group {self.group}: {reason}; a read changes nothing, retry",
            )
        return Refusal(
            refusals.UNAVAILABLE,
            f"group {self.group} takes no more requests now ({reason}); nothing was done, retry",
        )

    def _why_no_leader(self) -> str:
        members = ", ".join(self._topology.addresses_of(self.group))
        return f"none of {members} leads"

    def _overloaded(self, waiting: int) -> Refusal:
        return refusals.resource_exhausted(
            f"group {self.group}",
            f"{waiting} bytes of requests wait for it, the limit is "
            f"{self._settings.queued_bytes_max}; retry later",
        )

    def _broken_answer(self) -> Refusal:
        return Refusal(
            refusals.INTERNAL,
            f"group {self.group} sent an answer that this router does not know; update the router",
        )
