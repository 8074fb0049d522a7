"""Serving reads once Raft has confirmed them and the state has caught up (PROTOCOL 1.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from overdb.internal.v1 import shard_pb2
from overdb_node import codec
from overdb_node.machine.machine import Machine
from overdb_node.storage.data import DataStore
from overdb_node.transport.shard_service import Answers


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
    """Answer a batch of point reads from one applied state."""
    response = shard_pb2.ShardResponse(sequence=request.sequence)
    reads = request.reads.reads
    wanted: list[tuple[bytes, int | None]] = []
    refused = []
    for read in reads:
        refusal = machine.check_read(read.key, read.version)
        refused.append(refusal)
        if refusal is None:
            wanted.append((read.key, read.version or None))
    found = iter(data.newest_many(wanted))
    add = response.values.add
    for refusal in refused:
        if refusal is None:
            codec.fill_value(add(), next(found))
        else:
            codec.fill_read_refusal(add(), refusal)
    answers.send(response)
