"""The link to one group: requests in, messages to its leader, answers out.

A request stays with the link until it has its answer or its deadline has passed, through any number of
leaders: what was under way to the one before is sent again, in its order and with the same ids, so
writes run once (PROTOCOL 2.2). Nothing is kept per request but the request itself: deadlines are looked
at per message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import structlog

from overdb.internal.v1 import shard_pb2
from overdb_router import refusals
from overdb_router.channels import Channels
from overdb_router.exchange import BACKOFF_SECONDS_MAX, Exchange
from overdb_router.expired import expired_words, pause_before_new_id
from overdb_router.late import LateOps
from overdb_router.operations import READS, Kind, Op
from overdb_router.queues import LANES, NEVER, Outgoing, Queue
from overdb_router.refusals import Refusal
from overdb_router.settings import RouterSettings
from overdb_router.targets import Targets

_log = structlog.get_logger()

_Failure = shard_pb2.Failure

# What a read other than a GET is answered with.
_VALUES: dict[Kind, Literal["set", "lookup"]] = {Kind.READ_SET: "set", Kind.LOOKUP: "lookup"}

# Results that are no answer to the request.
_NO_ANSWER = frozenset({"pending", "wrong_group", "error"})

# Requests in one message: more than that shares nothing any more.
OPERATIONS_MAX = 4096
# Resolution of deadlines, and of the doubt about a replica that does not answer.
TICK_SECONDS = 0.025


class Returned(Protocol):
    """Where requests go that this group could not answer."""

    def wrong_group(self, op: Op, group: int) -> None:
        """The key's slot is not owned by the group."""

    def behind(self, op: Op, group: int) -> None:
        """The version to read at is above the group's clock."""


class GroupLink:
    """All requests of this router for one group; ``observe(group, seconds, requests)`` sees each answer."""

    def __init__(
        self,
        group: int,
        settings: RouterSettings,
        targets: Targets,
        channels: Channels,
        returned: Returned,
        observe: Callable[[int, float, int], None],
    ) -> None:
        self.group = group
        self._settings = settings
        self._targets = targets
        self._returned = returned
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._queued_bytes_max = settings.queued_bytes_max
        self._queue = Queue(settings.message_bytes_max, OPERATIONS_MAX)
        self._in_flight: dict[int, Outgoing] = {}
        self._in_flight_bytes = 0
        self._under_way = [0 for _ in LANES]  # messages in flight
        self._late = LateOps()  # answered by "later" on the present stream
        self._deferred: list[Op] = []  # rides along with what comes next
        self._deferred_timer: asyncio.TimerHandle | None = None
        self._deferred_at = 0.0
        self._sequence = 0
        self._heard_at = 0.0
        self._ticking = False
        self._closed = False
        self._exchange = Exchange(targets, channels, self, f"group-{group}")

    # --- what callers see -----------------------------------------------------------------------

    @property
    def task(self) -> asyncio.Task[None]:
        """Runs for ever; that it ends by itself is a bug."""
        return self._exchange.task

    @property
    def waiting_bytes(self) -> int:
        """Requests that have no answer yet, as the bounds count them."""
        return self._queue.bytes + self._in_flight_bytes + self._late.bytes

    @property
    def messages_in_flight(self) -> int:
        return len(self._in_flight)

    def submit(self, op: Op) -> None:
        """Take in a request; its sink is told, later, exactly once."""
        waiting = self._queue.bytes + self._in_flight_bytes + self._late.bytes
        if waiting + op.size > self._queued_bytes_max and waiting:
            op.refuse(self._overloaded(waiting))
            return
        if self._deferred:
            self._send_deferred()  # before what comes later: a group gets everything in order
        if self._ticking:
            self._queue.add(op)
            self._exchange.stir()
        else:
            self._add(op)

    def submit_within(self, op: Op, seconds: float) -> None:
        """Take in a request that nobody waits for: it goes with the next one, and alone only after a while.

        What a Resolve rides along with is often the same client's next Prepare, which then need not wait
        for a message, and an fsync, of its own before it.
        """
        self._deferred.append(op)
        at = self._loop.time() + seconds
        if self._deferred_timer is not None:
            if self._deferred_at <= at:
                return
            self._deferred_timer.cancel()
        # Kept here: what uvloop gives back for a time that is now does not know when that is.
        self._deferred_at = at
        self._deferred_timer = self._loop.call_at(at, self._send_deferred)

    def _send_deferred(self) -> None:
        if self._deferred_timer is not None:
            self._deferred_timer.cancel()
            self._deferred_timer = None
        deferred, self._deferred = self._deferred, []
        for op in deferred:
            self._add(op)

    def overloaded(self, size: int) -> Refusal | None:
        """Return why a request of that size would be refused now, None when it would not."""
        waiting = self.waiting_bytes
        if waiting and waiting + size > self._queued_bytes_max:
            return self._overloaded(waiting)
        return None

    def leader_changed(self) -> None:
        """The topology knows something new of this group."""
        self._exchange.reconsider()

    async def close(self) -> None:
        """End the stream. Requests without an answer are refused."""
        self._closed = True
        self._send_deferred()
        self._ticking = False
        await self._exchange.close()
        self.stream_ended()
        for op in self._queue.take_all():
            op.refuse(self._given_up(op, "this router stopped"))

    def _add(self, op: Op) -> None:
        if self._closed:
            op.refuse(self._given_up(op, "this router stopped"))
            return
        self._queue.add(op)
        self._exchange.stir()
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_SECONDS, self._tick)

    # --- what the stream asks (exchange.Traffic) --------------------------------------------------

    def next_message(self) -> shard_pb2.ShardRequest | None:
        window = self._settings.messages_in_flight_max
        out = self._queue.take([lane for lane in LANES if self._under_way[lane] < window])
        if out is None:
            return None
        self._under_way[out.lane] += 1
        in_flight = self._in_flight
        now = self._loop.time()
        if not in_flight:
            self._heard_at = now  # nothing was owed before
        out.sent_at = now
        self._sequence = sequence = self._sequence + 1
        in_flight[sequence] = out
        self._in_flight_bytes += out.size
        return out.request(sequence, self.group)

    def take(self, response: shard_pb2.ShardResponse) -> shard_pb2.Failure | None:
        out = self._in_flight.get(response.sequence)
        if out is None:
            return self._take_late(response)
        self._heard_at = now = self._loop.time()
        if response.HasField("failure"):
            failure = response.failure
            if failure.reason in (_Failure.REASON_NOT_LEADER, _Failure.REASON_WRONG_GROUP_ID):
                out.nothing_done = (
                    failure.nothing_done or failure.reason != _Failure.REASON_NOT_LEADER
                )
                return failure  # it stays in flight, and is sent again with the rest
            self._remove(response.sequence)
            for late in response.late:  # an earlier copy has run
                op = out.ops[late.position] if late.position < len(out.ops) else None
                if op is not None and not op.done:
                    self._answer_commands(response.sequence, (op,), (late.result,))
            self._refuse_message(out, failure)
        else:
            self._remove(response.sequence)
            if response.versions:
                self._answer_puts(out.ops, response.versions)
            elif response.content_versions:
                self._answer_gets(out.ops, response.contents, response.content_versions)
            elif response.results:
                self._answer_commands(response.sequence, out.ops, response.results)
            else:
                self._answer_reads(response.sequence, out.ops, response.values)
        self._targets.answered()
        self._observe(self.group, now - out.sent_at, len(out.ops))
        return None

    def stream_ended(self) -> None:
        """Have everything that was under way sent again, before all that waits."""
        if not self._in_flight and not self._late:
            return
        under_way = self._late.take_all()
        for ops in under_way.values():
            _doubt(ops)
        for sequence, out in self._in_flight.items():
            under_way[sequence] = out.ops
            if not out.nothing_done:
                _doubt(out.ops)
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._under_way = [0 for _ in LANES]
        self._queue.put_first(op for sequence in sorted(under_way) for op in under_way[sequence])
        self._exchange.stir()

    def answer_too_large(self, details: str) -> None:
        """Ask for less at a time, down to one request; what does not fit even then is refused."""
        largest = max((len(out.ops) for out in self._in_flight.values()), default=1)
        largest = max(largest, self._late.largest)
        if largest > 1:
            self._queue.operations_max = max(1, min(largest, self._queue.operations_max) // 4)
            _log.info("answer_too_large", group=self.group, requests_max=self._queue.operations_max)
            return
        self._queue.operations_max = OPERATIONS_MAX
        refusal = Refusal(
            refusals.INTERNAL,
            f"group {self.group}: the answer does not fit into one message ({details}); ask for fewer "
            "keys at a time. If this is a transaction, it has run",
        )
        for out in self._in_flight.values():
            self._refuse_all(out.ops, refusal)
        for ops in self._late.take_all().values():
            self._refuse_all(ops, refusal)

    def _remove(self, sequence: int) -> None:
        out = self._in_flight.pop(sequence)
        self._in_flight_bytes -= out.size
        self._under_way[out.lane] -= 1
        if self._queue:
            self._exchange.stir()

    # --- answers --------------------------------------------------------------------------------

    def _answer_commands(
        self, sequence: int, ops: Sequence[Op], results: Sequence[shard_pb2.Result]
    ) -> None:
        if len(results) != len(ops):
            self._refuse_all(ops, self._broken_answer())
            return
        pending = False
        for op, result in zip(ops, results, strict=True):
            if op.done:
                continue
            field = result.WhichOneof("result")
            if field is None or field in _NO_ANSWER:
                pending = self._not_answered(op, field, result) or pending
            else:
                op.finish()
                op.sink.answered(op, field, result)
        if pending:
            for position, result in enumerate(results):
                if result.HasField("pending") and not ops[position].done:
                    self._late.add(sequence, position, ops[position])

    def _answer_puts(self, ops: Sequence[Op], versions: Sequence[int]) -> None:
        if len(versions) != len(ops) or any(op.kind is not Kind.PUT for op in ops):
            self._refuse_all(ops, self._broken_answer())
            return
        for op, version in zip(ops, versions, strict=True):
            if not op.done:
                op.finish()
                op.sink.written(op, version)

    def _answer_gets(
        self, ops: Sequence[Op], contents: Sequence[bytes], versions: Sequence[int]
    ) -> None:
        plain = all(op.kind is Kind.GET and not op.version for op in ops)
        if not plain or not len(ops) == len(contents) == len(versions):
            self._refuse_all(ops, self._broken_answer())
            return
        for op, content, version in zip(ops, contents, versions, strict=True):
            if not op.done:
                op.finish()
                op.sink.got(op, content, version)

    def _not_answered(self, op: Op, field: str | None, result: shard_pb2.Result) -> bool:
        """Return whether the answer follows later."""
        if field == "wrong_group":
            self._returned.wrong_group(op, self.group)
        elif field == "error":
            self._refused(op, refusals.from_error(result.error))
        elif field is None:
            op.refuse(self._broken_answer())
        return field == "pending"

    def _refused(self, op: Op, refusal: Refusal) -> None:
        if refusal.code in (refusals.FAILED_PRECONDITION, refusals.INVALID_ARGUMENT):
            pause = pause_before_new_id(
                op, refusal, may_have_run=op.sent, now_seconds=self._loop.time()
            )
            if pause is not None:
                self._loop.call_later(pause, self._again, op)
                return
            refusal = expired_words(op, refusal, may_have_run=op.sent)
        op.refuse(refusal)

    def _answer_reads(
        self, sequence: int, ops: Sequence[Op], values: Sequence[shard_pb2.Value]
    ) -> None:
        if len(values) != len(ops):
            self._refuse_all(ops, self._broken_answer())
            return
        pending = False
        for op, value in zip(ops, values, strict=True):
            if op.done:
                continue
            if not value.found and not self._is_read(op, value):
                pending = pending or value.HasField("pending")
                continue
            op.finish()
            op.sink.read(op, value)
        if pending:
            for position, value in enumerate(values):
                if value.HasField("pending") and not ops[position].done:
                    self._late.add(sequence, position, ops[position])

    def _is_read(self, op: Op, value: shard_pb2.Value) -> bool:
        """Return whether this answers the read: it does not when it cannot be read (yet, here)."""
        if value.HasField("error"):
            op.refuse(refusals.from_error(value.error))
        elif value.HasField("wrong_group"):
            self._returned.wrong_group(op, self.group)
        elif value.HasField("behind"):
            self._returned.behind(op, self.group)
        elif value.HasField("pending"):
            return False
        elif op.kind is Kind.GET or value.HasField(_VALUES[op.kind]):
            return True
        else:
            op.refuse(self._broken_answer())
        return False

    def _take_late(self, response: shard_pb2.ShardResponse) -> shard_pb2.Failure | None:
        """Answers to what was pending; nothing when it was given up meanwhile."""
        sequence = response.sequence
        if sequence not in self._late:
            return None
        if response.HasField("failure"):
            return response.failure  # it stays, and is sent again with the rest
        self._heard_at = self._loop.time()
        for late in response.late:
            if late.result.HasField("pending") or late.value.HasField("pending"):
                continue
            op = self._late.take(sequence, late.position)
            if op is None:
                continue
            if late.HasField("result"):
                self._answer_commands(sequence, (op,), (late.result,))
            else:
                self._answer_reads(sequence, (op,), (late.value,))
        return None

    def _refuse_message(self, out: Outgoing, failure: shard_pb2.Failure) -> None:
        """Nothing of this message was done. What an earlier leader may have done is tried again."""
        if failure.reason == _Failure.REASON_INVALID:
            refusal = Refusal(refusals.INTERNAL, f"group {self.group}: {failure.message}")
        else:
            refusal = refusals.resource_exhausted(f"group {self.group}", failure.message)
        for op in out.ops:
            if op.sent and op.kind not in READS:
                if not op.done:
                    op.refusal = refusal.message
                    self._loop.call_later(BACKOFF_SECONDS_MAX, self._again, op)
            else:
                op.refuse(refusal)

    def _again(self, op: Op) -> None:
        if op.deadline <= self._loop.time():
            op.refuse(self._given_up(op, "which is overloaded"))
        elif not op.done:
            self._add(op)

    def _refuse_all(self, ops: Sequence[Op], refusal: Refusal) -> None:
        for op in ops:
            op.refuse(refusal)

    # --- time -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        self._expire(now)
        if self._in_flight and now - self._heard_at > self._settings.stall_seconds:
            # The leader owes answers: maybe the others follow another one by now. Ask again soon.
            self._heard_at = now - self._settings.stall_seconds + BACKOFF_SECONDS_MAX
            self._targets.look_around()
            if self._targets.stale:
                self._exchange.abandon()
        waits = self._in_flight or self._queue or self._late
        self._ticking = bool(waits) and not self._closed
        if self._ticking:
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _expire(self, now: float) -> None:
        for op in self._queue.expired(now):
            op.refuse(self._given_up(op, "which did not answer in time"))
        for op in self._late.expired(now):
            op.sent = True
            op.refuse(self._given_up(op, "where a transaction was in the way"))
        overdue = [sequence for sequence, out in self._in_flight.items() if out.deadline <= now]
        for sequence in overdue:
            out = self._in_flight[sequence]
            out.deadline = NEVER
            for op in out.ops:
                if op.done:
                    continue
                if op.deadline <= now:
                    op.sent = op.sent or not out.nothing_done
                    op.refuse(self._given_up(op, "which did not answer in time"))
                elif op.deadline < out.deadline:
                    out.deadline = op.deadline
            if out.deadline == NEVER:
                self._remove(sequence)

    # --- words ----------------------------------------------------------------------------------

    def _given_up(self, op: Op, reason: str) -> Refusal:
        """What to answer when there is no time left (FAULTS 50, 52)."""
        if op.sent and op.kind not in READS:
            if op.refusal:
                reason = f"which refuses further copies ({op.refusal})"
            return Refusal(
                refusals.DEADLINE_EXCEEDED,
                f"outcome unknown: the request went to group {self.group}, {reason}; retry with the "
                "same id",
            )
        if self._targets.choose() is None:
            return Refusal(
                refusals.UNAVAILABLE,
                f"no leader for group {self.group}: none of its replicas leads or can be reached; "
                "nothing was done, retry",
            )
        if op.sent:
            return Refusal(
                refusals.DEADLINE_EXCEEDED,
                f"the read went to group {self.group}, {reason}; retry",
            )
        return Refusal(
            refusals.UNAVAILABLE,
            f"the request still waited for group {self.group}, {reason}; nothing was done, retry",
        )

    def _overloaded(self, waiting: int) -> Refusal:
        return refusals.resource_exhausted(
            f"group {self.group}",
            f"{waiting} bytes of requests wait for it, the limit is {self._queued_bytes_max}; retry "
            "later",
        )

    def _broken_answer(self) -> Refusal:
        return Refusal(
            refusals.INTERNAL,
            f"group {self.group} sent an answer that this router does not understand; are router and "
            "nodes of the same version?",
        )


def _doubt(ops: Iterable[Op]) -> None:
    """Note that a copy of these may have run, or may run yet."""
    for op in ops:
        op.sent = True
