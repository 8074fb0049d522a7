"""Everything that waits, in one message: the client's end of the ``KV.Batch`` stream.

A request is a :class:`Call` in ``_open`` from its submission to its answer or deadline. At each turn
of the loop the calls queued by then travel in one message; while that write is under way the next
message fills. Answers come in any order and find their call by tag.

When a stream breaks, its calls go to the front of the queue and travel again, with the same ids, on
a stream to the next router: a write runs once, whichever copy arrives (PROTOCOL 2.2). What a write's
lost answer means is kept with the call: once a copy may have run (``in_doubt``), only an answer to
that id ends the doubt, and any other end is OutcomeUnknown.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import grpc
import grpc.aio

from overdb import _forks
from overdb._call import ENTRY_BYTES, Answer, Call, Entry, result_of
from overdb._direct import Direct
from overdb._endpoints import Router, Routers, backoff_seconds, connection_trouble
from overdb._expiry import AHEAD_SECONDS_MAX, clock_behind, expired_at, is_ahead
from overdb._limits import Limits
from overdb.errors import (
    ClientClosed,
    Code,
    DeadlineExceeded,
    InvalidArgument,
    OverDBError,
    ResourceExhausted,
    Unavailable,
    from_status,
)
from overdb.ids import ClientIds, RequestId
from overdb.v1 import kv_pb2

_Stream = grpc.aio.StreamStreamCall[kv_pb2.BatchRequest, kv_pb2.BatchResponse]

TICK_SECONDS_MIN = 0.01  # between two looks for calls whose deadline has passed
TICK_SECONDS_MAX = 0.25  # between two looks for a silent router
MESSAGE_ENTRIES_MAX = 2048  # about 3 ms of work for the loop: longer would be felt by others

# This copy did not run: the same request may be sent again.
_TRY_AGAIN = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})
# This copy may have run or may run yet; the same id may be sent again.
_DOUBT_AND_TRY_AGAIN = frozenset({Code.DEADLINE_EXCEEDED, Code.CANCELLED})
# This copy may have run, and sending it again is not going to help.
_DOUBT = frozenset({Code.UNKNOWN, Code.INTERNAL})
# Refusals that follow from the request, or are kept with its id: any other copy ends the same way. What one
# server does not know another one may, so UNIMPLEMENTED is none of them.
_SAME_FOR_EVERY_COPY = frozenset({Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE})
# Refusals that may be for the age of an id alone.
_MAY_BE_THE_ID = frozenset({Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT})
# What a server says on the whole stream when it is not for us.
_WRONG_SERVER = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


class Batcher:
    """The open requests of one client, and the tasks that carry them. Lives on one event loop."""

    def __init__(self, routers: Routers, limits: Limits, *, direct: bool = False) -> None:
        """``direct``: send what one group answers straight to its leader, where it can be reached."""
        self._loop = asyncio.get_running_loop()
        self._routers = routers
        self._limits = limits
        self._ids = ClientIds(seconds_max=limits.client_id_seconds_max, monotonic=self._loop.time)
        self._open: dict[int, Call] = {}  # by tag; submitted and without an answer
        self._queue: deque[Call] = deque()  # those of them that wait to be sent
        self._open_bytes = 0
        self._tag = 0
        self._waker: asyncio.Future[None] | None = None  # of the task that waits for work
        self._stream: _Stream | None = None
        self._router: Router | None = None
        self._heard_at = 0.0
        self._heard = False  # whether the present stream brought any answer
        self._tick: asyncio.TimerHandle | None = None
        self._tick_at = 0.0
        self._next_deadline = float("inf")  # no open call has an earlier one
        self._survey: asyncio.Task[None] | None = None
        self._surveyed_at = 0.0
        self._closed = False
        self._direct = Direct(routers, limits, self) if direct else None
        # None once it is closed: its exception holds the frames that hold the stream (see ``_forks``).
        self._carrier: asyncio.Task[None] | None = self._loop.create_task(
            self._carry(), name="overdb-batch"
        )
        _forks.add(self, self._loop)

    # -- forks (_forks.Pausable) ---------------------------------------------------------------

    async def pause(self) -> None:
        """Let go of all connections until ``resume``; what was sent and not answered is sent again then."""
        self._routers.hold()
        if self._direct is not None:
            await self._direct.pause()
        await self._routers.pause()
        while self._stream is not None or self._survey is not None:  # noqa: ASYNC110  # a few turns
            await asyncio.sleep(0)

    def resume(self) -> None:
        """Connect again."""
        self._routers.resume()

    # -- taking requests in -------------------------------------------------------------------

    def read(
        self,
        fill: Callable[[Call, Entry], None],
        key: bytes,
        payload: Any,
        timeout_seconds: float,
    ) -> asyncio.Future[Any]:
        """Queue a read; the future has its result."""
        payload_bytes = len(key) + ENTRY_BYTES
        now = self._loop.time()
        return self._submit(fill, key, payload, payload_bytes, now + timeout_seconds).future

    def write(
        self,
        fill: Callable[[Call, Entry], None],
        key: bytes,
        payload: Any,
        payload_bytes: int,
        timeout_seconds: float,
        request_id: RequestId | None,
    ) -> asyncio.Future[Any]:
        """Queue a write under a fresh id, or under one that the caller repeats."""
        now = self._loop.time()
        call = self._submit(fill, key, payload, payload_bytes + ENTRY_BYTES, now + timeout_seconds)
        if request_id is None:
            call.identify(self._ids.current(now))
        else:
            call.identify_as(request_id)
            call.passed_routers_by = self._direct is not None
        return call.future

    def _submit(
        self,
        fill: Callable[[Call, Entry], None],
        key: bytes,
        payload: Any,
        payload_bytes: int,
        deadline: float,
    ) -> Call:
        if payload_bytes > self._limits.request_bytes_max:
            raise InvalidArgument(
                f"request of {payload_bytes} bytes: at most {self._limits.request_bytes_max} "
                "travel at once, split it"
            )
        if self._open_bytes + payload_bytes > self._limits.queued_bytes_max:
            raise ResourceExhausted(
                f"this client holds {self._open_bytes} bytes of requests without an answer, at "
                f"most {self._limits.queued_bytes_max} fit: wait for some of them"
            )
        self._tag = tag = self._tag + 1
        call = Call(tag, fill, key, payload, payload_bytes, deadline, self._loop.create_future())
        self._open[tag] = call
        self._open_bytes += payload_bytes
        if deadline < self._next_deadline:
            self._next_deadline = deadline
            self._tick_by(deadline)
        link = None if self._direct is None else self._direct.link_for(call)
        if link is not None:
            link.add(call)
            return call
        self._queue.append(call)
        self._wake()
        return call

    def _wake(self) -> None:
        """Have the carrier look at the queue."""
        waker, self._waker = self._waker, None
        if waker is not None and not waker.done():
            waker.set_result(None)

    # -- carrying them ------------------------------------------------------------------------

    async def _carry(self) -> None:
        """Keep a stream to some router for as long as there is work."""
        fruitless = 0  # streams in a row that ended without an answer
        while True:
            while not self._queue:
                await self._work()
            router = await self._routers.connect()
            trouble = await self._exchange(router)
            self._requeue_sent()
            self._routers.abandon(router, trouble)
            fruitless = 0 if self._heard else fruitless + 1
            if fruitless > 1:  # the first time the next router is tried at once
                await asyncio.sleep(backoff_seconds(self._limits, fruitless))

    async def _work(self) -> None:
        """Wait until something is queued, or until somebody else wakes the carrier."""
        self._waker = waker = self._loop.create_future()
        await waker

    async def _exchange(self, router: Router) -> str:
        """Write and read one stream until it ends; return why it ended."""
        stream: _Stream = router.kv.Batch()
        self._stream = stream
        self._router = router
        self._heard = False
        self._heard_at = self._loop.time()
        reader = self._loop.create_task(self._read(stream), name="overdb-answers")
        trouble = ""
        try:
            while not reader.done():
                if self._queue:
                    await self._send(stream)
                else:
                    await self._work()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader tells why
        except asyncio.CancelledError:
            if not stream.cancelled() or self._cancelled():
                raise  # else: the stream was given up while a write was under way
        finally:
            self._stream = self._router = None
            stream.cancel()
            trouble = await self._end_of(reader)
            del stream, reader
        return trouble

    def _cancelled(self) -> bool:
        """Whether the carrier itself is to end."""
        return self._carrier is not None and self._carrier.cancelling() > 0

    async def _end_of(self, reader: asyncio.Task[str]) -> str:
        """Wait for the reader of a stream that has ended or was cancelled; return its reason."""
        await asyncio.wait((reader,))
        return "" if reader.cancelled() else reader.result()

    async def _send(self, stream: _Stream) -> None:
        """Send one message with what is queued, up to its bounds."""
        message = kv_pb2.BatchRequest()
        add = message.entries.add
        queue = self._queue
        now = self._loop.time()
        room = self._limits.message_bytes_max
        count = 0
        while queue and count < MESSAGE_ENTRIES_MAX:
            call = queue[0]
            room -= call.payload_bytes
            if room < 0 and count:
                break
            queue.popleft()
            if call.future.done():  # cancelled, or past its deadline
                self.forget_unsent(call)
                continue
            entry = add()
            entry.tag = call.tag
            entry.timeout_ms = _router_timeout_ms(call.deadline - now)
            call.fill(call, entry)
            call.sent_at = now
            count += 1
        if count:
            await stream.write(message)

    async def _read(self, stream: _Stream) -> str:
        """Take answers until the stream ends; return why it ended, and wake the writer."""
        trouble = "the router ended the stream"
        try:
            while True:
                response = await stream.read()
                if response is grpc.aio.EOF:
                    break
                self._take(cast("kv_pb2.BatchResponse", response))
        except grpc.aio.AioRpcError as error:
            trouble = connection_trouble(error.details() or error.code().name)
            if error.code() in _WRONG_SERVER:
                self._fail_all(error)
        except asyncio.CancelledError:
            if not stream.cancelled():
                raise
            trouble = "the router did not answer"
        self._wake()
        return trouble

    # -- answers ------------------------------------------------------------------------------

    def _take(self, response: kv_pb2.BatchResponse) -> None:
        self._heard = True
        self._heard_at = self._loop.time()
        pop = self._open.pop
        for answer in response.entries:
            call = pop(answer.tag, None)
            if call is None:
                continue  # its deadline came first
            kind = answer.WhichOneof("response")
            if kind is None or kind == "error":
                self._refused(call, answer)
                continue
            self._open_bytes -= call.payload_bytes
            if call.generation is not None:
                call.generation.release(call.number)
            if not call.future.done():
                call.future.set_result(result_of(answer, kind))

    def _refused(self, call: Call, answer: Answer) -> None:
        """Take an error in: the end of the call, or a reason to send it again later."""
        error = answer.error
        code, message = error.code, error.message
        if not answer.HasField("error"):
            code, message = Code.INTERNAL, "the router answered with an empty entry"
        refused = (code, message, tuple(error.details))
        if code in _DOUBT or code in _DOUBT_AND_TRY_AGAIN:
            call.in_doubt = True
        call.sent_at = 0.0
        delay = backoff_seconds(self._limits, call.refusals)
        again = code in _TRY_AGAIN or code in _DOUBT_AND_TRY_AGAIN
        if code == Code.UNAVAILABLE:
            self._suspect()
        call.refused = refused
        if code in _MAY_BE_THE_ID and self._renew(call):
            return
        if again and not call.future.done() and self._loop.time() + delay < call.deadline:
            call.refusals += 1
            self._open[call.tag] = call
            self._loop.call_later(delay, self._requeue, call)
            return
        self._open_bytes -= call.payload_bytes
        self._fail(call, "")

    def _renew(self, call: Call) -> bool:
        """Send a call again under a new id if all its copies were refused because of the id's age.

        It has expired after the machine or the cluster was suspended; it is ahead after a clock was set back,
        or because the cluster has just woken up. Nothing ran, and the caller sees nothing. If a new id has
        expired too, or is ahead for long, the clock is wrong.
        """
        assert call.refused is not None
        code, _, details = call.refused
        if call.generation is None or call.in_doubt or call.future.done():
            return False
        delay = 0.0
        generation = call.generation
        if (group_time_us := expired_at(details)) is not None:
            if self._ids.is_new(generation):
                text = clock_behind("this machine", group_time_us, time.time_ns() // 1000)
                if text:
                    call.refused = (code, text, details)
                return False
            generation = self._ids.instead_of(generation)
        elif not is_ahead(details):
            return False
        elif self._ids.is_from_the_future(generation):
            generation = self._ids.instead_of(generation)
        else:
            now = self._loop.time()
            call.ahead_since = call.ahead_since or now
            delay = backoff_seconds(self._limits, call.refusals)
            if now + delay > min(call.deadline, call.ahead_since + AHEAD_SECONDS_MAX):
                return False
            call.refusals += 1
        call.renew(generation)
        self._open[call.tag] = call
        self._loop.call_later(delay, self._requeue, call)
        return True

    def _requeue(self, call: Call) -> None:
        if call.tag not in self._open:
            return  # its deadline came first
        self._queue.append(call)
        self._wake()

    def _requeue_sent(self) -> None:
        """Put what was sent and not answered to the front of the queue, in its order."""
        sent = (call for call in self._open.values() if call.sent_at and not call.direct)
        lost = sorted(sent, key=lambda call: call.tag)
        for call in reversed(lost):
            call.in_doubt = True
            call.sent_at = 0.0
            self._queue.appendleft(call)

    # -- what links to the leaders say (_direct.Calls) ------------------------------------------

    def answered(self, call: Call, result: Any) -> None:
        """Give a call its result, if it is still waited for."""
        if self._open.pop(call.tag, None) is None:
            return  # its deadline came first
        self._open_bytes -= call.payload_bytes
        if call.generation is not None:
            call.generation.release(call.number)
        if not call.future.done():
            call.future.set_result(result)

    def given_back(self, calls: Iterable[Call], *, doubt: bool) -> None:
        """Send calls through the router that a leader has not answered."""
        for call in calls:
            if call.tag not in self._open:
                continue  # its deadline came first
            call.direct = False
            if doubt and call.sent_at:
                call.in_doubt = True
            call.sent_at = 0.0
            self._queue.append(call)
        self._wake()

    # -- ends without an answer ---------------------------------------------------------------

    def _fail(self, call: Call, why: str) -> None:
        """End a call that is no longer open: with its refusal, or for the reason given."""
        known = call.refused
        unknown = call.may_have_run() and not _ends_doubt(call)
        if call.generation is not None:
            if unknown and not call.future.done():
                call.generation.stuck = True  # its caller may repeat it: the number stays open
            else:
                call.generation.release(call.number)
        if call.future.done():
            return
        if unknown:
            text = why or (known[1] if known else "")
            if why and known and known[0] in _TRY_AGAIN:
                text = f"{why}; an earlier copy was answered: {known[1]}"
            call.future.set_exception(call.outcome_unknown(text))
        elif known is not None:
            call.future.set_exception(from_status(*known))
        else:
            call.future.set_exception(self._not_run(call, why))

    def _not_run(self, call: Call, why: str) -> OverDBError:
        """Return the error for a call of which no copy may have run, or a read."""
        if self._closed:
            return ClientClosed(f"{why}: not run")
        if not self._routers.connected:
            return Unavailable(f"{self.unreachable()}: not run")
        if call.number:
            return DeadlineExceeded(f"{why}, before it could be sent: not run")
        return DeadlineExceeded(why)

    def unreachable(self) -> str:
        """Say that no router answers, and why."""
        trouble = self._routers.trouble
        reason = trouble or f"{', '.join(self._routers.addresses)}: not connected in time"
        return f"no router answers ({reason}); check the endpoints and that a router runs there"

    def forget_unsent(self, call: Call) -> None:
        """Drop a call whose caller went away (or was told) before it was sent."""
        if self._open.pop(call.tag, None) is not None:
            self._open_bytes -= call.payload_bytes
            if call.generation is not None:
                call.generation.release(call.number)

    def _fail_all(self, error: grpc.aio.AioRpcError) -> None:
        """The server on the other end is no router of ours: no retry makes it one."""
        if len(self._routers.addresses) > 1:
            return  # another one may be
        where = self._routers.addresses[0]
        for call in [call for call in self._open.values() if not call.direct]:
            call.refused = (
                error.code().value[0],
                f"the server at {where} refused: {error.details()}; is it an OverDB router?",
                (),
            )
            call.sent_at = 0.0
            self._close_call(call, "")

    def _close_call(self, call: Call, why: str) -> None:
        del self._open[call.tag]
        self._open_bytes -= call.payload_bytes
        self._fail(call, why)

    # -- time ---------------------------------------------------------------------------------

    def _tick_by(self, at: float) -> None:
        """Have the tick run at that time of the loop's clock, or earlier."""
        now = self._loop.time()
        at = min(max(at, now + TICK_SECONDS_MIN), now + TICK_SECONDS_MAX)
        if self._tick is not None:
            if self._tick_at <= at:
                return
            self._tick.cancel()
        self._tick_at = at
        self._tick = self._loop.call_at(at, self._on_tick)

    def _on_tick(self) -> None:
        """The client's one timer: ends calls past their deadline, and notices a silent router."""
        self._tick = None
        now = self._loop.time()
        if now >= self._next_deadline:
            self._expire(now)
        if self._direct is not None:
            self._direct.tick(now)
        silence_max = self._limits.silence_seconds_max
        if self._stream is not None and now - self._heard_at > silence_max:
            sent = (c.sent_at for c in self._open.values() if c.sent_at and not c.direct)
            oldest = min(sent, default=now)
            if now - oldest > silence_max:
                self._suspect()
        if self._open:
            self._tick_by(self._next_deadline)
        else:
            self._next_deadline = float("inf")

    def _expire(self, now: float) -> None:
        following = float("inf")
        late = []
        for call in self._open.values():
            if call.deadline <= now:
                late.append(call)
            elif call.deadline < following:
                following = call.deadline
        self._next_deadline = following
        for call in late:
            self._close_call(call, "no answer before the deadline")
        if late and self._direct is not None:
            self._direct.drop_done()
        if late and self._queue:  # while no router answers nobody else takes them out
            waiting = [call for call in self._queue if not call.future.done()]
            self._queue.clear()
            self._queue.extend(waiting)

    def _suspect(self) -> None:
        """Have the router's health asked, not more often than once per silence."""
        now = self._loop.time()
        router = self._router
        if router is None or self._survey is not None:
            return
        if now - self._surveyed_at < self._limits.silence_seconds_max:
            return
        self._surveyed_at = now
        self._survey = self._loop.create_task(self._ask_health(router), name="overdb-health")

    async def _ask_health(self, router: Router) -> None:
        try:
            moved = await self._routers.reconsider(router)
            if moved and self._stream is not None and self._router is router:
                self._stream.cancel()
        finally:
            self._survey = None

    # -- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the tasks and every open call: what was sent is unknown, the rest was not run."""
        _forks.remove(self)
        self._closed = True
        tasks = [task for task in (self._carrier, self._survey) if task is not None]
        for task in tasks:
            task.cancel()
        for call in list(self._open.values()):
            self._close_call(call, "the client was closed")
        self._queue.clear()
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._direct is not None:
            await self._direct.close()
        await asyncio.wait(tasks, timeout=self._limits.close_seconds_max)
        self._carrier = self._survey = self._direct = None
        await self._routers.close()


def _ends_doubt(call: Call) -> bool:
    """Whether a call that was refused has been refused, or would be, in every copy."""
    if call.refused is None:
        return False
    code, _, details = call.refused
    # A router's own check names the field that is wrong in its details, what replicas keep has none. A
    # leader may have run what routers with other limits refuse.
    by_router_alone = call.passed_routers_by and bool(details)
    return code in _SAME_FOR_EVERY_COPY and not by_router_alone


def _router_timeout_ms(remaining_seconds: float) -> int:
    """Return the limit for the router: a little earlier than ours, so that its reason arrives."""
    remaining_ms = int(remaining_seconds * 1000)
    return max(1, remaining_ms - min(100, remaining_ms // 10))
