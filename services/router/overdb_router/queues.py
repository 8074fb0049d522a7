"""What waits for a group, put together into the messages that it will be sent in.

A request is copied into the message under construction when it arrives: sending is then one
serialization of the whole message, and no request is touched twice on the way out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_common.level import LEVEL
from overdb_router.operations import READS, Kind, Op

NEVER = float("inf")
# What a request takes in memory beside its key and value, roughly.
OVERHEAD_BYTES = 256
# Commands, reads: writes wait for a disk, reads do not, so neither waits behind the other.
LANES = (0, 1)


class Outgoing:
    """One message to a group: commands or reads, never both, because one answer has room for one."""

    __slots__ = ("deadline", "nothing_done", "ops", "sent_at", "size")
    lane = 0

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.size = 0  # bytes, as the bounds count them
        self.deadline = NEVER  # the earliest of its requests, or earlier
        self.sent_at = 0.0
        self.nothing_done = False  # the replica that it went to has refused all of it unseen

    def append(self, op: Op) -> None:
        raise NotImplementedError

    def request(self, sequence: int, group: int) -> shard_pb2.ShardRequest:
        """Return the message as it travels."""
        raise NotImplementedError


class OutgoingCommands(Outgoing):
    __slots__ = ("_add", "_commands")

    def __init__(self) -> None:
        super().__init__()
        self._commands = log_pb2.Commands()
        self._add = self._commands.commands.add

    def append(self, op: Op) -> None:
        self.ops.append(op)
        if op.kind is Kind.PUT:
            self._add().put.CopyFrom(op.message)  # type: ignore[arg-type]
        else:
            getattr(self._add(), _FIELDS[op.kind]).CopyFrom(op.message)

    def request(self, sequence: int, group: int) -> shard_pb2.ShardRequest:
        return shard_pb2.ShardRequest(
            sequence=sequence,
            group=group,
            commands=self._commands.SerializeToString(),
            count=len(self.ops),
            compact=True,
            level=LEVEL,
        )


class OutgoingReads(Outgoing):
    __slots__ = ("_add", "_plain", "_wire")
    lane = 1

    def __init__(self) -> None:
        super().__init__()
        self._wire = shard_pb2.ShardRequest()
        self._add = self._wire.reads.reads.add
        self._plain = True  # keys at their newest

    def append(self, op: Op) -> None:
        self.ops.append(op)
        read = self._add()
        if op.kind is not Kind.GET or op.version:
            self._plain = False
        if op.kind is Kind.READ_SET:
            read.set.CopyFrom(op.message)  # type: ignore[arg-type]
            return
        if op.kind is Kind.LOOKUP:
            read.lookup.CopyFrom(op.message)  # type: ignore[arg-type]
            return
        read.key = op.message.key  # type: ignore[attr-defined]
        if op.version:
            read.version = op.version

    def request(self, sequence: int, group: int) -> shard_pb2.ShardRequest:
        self._wire.sequence = sequence
        self._wire.group = group
        self._wire.compact = True  # of the stream, not of reads
        self._wire.reads.stale = self.ops[0].stale
        self._wire.reads.plain = self._plain
        return self._wire


_FIELDS = {
    Kind.DELETE: "delete",
    Kind.TRANSACT: "transact",
    Kind.ADVANCE: "advance",
    Kind.PREPARE: "prepare",
    Kind.RESOLVE: "resolve",
    Kind.FORGET: "forget",
}


class Queue:
    """First in, first out; commands and reads in a lane each, served in turn. ``bytes`` counts both lanes.

    All reads of one queue are stale, or none.
    """

    def __init__(self, message_bytes_max: int, operations_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self.operations_max = operations_max  # in one message
        self._filling: list[Outgoing] = [OutgoingCommands(), OutgoingReads()]
        self._full: tuple[deque[Outgoing], deque[Outgoing]] = (deque(), deque())
        self._turn = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._filling[0].ops or self._filling[1].ops)

    def add(self, op: Op) -> None:
        """Append a request to the last message, or to a new one where that would get too large."""
        lane = 1 if op.kind in READS else 0
        size = op.size
        out = self._filling[lane]
        if out.ops and (
            out.size + size > self._message_bytes_max or len(out.ops) >= self.operations_max
        ):
            self._full[lane].append(out)
            out = self._filling[lane] = OutgoingReads() if lane else OutgoingCommands()
        out.append(op)
        out.size += size
        self.bytes += size
        out.deadline = min(out.deadline, op.deadline)

    def take(self, lanes: Sequence[int] = LANES) -> Outgoing | None:
        """Remove and return the next message of one of the lanes, None when nothing waits there."""
        self._turn ^= 1
        for lane in (self._turn, self._turn ^ 1):
            if lane in lanes and (out := self._take(lane)) is not None:
                return out
        return None

    def _take(self, lane: int) -> Outgoing | None:
        if self._full[lane]:
            out = self._full[lane].popleft()
        elif self._filling[lane].ops:
            out = self._filling[lane]
            self._filling[lane] = OutgoingReads() if lane else OutgoingCommands()
        else:
            return None
        self.bytes -= out.size
        return out

    def take_all(self) -> list[Op]:
        """Remove and return all requests that have no answer yet, each lane in its order."""
        ops: list[Op] = []
        for lane in LANES:
            while (out := self._take(lane)) is not None:
                ops += [op for op in out.ops if not op.done]
        return ops

    def put_first(self, ops: Iterable[Op]) -> None:
        """Put requests before all that wait, without those that have their answer."""
        later = self.take_all()
        for op in (*(op for op in ops if not op.done), *later):
            self.add(op)

    def expired(self, now: float) -> list[Op]:
        """Remove and return the requests whose deadline is at or before ``now``."""
        waiting = (*self._full[0], *self._full[1], *self._filling)
        if all(out.deadline > now for out in waiting):
            return []
        gone: list[Op] = []
        kept: list[Op] = []
        for op in self.take_all():
            (gone if op.deadline <= now else kept).append(op)
        for op in kept:
            self.add(op)
        return gone
