"""Straight to the leaders: the way around the router that a client may take for what one group answers.

A link is a stream as routers have to a leader (internal/v1/shard.proto), to the address at which the leader
serves clients. It takes puts, deletes, strict reads of the newest value and transactions whose keys live in
one group, and gives its calls only the plain answers to those. A leader that names no such address
(OVERDB_DIRECT_LISTEN is not set, or its program is older) gets no link. Everything else (another leader, a
slot that moved, a lock in the way, a refusal, a stream that broke, silence) is not dealt with here: the call
goes back, and travels through the router with the same id. So a write runs once, whichever copy arrives
(PROTOCOL 2.2), and without links, or where the leaders cannot be reached from here, all is as it is without
this file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

import grpc
import grpc.aio

from overdb._call import (
    Answer,
    Call,
    Entry,
    fill_delete,
    fill_get,
    fill_put,
    fill_transact,
    result_of,
)
from overdb._endpoints import Routers, being_cancelled
from overdb._limits import Limits
from overdb.internal.v1 import log_pb2, shard_pb2, shard_pb2_grpc
from overdb.operations import Value
from overdb.sharding import SLOTS, expand, slot_of
from overdb.v1 import cluster_pb2, kv_pb2

_Stream = grpc.aio.StreamStreamCall[shard_pb2.ShardRequest, shard_pb2.ShardResponse]
_Failure = shard_pb2.Failure

OPERATIONS_MAX = 4096  # in one message
# Messages with writes, and as many with reads, that wait for a leader's answer. Who is answered asks again
# at once, and is in the next message then: a second one under way would only split the callers in two.
MESSAGES_IN_FLIGHT_MAX = 1
LEARN_SECONDS_MIN = 0.05  # after a link was lost, before the router is asked where the leader is
LEARN_SECONDS_MAX = 10.0  # between two such questions while a leader cannot be reached from here
# Between two while every leader that has no link serves no clients: it is like that until it is started anew.
LEARN_SECONDS_OFF = 60.0

# Failures of a whole message behind which nothing of it was or will be done.
_NOTHING_DONE = frozenset(
    {
        _Failure.REASON_OVERLOADED,
        _Failure.REASON_DISK_FULL,
        _Failure.REASON_WRONG_GROUP_ID,
        _Failure.REASON_INVALID,
    }
)
_PLAIN_RESULTS = frozenset({"put", "delete", "transact"})
_PLAIN_KINDS = frozenset({fill_put, fill_delete, fill_get})


class Calls(Protocol):
    """Whose calls travel here: the client's :class:`~overdb._batch.Batcher`."""

    def answered(self, call: Call, result: Any) -> None:
        """The call has its result."""

    def given_back(self, calls: Iterable[Call], *, doubt: bool) -> None:
        """Have the calls travel through the router; ``doubt``: those that write may have run here."""

    def forget_unsent(self, call: Call) -> None:
        """Nobody waits for the call any more, and it was not sent."""


class _Message:
    """What is under way: the calls of one message, in its order."""

    __slots__ = ("calls", "only_puts", "reads", "sent_at")

    def __init__(self, calls: list[Call], sent_at: float, *, reads: bool, only_puts: bool) -> None:
        self.calls = calls
        self.sent_at = sent_at
        self.reads = reads
        self.only_puts = only_puts


class Link:
    """One stream to the leader of one group. It ends at the first sign of trouble and gives all back."""

    def __init__(
        self, group: int, cluster: str, address: str, limits: Limits, calls: Calls
    ) -> None:
        self.group = group
        self.address = address
        self.slots = b""  # bitmap of those that the group owns, once it is known to lead
        self._cluster = cluster
        self._limits = limits
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._writes: deque[Call] = deque()
        self._reads: deque[Call] = deque()
        self._in_flight: dict[int, _Message] = {}
        self._lanes = [0, 0]  # messages in flight: with writes, with reads
        self._sequence = 0
        self.fruitful = False  # it has brought an answer
        self._waker: asyncio.Future[None] | None = None
        self.on_foreign_slot: Callable[[], None] = lambda: None
        self.ready: asyncio.Future[bool] = self._loop.create_future()
        self.ended = False
        # None once it has ended: its exception holds the frames that hold the stream (see ``_forks``).
        self.task: asyncio.Task[None] | None = self._loop.create_task(
            self._run(), name=f"overdb-direct-{group}"
        )

    # -- what the client calls ----------------------------------------------------------------------

    def add(self, call: Call) -> None:
        """Queue a call that this group answers."""
        if self.ended:
            self._calls.given_back((call,), doubt=False)
            return
        call.direct = True
        (self._reads if call.fill is fill_get else self._writes).append(call)
        self._wake()

    def check_silence(self, now: float) -> None:
        """End when the leader owes an answer for too long; that it gives others says nothing of this one."""
        longest = self._limits.silence_seconds_max
        if any(now - message.sent_at > longest for message in self._in_flight.values()):
            self.end()

    def drop_done(self) -> None:
        """Let go of what waits here and nobody waits for any more."""
        for queue in (self._writes, self._reads):
            waiting = [call for call in queue if not call.future.done()]
            for call in queue:
                if call.future.done():
                    self._calls.forget_unsent(call)
            queue.clear()
            queue.extend(waiting)

    def end(self) -> None:
        """Take nothing more in, and give back what has no answer."""
        self.ended = True
        if self.task is not None:
            self.task.cancel()

    @property
    def serves(self) -> bool:
        """Whether it leads to a leader that has named its slots."""
        return not self.ended and self.ready.done() and self.ready.result()

    # -- its life -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        channel = grpc.aio.insecure_channel(
            self.address,
            options=[
                ("grpc.max_receive_message_length", self._limits.received_bytes_max),
                ("grpc.max_send_message_length", self._limits.received_bytes_max),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),  # retries are ours, and go through the router
                ("grpc.enable_http_proxy", 0),
            ],
        )
        try:
            stub = cast("shard_pb2_grpc.ShardAsyncStub", shard_pb2_grpc.ShardStub(channel))
            if await self._leads(stub):
                await self._exchange(stub)
        except grpc.aio.AioRpcError:
            pass  # whatever it is: the router knows what to do about it
        finally:
            self.ended = True
            if not self.ready.done():
                self.ready.set_result(False)
            self._give_all_back()
            await channel.close()
            del channel, stub

    async def _leads(self, stub: shard_pb2_grpc.ShardAsyncStub) -> bool:
        """Ask the replica whether it leads this group of this cluster, and for its slots."""
        seconds = self._limits.connect_seconds_max
        request = shard_pb2.DescribeRequest(group=self.group)
        answer = await stub.Describe(request, timeout=seconds)
        ours = (answer.cluster, answer.group) == (self._cluster, self.group)
        if not ours or answer.role != "leader" or len(answer.slots) != SLOTS // 8:
            return False
        self.slots = answer.slots
        return True

    async def _exchange(self, stub: shard_pb2_grpc.ShardAsyncStub) -> None:
        stream: _Stream = stub.Exchange()
        writing = self._loop.create_task(self._write(stream), name=f"overdb-direct-{self.group}")
        # A link that cannot send is none.
        writing.add_done_callback(lambda _, stream=stream: stream.cancel())  # type: ignore[misc]
        self.ready.set_result(True)
        try:
            while True:
                response = await stream.read()
                if response is grpc.aio.EOF:
                    return
                if not self._take(cast("shard_pb2.ShardResponse", response)):
                    return
        finally:
            stream.cancel()
            writing.cancel()
            await asyncio.wait((writing,))
            failed = None if writing.cancelled() else writing.exception()
            del stream, writing, stub
            if failed is not None:
                raise failed

    def _give_all_back(self) -> None:
        """Every call that is here travels through the router from now on."""
        in_flight, self._in_flight = self._in_flight, {}
        for message in in_flight.values():
            self._calls.given_back(message.calls, doubt=True)
        for queue in (self._writes, self._reads):
            self._calls.given_back(queue, doubt=False)
            queue.clear()

    # -- writing ------------------------------------------------------------------------------------

    def _wake(self) -> None:
        waker, self._waker = self._waker, None
        if waker is not None and not waker.done():
            waker.set_result(None)

    async def _write(self, stream: _Stream) -> None:
        """Send what waits, everything that came while a message was under way in the next one."""
        # The reader learns of a broken stream too, and ends the link.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                request = self._next_message()
                if request is None:
                    self._waker = self._loop.create_future()
                    await self._waker
                else:
                    await stream.write(request)

    def _next_message(self) -> shard_pb2.ShardRequest | None:
        for queue, lane in ((self._writes, 0), (self._reads, 1)):
            if queue and self._lanes[lane] < MESSAGES_IN_FLIGHT_MAX:
                calls = self._take_calls(queue)
                if calls:
                    return self._message(calls, lane)
        return None

    def _take_calls(self, queue: deque[Call]) -> list[Call]:
        """Take the calls of one message off the queue, without those that nobody waits for any more."""
        calls: list[Call] = []
        room = self._limits.message_bytes_max
        while queue and len(calls) < OPERATIONS_MAX:
            room -= queue[0].payload_bytes
            if room < 0 and calls:
                break
            call = queue.popleft()
            if call.future.done():  # cancelled, or past its deadline
                self._calls.forget_unsent(call)
            else:
                calls.append(call)
        return calls

    def _message(self, calls: list[Call], lane: int) -> shard_pb2.ShardRequest:
        now = self._loop.time()
        self._sequence = sequence = self._sequence + 1
        request = shard_pb2.ShardRequest(sequence=sequence, group=self.group, compact=True)
        only_puts = False
        if lane:
            request.reads.plain = True
            add_read = request.reads.reads.add
            for call in calls:
                add_read().key = call.key
                call.sent_at = now
        else:
            commands = log_pb2.Commands()
            # Requests have the same names in a group's message as in a router's.
            add = cast("Callable[[], Entry]", commands.commands.add)
            only_puts = True
            for call in calls:
                call.fill(call, add())
                call.sent_at = now
                call.passed_routers_by = True
                only_puts = only_puts and call.fill is fill_put
            request.commands = commands.SerializeToString()
            request.count = len(calls)
        self._in_flight[sequence] = _Message(calls, now, reads=bool(lane), only_puts=only_puts)
        self._lanes[lane] += 1
        return request

    # -- answers ------------------------------------------------------------------------------------

    def _take(self, response: shard_pb2.ShardResponse) -> bool:
        """Take an answer in; False when this replica cannot serve any more."""
        message = self._in_flight.get(response.sequence)
        if message is None:
            return True  # late, to what was given back long ago
        if not self._take_message(message, response):
            return False
        # Only now: had that failed half way, the rest would have been given back.
        del self._in_flight[response.sequence]
        self._lanes[message.reads] -= 1
        self.fruitful = True
        if self._writes or self._reads:
            self._wake()
        return True

    def _take_message(self, message: _Message, response: shard_pb2.ShardResponse) -> bool:
        calls = message.calls
        if response.HasField("failure"):
            failure = response.failure
            nothing_done = failure.nothing_done or failure.reason in _NOTHING_DONE
            del self._in_flight[response.sequence]
            self._calls.given_back(calls, doubt=not nothing_done)
            return False
        answered = self._calls.answered
        if message.only_puts and len(response.versions) == len(calls):
            for call, version in zip(calls, response.versions, strict=True):
                answered(call, version)
        elif (
            message.reads
            and len(response.contents) == len(calls)
            and len(response.content_versions) == len(calls)
        ):
            self._take_contents(calls, response)
        elif message.reads and len(response.values) == len(calls):
            self._take_values(calls, response.values)
        elif not message.reads and len(response.results) == len(calls):
            self._take_results(calls, response.results)
        else:
            return False  # another version of the program, which the router may understand
        return True

    def _take_results(self, calls: list[Call], results: Iterable[shard_pb2.Result]) -> None:
        for call, result in zip(calls, results, strict=True):
            kind = result.WhichOneof("result")
            if kind in _PLAIN_RESULTS:
                self._calls.answered(call, result_of(cast("Answer", result), kind))
                continue
            if kind == "wrong_group":
                self.on_foreign_slot()
            refused = kind in {"error", "wrong_group"}  # this copy did not run
            self._calls.given_back((call,), doubt=not refused)

    def _take_contents(self, calls: list[Call], response: shard_pb2.ShardResponse) -> None:
        answered = self._calls.answered
        contents = zip(response.contents, response.content_versions, strict=True)
        for call, value in zip(calls, map(Value._make, contents), strict=True):
            answered(call, value if value.version else None)

    def _take_values(self, calls: list[Call], values: Iterable[shard_pb2.Value]) -> None:
        for call, value in zip(calls, values, strict=True):
            if value.found:
                self._calls.answered(call, Value(value.value, value.version))
            elif not value.ByteSize():
                self._calls.answered(call, None)
            else:  # it cannot be read (yet, here)
                if value.HasField("wrong_group"):
                    self.on_foreign_slot()
                self._calls.given_back((call,), doubt=False)


class Direct:
    """The links of a client, and which slot is reached through which of them."""

    def __init__(self, routers: Routers, limits: Limits, calls: Calls) -> None:
        self._routers = routers
        self._limits = limits
        self._calls = calls
        self._by_slot: list[Link | None] = [None] * SLOTS
        self._links: dict[int, Link] = {}
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._fruitless = 0  # links in a row that were lost before they brought an answer
        self._task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(
            self._keep(), name="overdb-leaders"
        )

    def link_for(self, call: Call) -> Link | None:
        """Return the link that can answer this call, None for the router."""
        fill = call.fill
        if fill in _PLAIN_KINDS:
            return self._by_slot[slot_of(call.key)] if call.key else None
        if fill is not fill_transact:
            return None
        links = {self._by_slot[slot_of(key)] for key in _keys_of(call.payload)}
        return links.pop() if len(links) == 1 else None

    def drop_done(self) -> None:
        """Let go of the calls that have ended and were not sent."""
        for link in self._links.values():
            link.drop_done()

    def tick(self, now: float) -> None:
        """Look for leaders that have gone silent."""
        for link in self._links.values():
            link.check_silence(now)

    async def pause(self) -> None:
        """End all links; ``_keep`` opens them again once there may be a connection to the router."""
        while tasks := [link.task for link in self._links.values() if link.task is not None]:
            for link in self._links.values():
                link.end()
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """End all links. Their calls are given back."""
        tasks = [link.task for link in self._links.values() if link.task is not None]
        if self._task is not None:
            self._task.cancel()
            tasks.append(self._task)
        for link in self._links.values():
            link.end()
        await asyncio.wait(tasks, timeout=self._limits.close_seconds_max)
        self._task = None

    # -- where the leaders are ------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Have a link to every leader that can be reached; ask the router again when one was lost."""
        failures = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            learned = await self._learn()
            if learned is not None:
                failures = 0
                # At most so often, whatever is lost.
                await asyncio.sleep(_pause_seconds(self._fruitless))
                if learned:
                    asyncio.get_running_loop().call_later(learned, self._wanted.set)
            else:
                await asyncio.sleep(_pause_seconds(failures))
                failures = min(failures + 1, 16)
                self._wanted.set()

    async def _learn(self) -> float | None:
        """Ask the router for the leaders and open what links are missing.

        Return None when some are missing, else the seconds after which to ask again whether leaders that
        serve no clients do so by then; 0 when there are none of those.
        """
        router = await self._routers.connect()
        try:
            status = await router.cluster.Status(
                cluster_pb2.StatusRequest(), timeout=2 * self._limits.connect_seconds_max
            )
        except grpc.aio.AioRpcError:
            return None
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            return None  # the connection to the router was given up under the question
        opened, off = [], set()
        for group in status.groups:
            link = self._links.get(group.group)
            if link is not None and not link.ended:
                continue
            leader = _leader(group)
            if leader is not None and not leader.direct_address:
                off.add(group.group)
            elif leader is not None:
                address = leader.direct_address
                opened.append(self._open(group.group, status.cluster, address))
        if opened:  # not one by one: a future that is awaited is cancelled with who awaits it
            await asyncio.wait([link.ready for link in opened])
        self._map_slots()
        missing = any(
            group.group not in self._links or self._links[group.group].ended
            for group in status.groups
            if group.group not in off
        )
        if missing or not status.groups:
            return None
        return LEARN_SECONDS_OFF if off else 0.0

    def _open(self, group: int, cluster: str, address: str) -> Link:
        link = self._links[group] = Link(group, cluster, address, self._limits, self._calls)
        link.on_foreign_slot = link.end  # its map is old: begin anew
        link.ready.add_done_callback(lambda _: self._map_slots())
        assert link.task is not None
        link.task.add_done_callback(lambda task: self._lost(link, task))
        return link

    def _lost(self, link: Link, task: asyncio.Task[None]) -> None:
        link.task = None
        if not link.ready.done():  # it was ended before it began
            link.ready.set_result(False)
        self._fruitless = 0 if link.fruitful else min(self._fruitless + 1, 16)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"link to {link.address} failed", "exception": error, "task": task}
            )
        self._map_slots()
        self._wanted.set()

    def _map_slots(self) -> None:
        by_slot: list[Link | None] = [None] * SLOTS
        for link in self._links.values():
            if not link.serves:
                continue
            for slot, owned in enumerate(expand(link.slots)):
                if owned:
                    by_slot[slot] = link
        self._by_slot = by_slot


def _pause_seconds(failures: int) -> float:
    return min(LEARN_SECONDS_MAX, LEARN_SECONDS_MIN * 2.0**failures)


def _leader(group: cluster_pb2.GroupStatus) -> cluster_pb2.ReplicaStatus | None:
    """The group's leader as the router sees it; None: there is none that answers."""
    leaders = (r for r in group.replicas if r.id == group.leader_id and r.reachable)
    return next(leaders, None)


def _keys_of(request: kv_pb2.TransactRequest) -> Iterable[bytes]:
    for compare in request.compares:
        yield compare.key
    for operation in (*request.then, *request.otherwise):
        yield getattr(operation, operation.WhichOneof("operation") or "get").key
