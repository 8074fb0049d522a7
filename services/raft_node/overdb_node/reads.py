"""Serving reads once Raft has confirmed them and the state has caught up (PROTOCOL 1.3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_common import outcome
from overdb_node import codec, transaction_codec
from overdb_node.machine.machine import Machine
from overdb_node.machine.types import Code, Refused, Transacted, TransactionId
from overdb_node.storage.data import DataStore
from overdb_node.transport.shard_service import Answers

# Values in one answer, a value more at most: a message may have 16 MiB. What finds no room is refused as
# overload, which clients ask again.
ANSWER_BYTES_MAX = 8 << 20
# Of a set, which may come on top: no transaction may read more, over all groups together.
SET_BYTES_MAX = outcome.ANSWER_BYTES_MAX
_PORTION = 64
BLOCKED_MAX = 16_384  # reads that wait for transactions
_TOO_MANY = Refused(
    Code.RESOURCE_EXHAUSTED,
    f"{BLOCKED_MAX} reads wait for keys that open transactions hold (Cluster.Transactions lists them); "
    "retry later",
)
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
        # Ascending by index, nearly: one that a lease confirmed may stand before those of a round that is
        # older, which then wait for it.
        self._confirmed: deque[tuple[int, PendingRead]] = deque()

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


class BlockedReads:
    """Reads that wait until a transaction lets go of a key (PROTOCOL 2.6)."""

    def __init__(self) -> None:
        self._blocked: dict[bytes, list[tuple[Answers, int, int, shard_pb2.Read]]] = {}  # by key
        self._count = 0
        self._pages: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return self._count

    def add(
        self, key: bytes, answers: Answers, sequence: int, position: int, read: shard_pb2.Read
    ) -> None:
        """Have a read wait until ``key`` is let go of."""
        self._blocked.setdefault(key, []).append((answers, sequence, position, read))
        self._count += 1

    async def next_release(self) -> None:
        """Return when something may have been let go of."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pages.append(future)
        await future

    def run(self, machine: Machine, data: DataStore) -> None:
        """Answer what is not held up any more, looking only at the keys that were let go of."""
        keys = machine.participant.take_released_keys()
        if not keys:
            return
        self._wake_pages()
        for key in keys if self._blocked else ():
            for answers, sequence, position, read in self._blocked.pop(key, ()):
                self._count -= 1
                if answers.closed:
                    continue
                still = blocking_key(machine, read)
                if still is not None:
                    self.add(still, answers, sequence, position, read)
                    continue
                response = shard_pb2.ShardResponse(sequence=sequence)
                _answer_one(machine, data, read, response.late.add(position=position).value)
                answers.send(response)

    def _wake_pages(self) -> None:
        pages, self._pages = self._pages, []
        for page in pages:
            if not page.done():
                page.set_result(None)

    def take_all(self) -> Iterable[tuple[int, Answers]]:
        """Every request with a read that waits, once; pages look again by themselves."""
        self._wake_pages()
        # Not a set: in the order in which they came.
        taken = dict.fromkeys((two[1], two[0]) for ones in self._blocked.values() for two in ones)
        self._blocked.clear()
        self._count = 0
        return taken


def blocking_key(machine: Machine, read: shard_pb2.Read) -> bytes | None:
    """The key that a read has to wait for. A set waits until none of its keys is held (PROTOCOL 2.6)."""
    waits = machine.participant.reader_waits
    if not read.HasField("set"):
        return read.key if waits(read.key, read.version or None) else None
    if read.set.versions:
        return None  # the second round does not wait: it asks whether anything has changed
    return next((key for key in read.set.keys if waits(key, None)), None)


def is_blocked(machine: Machine, read: shard_pb2.Read) -> bool:
    return blocking_key(machine, read) is not None


def answer_reads(
    machine: Machine,
    data: DataStore,
    request: shard_pb2.ShardRequest,
    answers: Answers,
    blocked: BlockedReads,
) -> None:
    """Answer a batch of point reads from one applied state (nothing is applied meanwhile)."""
    may_block = bool(machine.participant.open) and not request.reads.stale
    if request.reads.plain and not may_block:
        found = _contents(machine, data, [read.key for read in request.reads.reads])
        if found is not None:
            contents, versions = found
            answers.send(
                shard_pb2.ShardResponse(
                    sequence=request.sequence, contents=contents, content_versions=versions
                )
            )
            return
    response = shard_pb2.ShardResponse(sequence=request.sequence)
    reads = request.reads.reads
    left_bytes = ANSWER_BYTES_MAX
    for start in range(0, len(reads), _PORTION):
        portion = reads[start : start + _PORTION]
        plain = [read for read in portion if read.key]
        if len(plain) == len(portion) and not may_block:
            values = [response.values.add() for _ in portion]
            left_bytes = _answer_portion(machine, data, portion, values, left_bytes)
            continue
        for position, read in enumerate(portion, start):
            value = response.values.add()
            key = blocking_key(machine, read) if may_block else None
            if key is not None and len(blocked) >= BLOCKED_MAX:
                codec.fill_read_refusal(value, _TOO_MANY)
            elif key is not None:
                value.pending.SetInParent()
                blocked.add(key, answers, request.sequence, position, read)
            elif left_bytes <= 0:
                codec.fill_read_refusal(value, _TOO_MUCH)
            else:
                left_bytes -= _answer_one(machine, data, read, value)
    answers.send(response)


def _contents(
    machine: Machine, data: DataStore, keys: Sequence[bytes]
) -> tuple[list[bytes], list[int]] | None:
    """What the keys hold, and its versions (0: nothing), as nearly all reads are answered.

    None when one of them is refused, or all are too much for one answer: each needs one of its own then.
    """
    if not machine.may_read_all(keys):
        return None
    contents: list[bytes] = []
    versions: list[int] = []
    left_bytes = ANSWER_BYTES_MAX
    for start in range(0, len(keys), _PORTION):
        for one in data.newest_many([(key, None) for key in keys[start : start + _PORTION]]):
            if one is None or one[1] is None:
                contents.append(b"")
                versions.append(0)
            else:
                contents.append(one[1])
                versions.append(one[0])
                left_bytes -= len(one[1])
        if left_bytes < 0:
            return None
    return contents, versions


def _answer_one(
    machine: Machine, data: DataStore, read: shard_pb2.Read, value: shard_pb2.Value
) -> int:
    """Answer any kind of read; return the bytes of the answer."""
    if read.HasField("set"):
        answer_set(machine, data, read.set, value)
    elif read.HasField("lookup"):
        answer_lookup(machine, read.lookup, value)
    else:
        _answer_portion(machine, data, [read], [value], ANSWER_BYTES_MAX)
    return value.ByteSize()


def answer_set(
    machine: Machine, data: DataStore, wanted: shard_pb2.ReadSet, out: shard_pb2.Value
) -> None:
    """Several keys in this one applied state, or whether they are as they were (PROTOCOL 2.7)."""
    for key in wanted.keys:
        refusal = machine.check_read(key, 0)
        if refusal is not None:
            codec.fill_read_refusal(out, refusal)
            return
    if machine.clock < wanted.clock:
        out.behind.clock = machine.clock
        return
    found = data.newest_many([(key, None) for key in wanted.keys])
    newest = [0 if one is None else one[0] for one in found]
    if wanted.versions:
        waits = machine.participant.reader_waits
        out.set.unchanged = newest == list(wanted.versions) and not any(
            waits(key, None) for key in wanted.keys
        )
        return
    size = sum(len(one[1]) for one in found if one is not None and one[1] is not None)
    if size > SET_BYTES_MAX:
        codec.fill_read_refusal(
            out,
            Refused(
                Code.INVALID_ARGUMENT,
                f"the values that are read together have {size} bytes in one group, the limit is "
                f"{SET_BYTES_MAX}: read fewer keys at a time",
            ),
        )
        return
    out.set.SetInParent()
    out.set.versions.extend(newest)
    for one in found:
        value = out.set.values.add()
        if one is not None and one[1] is not None:
            value.found, value.version, value.value = True, one[0], one[1]


def answer_lookup(machine: Machine, wanted: kv_pb2.RequestId, out: shard_pb2.Value) -> None:
    """What is kept under an id, for TransactionStatus."""
    identity = TransactionId(wanted.client_id, wanted.request_number)
    found = out.lookup
    found.SetInParent()
    found.closed = machine.is_gone(identity)
    transaction = machine.participant.find_id(identity)
    if transaction is not None:
        transaction_codec.fill_found_transaction(found.transaction, transaction, machine)
        return
    if identity in machine.participant.parked:
        found.transaction.kind = shard_pb2.Vote.KIND_WAITING
        return
    stored = machine.stored_result(identity)
    if isinstance(stored, Transacted):
        whole = machine.read_again(stored)
        # What it read may be gone; that it ran is known.
        stored = stored._replace(results=()) if isinstance(whole, Refused) else whole
    if stored is not None:
        codec.fill_result(found.result, stored)


def _answer_portion(
    machine: Machine,
    data: DataStore,
    reads: Sequence[shard_pb2.Read],
    values: Sequence[shard_pb2.Value],
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
    for refusal, out in zip(refused, values, strict=True):
        if refusal is not None:
            codec.fill_read_refusal(out, refusal)
            continue
        if left_bytes <= 0:
            codec.fill_read_refusal(out, _TOO_MUCH)
            continue
        value = next(found)
        if value is not None and value[1] is not None:
            left_bytes -= len(value[1])
        codec.fill_value(out, value)
    return left_bytes
