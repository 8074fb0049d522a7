"""One request on its way to its group, and who waits for its answer."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from google.protobuf.message import Message

from overdb.internal.v1 import shard_pb2
from overdb_router.ids import OwnId
from overdb_router.refusals import Refusal


class Kind(IntEnum):
    """What a request is."""

    GET = 0
    PUT = 1
    DELETE = 2
    TRANSACT = 3
    ADVANCE = 4  # the router's own: raise a group's clock (PROTOCOL 2.7)
    READ_SET = 5  # several keys of one group in one applied state (PROTOCOL 2.6, 2.7)
    LOOKUP = 6  # what a group keeps under an id
    # The router's own, of a transaction over several groups (PROTOCOL 2.3, 2.4, 2.10).
    PREPARE = 7
    RESOLVE = 8
    FORGET = 9


# Parts of a transaction: each is for one group, wherever the slots of its keys are.
PARTS = frozenset({Kind.PREPARE, Kind.RESOLVE, Kind.FORGET})

# What changes nothing: it may always be said to have done nothing, and be asked again.
READS = frozenset({Kind.GET, Kind.READ_SET, Kind.LOOKUP})


class Sink(Protocol):
    """Who waits for answers. Called from the loop, once per operation, and must not wait."""

    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None:
        """A command ran; its answer is ``getattr(result, field)``."""

    def written(self, op: Op, version: int) -> None:
        """A PUT ran; ``answered`` with its version, in short."""

    def read(self, op: Op, value: shard_pb2.Value) -> None:
        """A read was answered: a GET with ``found``, ``value`` and ``version``, a READ_SET with ``set``,
        a LOOKUP with ``lookup``."""

    def got(self, op: Op, content: bytes, version: int) -> None:
        """A GET of the newest was answered; ``read`` in short. Version 0: the key holds nothing."""

    def refused(self, op: Op, refusal: Refusal) -> None:
        """It was not answered; the code of the refusal says whether it may have run."""


class Op:
    """One request. ``message`` is the public request with its id (ADVANCE: log_pb2.Advance, READ_SET:
    shard_pb2.ReadSet, LOOKUP: the RequestId; PREPARE, RESOLVE, FORGET: what log_pb2 calls so).

    ``size`` in bytes is what it counts for in the bounds; ``deadline`` is in seconds of the loop's clock.
    ``slot`` is that of its key, ``slots`` those of all its keys when they have several. ``sent`` says
    that it may have reached a replica, ``done`` that its sink has its answer. ``refusal`` is why a leader has
    refused its newest copy while an earlier one may have run; empty: none has.
    """

    __slots__ = (
        "deadline",
        "done",
        "kind",
        "message",
        "own_id",
        "refusal",
        "sent",
        "sink",
        "size",
        "slot",
        "slots",
        "stale",
        "tag",
        "version",
    )

    def __init__(
        self, kind: Kind, message: Message, size: int, deadline: float, sink: Sink, tag: int = 0
    ) -> None:
        self.kind = kind
        self.message = message
        self.size = size
        self.deadline = deadline
        self.sink = sink
        self.tag = tag
        self.slot = 0
        self.slots: tuple[int, ...] = ()
        # Of a GET: what to read at, 0 for the newest. Of a READ_SET: what the clock has to reach.
        self.version = 0
        self.stale = False
        self.own_id: OwnId | None = None
        self.sent = False
        self.refusal = ""
        self.done = False

    def refuse(self, refusal: Refusal) -> None:
        """Tell the sink, once."""
        if not self.done:
            self.finish()
            self.sink.refused(self, refusal)

    def finish(self) -> None:
        """Mark it answered. Whoever calls this calls the sink next."""
        self.done = True
        if self.own_id is not None:
            self.own_id.close()
