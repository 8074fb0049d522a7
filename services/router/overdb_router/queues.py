"""What waits for a group, put together into the messages that it will be sent in.

A request is copied into the message under construction when it arrives: sending is then one
serialization of the whole message, and no request is touched twice on the way out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_router.operations import Kind, Op

NEVER = float("inf")
# Ids, lengths and tags around a key and its value.
OVERHEAD_BYTES = 64


class Outgoing:
    """One message to a group: commands or reads, never both, because one answer has room for one."""

    __slots__ = ("deadline", "ops", "payload", "sent_at", "size", "stale")

    def __init__(self, payload: log_pb2.Commands | shard_pb2.Reads, stale: bool = False) -> None:
        self.payload = payload
        self.stale = stale
        self.ops: list[Op] = []
        self.size = 0  # bytes, as the bounds count them
        self.deadline = NEVER  # the earliest of its requests
        self.sent_at = 0.0

    def request(self, sequence: int, group: int) -> shard_pb2.ShardRequest:
        """Return the message as it travels."""
        payload = self.payload
        if isinstance(payload, log_pb2.Commands):
            return shard_pb2.ShardRequest(
                sequence=sequence,
                group=group,
                commands=payload.SerializeToString(),
                count=len(self.ops),
            )
        request = shard_pb2.ShardRequest(sequence=sequence, group=group)
        request.reads.CopyFrom(payload)
        request.reads.stale = self.stale
        return request


class Queue:
    """First in, first out; commands and reads each in a lane of their own. ``bytes`` counts all of it."""

    def __init__(self, message_bytes_max: int, operations_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self.operations_max = operations_max  # in one message; lowered when an answer was too large
        self._commands = Outgoing(log_pb2.Commands())
        self._reads = Outgoing(shard_pb2.Reads())
        self._full: deque[Outgoing] = deque()
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._full or self._commands.ops or self._reads.ops)

    def add(self, op: Op) -> None:
        """Append a request to the last message, or to a new one where that would get too large."""
        kind = op.kind
        size = op.size
        if kind == Kind.GET:
            out = self._reads
            if out.ops and (
                len(out.ops) >= self.operations_max or out.size + size > self._message_bytes_max
            ):
                self._full.append(out)
                out = self._reads = Outgoing(shard_pb2.Reads())
            read = out.payload.reads.add()  # type: ignore[union-attr]
            read.key = op.message.key  # type: ignore[attr-defined]
            if op.version:
                read.version = op.version
        else:
            out = self._commands
            if out.ops and (
                len(out.ops) >= self.operations_max or out.size + size > self._message_bytes_max
            ):
                self._full.append(out)
                out = self._commands = Outgoing(log_pb2.Commands())
            command = out.payload.commands.add()  # type: ignore[union-attr]
            if kind == Kind.PUT:
                command.put.CopyFrom(op.message)  # type: ignore[arg-type]
            else:
                getattr(command, _FIELDS[kind]).CopyFrom(op.message)
        out.ops.append(op)
        out.size += size
        self.bytes += size
        if op.deadline < out.deadline:
            out.deadline = op.deadline

    def take(self) -> Outgoing | None:
        """Remove and return the message that waited longest, None when nothing waits."""
        if self._full:
            out = self._full.popleft()
        elif self._commands.ops:
            out, self._commands = self._commands, Outgoing(log_pb2.Commands())
        elif self._reads.ops:
            out, self._reads = self._reads, Outgoing(shard_pb2.Reads())
        else:
            return None
        self.bytes -= out.size
        return out

    def take_all(self) -> list[Op]:
        """Remove and return all requests, in their order."""
        ops: list[Op] = []
        while (out := self.take()) is not None:
            ops += out.ops
        return ops

    def put_first(self, ops: Iterable[Op]) -> None:
        """Put requests before all that wait, without those that are done."""
        later = self.take_all()
        for op in ops:
            if not op.done:
                self.add(op)
        for op in later:
            if not op.done:
                self.add(op)

    def expired(self, now: float) -> list[Op]:
        """Remove and return the requests whose deadline is at or before ``now``."""
        if all(out.deadline > now for out in (*self._full, self._commands, self._reads)):
            return []
        gone: list[Op] = []
        kept: list[Op] = []
        for op in self.take_all():
            (gone if op.deadline <= now else kept).append(op)
        for op in kept:
            self.add(op)
        return gone


_FIELDS = {Kind.PUT: "put", Kind.DELETE: "delete", Kind.TRANSACT: "transact", Kind.ADVANCE: "advance"}
