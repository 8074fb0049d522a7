"""Committed entries -> state machine -> RocksDB, and the results back to whoever waits for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from overdb.internal.v1 import shard_pb2
from overdb_node import codec
from overdb_node.machine.machine import Machine
from overdb_node.machine.types import (
    Batch,
    Refused,
    Token,
    Unread,
    Waits,
    Written,
    WrongGroup,
)
from overdb_node.metrics import NodeMetrics
from overdb_node.raft.types import Entry, EntryKind
from overdb_node.storage.data import DataStore
from overdb_node.storage.errors import means_no_space
from overdb_node.transport.shard_service import Answers

# How long the loop may be kept from other work, heartbeats above all, by applying.
SLICE_SECONDS_MAX = 0.005
_WRITTEN_ONLY = {Written}


class Waiting:
    """Requests of routers and clients whose entry is proposed and not yet applied, by index."""

    def __init__(self) -> None:
        self._by_index: dict[int, tuple[int, int, Answers]] = {}  # -> term, sequence, where to

    def __len__(self) -> int:
        return len(self._by_index)

    def add(self, index: int, term: int, sequence: int, answers: Answers) -> None:
        self._by_index[index] = (term, sequence, answers)

    def take(self, entry: Entry) -> tuple[int, Answers] | None:
        """Who waits for this very entry. Who waits for another one at this index waits in vain."""
        waiting = self._by_index.pop(entry.index, None)
        if waiting is None or waiting[0] != entry.term:
            return None
        return waiting[1], waiting[2]

    def take_all(self) -> Iterable[tuple[int, Answers]]:
        taken = [(sequence, answers) for _, sequence, answers in self._by_index.values()]
        self._by_index.clear()
        return taken


class Deferred:
    """Commands that wait for locks, by the token that their answer will come with."""

    def __init__(self) -> None:
        self._by_token: dict[Token, list[tuple[Answers, int, int]]] = {}

    def add(self, token: Token, answers: Answers, sequence: int, position: int) -> None:
        self._by_token.setdefault(token, []).append((answers, sequence, position))

    def take(self, token: Token) -> list[tuple[Answers, int, int]]:
        """Who waits for it: where to, which request, the command's place in it."""
        return self._by_token.pop(token, [])

    def take_all(self) -> Iterable[tuple[int, Answers]]:
        """Every request with something that waits, once."""
        taken = dict.fromkeys(  # not a set: in the order in which they came
            (sequence, answers)
            for waiting in self._by_token.values()
            for answers, sequence, _ in waiting
        )
        self._by_token.clear()
        return taken


@dataclass(frozen=True, slots=True)
class _Slice:
    """Entries that were applied together, and the answers that leave when they are written."""

    batch: Batch
    index: int
    term: int
    responses: list[tuple[Answers, shard_pb2.ShardResponse]]


class Applier:
    """Applies in slices, so that the loop stays free for heartbeats. One RocksDB batch a slice."""

    def __init__(
        self,
        machine: Machine,
        data: DataStore,
        waiting: Waiting,
        deferred: Deferred,
        metrics: NodeMetrics,
    ) -> None:
        self.machine = machine
        self.data = data
        self._waiting = waiting
        self._deferred = deferred
        self._metrics = metrics
        self._queue: deque[Entry] = deque()
        self.commands_applied = 0
        self.newest_write = 0  # clock behind the newest write of a value or a tombstone
        self._unwritten: _Slice | None = None  # applied, and RocksDB had no room for it
        self.closed = False  # another state has taken the place of this one
        # Of this slice: who waits for a result whose values are still to be read.
        self._unread: list[tuple[Answers, int, int, Unread]] = []

    def extend(self, entries: Iterable[Entry]) -> None:
        self._queue.extend(entries)

    def clear(self) -> None:
        """Forget what is queued: an installed snapshot covers it, and takes the place of the state."""
        self._queue.clear()
        self._unwritten = None
        self._unread.clear()
        self.closed = True

    @property
    def has_work(self) -> bool:
        return bool(self._queue) and not self.is_stuck

    @property
    def is_stuck(self) -> bool:
        """Whether RocksDB has no room for what was applied: nothing can be read until it has (1.4)."""
        return self._unwritten is not None

    def try_again(self) -> int | None:
        """Write the slice that RocksDB had no room for; return as ``run_slice``."""
        return None if self._unwritten is None else self._write(self._unwritten)

    def run_slice(self) -> int | None:
        """Apply for at most SLICE_SECONDS_MAX, at least one entry; return the last index applied.

        Data, records and the applied index reach RocksDB as one batch; answers leave after it. None: the
        disk has no room for the batch, and the state in memory is ahead of what can be read.
        """
        deadline = time.monotonic() + SLICE_SECONDS_MAX
        queue, machine = self._queue, self.machine
        level = machine.level
        responses: list[tuple[Answers, shard_pb2.ShardResponse]] = []
        while queue:
            entry = queue.popleft()
            response = self._apply(entry, machine)
            if response is not None:
                responses.append(response)
            self._release(machine, responses)
            if time.monotonic() > deadline or machine.compared == entry.index:
                break  # what replicas compare is the state as of that entry
            if machine.level != level:
                break  # it is noted in the directory before anything is answered by its rules
        return self._write(_Slice(machine.take_batch(), entry.index, entry.term, responses))

    def _write(self, applied: _Slice) -> int | None:
        batch = applied.batch
        try:
            self.data.write(batch.versions, batch.records, applied.index, applied.term)
        except Exception as error:
            if not means_no_space(error):
                raise
            self._unwritten = applied
            return None
        self._unwritten = None
        if batch.versions:
            self.newest_write = self.machine.clock
        for answers, answer in applied.responses:
            answers.send(answer)
        for answers, sequence, position, unread in self._unread:
            answers.send_when_written(partial(self._read_again, sequence, position, unread))
        self._unread.clear()
        return applied.index

    def _read_again(self, sequence: int, position: int, unread: Unread) -> shard_pb2.ShardResponse:
        """An answer whose values were not kept, made at the moment it is sent: one at a time is in memory."""
        response = shard_pb2.ShardResponse(sequence=sequence)
        if self.closed:
            response.failure.reason = shard_pb2.Failure.REASON_NOT_LEADER
            return response
        result = self.machine.read_again(unread.result)
        codec.fill_result(response.late.add(position=position).result, result)
        return response

    def _apply(
        self, entry: Entry, machine: Machine
    ) -> tuple[Answers, shard_pb2.ShardResponse] | None:
        if entry.kind is not EntryKind.COMMANDS:
            machine.apply(entry.index, entry.term, 0, ())
            return None
        stamp, commands = codec.decode_envelope(entry.payload)
        results = machine.apply(entry.index, entry.term, stamp, commands)
        self.commands_applied += len(results)
        waiting = self._waiting.take(entry)
        if waiting is None:
            return None
        sequence, answers = waiting
        if answers.compact and set(map(type, results)) == _WRITTEN_ONLY:
            self._metrics.requested("commands", "OK", len(results))
            versions = [result.version for result in results if type(result) is Written]
            return answers, shard_pb2.ShardResponse(sequence=sequence, versions=versions)
        refused = sum(isinstance(result, Refused | WrongGroup) for result in results)
        self._metrics.requested("commands", "OK", len(results) - refused)
        if refused:
            self._metrics.requested("commands", "REFUSED", refused)
        response = shard_pb2.ShardResponse(sequence=sequence)
        add = response.results.add
        for position, result in enumerate(results):
            codec.fill_result(add(), result)
            if type(result) is Waits:
                self._deferred.add(result.token, answers, sequence, position)
            elif type(result) is Unread:
                self._unread.append((answers, sequence, position, result))
        return answers, response

    def _release(
        self, machine: Machine, responses: list[tuple[Answers, shard_pb2.ShardResponse]]
    ) -> None:
        """Answer, behind the entry's own response, what it set free."""
        late: dict[tuple[Answers, int], shard_pb2.ShardResponse] = {}
        for token, result in machine.take_released():
            for answers, sequence, position in self._deferred.take(token):
                if type(result) is Unread:
                    self._unread.append((answers, sequence, position, result))
                    continue
                response = late.get((answers, sequence))
                if response is None:
                    response = shard_pb2.ShardResponse(sequence=sequence)
                    late[answers, sequence] = response
                    responses.append((answers, response))
                one = response.late.add(position=position)
                codec.fill_result(one.result, result)
