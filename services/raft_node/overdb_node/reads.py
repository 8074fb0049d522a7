"""Serving reads once Raft has confirmed them and the state has caught up (PROTOCOL 1.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from overdb.internal.v1 import shard_pb2
from overdb_node import codec
from overdb_node.machine.machine import Machine
from overdb_node.machine.types import Code, Refused
from overdb_node.storage.data import DataStore
from overdb_node.transport.shard_service import Answers

# Values in one answer, a value more at most: a message may have 16 MiB. What finds no room is refused as
# overload, which clients ask again.
ANSWER_BYTES_MAX = 8 << 20
_PORTION = 64
_TOO_MUCH = Refused(
    Code.RESOURCE_EXHAUSTED,
    f"the values read with one message have more than {ANSWER_BYTES_MAX} bytes; ask again, for fewer",
)


class PendingRead(NamedTuple):
    """What Raft carries through its round: called with True when it may be answered, False when never."""

    complete: Callable[[bool], None]


class Reads:
    """Reads that are confirmed up to an index and wait until it is applied."""

    def __init__(self) -> None:
        self._confirmed: deque[tuple[int, PendingRead]] = deque()  # ascending by index

    def add(self, read: object, index: int) -> None:
        assert isinstance(read, PendingRead)
        self._confirmed.append((index, read))

    def run(self, applied: int) -> None:
        """Answer everything that waits for ``applied`` or less."""
        while self._confirmed and self._confirmed[0][0] <= applied:
            self._confirmed.popleft()[1].complete(True)

    def fail_all(self) -> None:
        while self._confirmed:
            self._confirmed.popleft()[1].complete(False)


def answer_reads(
    machine: Machine, data: DataStore, request: shard_pb2.ShardRequest, answers: Answers
) -> None:
    """Answer a batch of point reads from one applied state (nothing is applied meanwhile)."""
    response = shard_pb2.ShardResponse(sequence=request.sequence)
    reads = request.reads.reads
    add = response.values.add
    left_bytes = ANSWER_BYTES_MAX
    for start in range(0, len(reads), _PORTION):
        left_bytes = _answer_portion(
            machine, data, reads[start : start + _PORTION], add, left_bytes
        )
    answers.send(response)


def _answer_portion(
    machine: Machine,
    data: DataStore,
    reads: Sequence[shard_pb2.Read],
    add: Callable[[], shard_pb2.Value],
    left_bytes: int,
) -> int:
    """Answer some of the reads while there is room; return the room that is left."""
    refused = [machine.check_read(read.key, read.version) for read in reads]
    wanted = [
        (read.key, read.version or None)
        for read, refusal in zip(reads, refused, strict=True)
        if refusal is None
    ]
    found = iter(data.newest_many(wanted) if left_bytes > 0 else ())
    for refusal in refused:
        if refusal is not None:
            codec.fill_read_refusal(add(), refusal)
            continue
        if left_bytes <= 0:
            codec.fill_read_refusal(add(), _TOO_MUCH)
            continue
        value = next(found)
        if value is not None and value[1] is not None:
            left_bytes -= len(value[1])
        codec.fill_value(add(), value)
    return left_bytes
