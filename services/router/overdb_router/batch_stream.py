"""One client's Batch stream: the hot path of the router.

A message of the client is taken apart once, each entry goes straight into the message for its group,
and each answer straight into the message for the client, which leaves at the next turn of the loop with
everything that is ready by then.
"""

from __future__ import annotations

import asyncio
from collections import deque

import grpc

from overdb.internal.v1 import shard_pb2
from overdb.sharding import slot_of, slots_of
from overdb.v1 import kv_pb2
from overdb_common.careful import Unreadable, refuse
from overdb_router import refusals
from overdb_router.core import RouterCore
from overdb_router.operations import Kind, Op
from overdb_router.queues import OVERHEAD_BYTES
from overdb_router.refusals import Refusal
from overdb_router.validation import SNAPSHOT, STALE, keys_of

Context = grpc.aio.ServicerContext[kv_pb2.BatchRequest, kv_pb2.BatchResponse]

# A message to a client; one that holds a single larger answer is larger.
ANSWER_MESSAGE_BYTES_MAX = 1 << 20
_METHODS = {Kind.GET: "Get", Kind.PUT: "Put", Kind.DELETE: "Delete", Kind.TRANSACT: "Transact"}


class BatchStream:
    """Reads requests, routes them, writes answers. It is the sink of its own requests.

    A client that goes away is not told anything; its writes run to their end.
    """

    def __init__(self, core: RouterCore) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        settings = core.settings
        self._seconds_max = settings.request_seconds_max
        self._key_bytes_max = settings.key_bytes_max
        self._value_bytes_max = settings.value_bytes_max
        self._stream_bytes_max = settings.stream_bytes_max
        self._answer_bytes_max = settings.answer_bytes_max
        self._by_slot = core.dispatcher.by_slot
        self._submit_specially = core.dispatcher.submit
        self._open_bytes = 0  # requests without an answer, as the bounds count them
        self._open = 0
        self._succeeded = [0] * len(Kind)  # not counted in the metrics yet, by kind
        self._response = kv_pb2.BatchResponse()
        self._add = self._response.entries.add
        self._response_bytes = 0
        self._full: deque[tuple[kv_pb2.BatchResponse, int]] = deque()
        self._waiting_bytes = 0  # answers that are not written yet
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._ending = False
        self._closed = False
        self._reading: asyncio.Task[None] | None = None
        self._unreadable: Unreadable | None = None  # what the client has sent last

    # --- life -----------------------------------------------------------------------------------

    async def run(self, context: Context) -> None:
        """Serve until the client has no more requests and has all answers, or is gone."""
        self._reading = asyncio.create_task(self._read(context), name="batch-read")
        try:
            await self._write(context)
            if self._unreadable is not None:  # behind the answers to what came before
                await refuse(self._unreadable, context)
        finally:
            self._closed = True
            self._count_succeeded()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def end(self) -> None:
        """Take no more requests; the stream ends once all it has are answered."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, context: Context) -> None:
        try:
            while isinstance(request := await context.read(), kv_pb2.BatchRequest):
                self._take(request)
                while self._waiting_bytes > self._answer_bytes_max:
                    self._written.clear()
                    await self._written.wait()
            if isinstance(request, Unreadable):
                self._unreadable = request
        finally:
            self._ending = True
            self._wake.set()

    async def _write(self, context: Context) -> None:
        while True:
            if self._full:
                response, size = self._full.popleft()
            elif self._response_bytes:
                response, size = self._response, self._response_bytes
                self._renew()
            elif self._ending and not self._open:
                return
            else:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._count_succeeded()
            await context.write(response)
            self._waiting_bytes -= size
            self._written.set()

    def _renew(self) -> None:
        self._response = kv_pb2.BatchResponse()
        self._add = self._response.entries.add
        self._response_bytes = 0

    # --- requests -------------------------------------------------------------------------------

    def _take(self, request: kv_pb2.BatchRequest) -> None:
        now = self._loop.time()
        longest = now + self._seconds_max
        entries = request.entries
        self._core.metrics.batched(len(entries))
        for entry in entries:
            timeout_ms = entry.timeout_ms
            deadline = min(now + timeout_ms / 1000, longest) if timeout_ms else longest
            which = entry.WhichOneof("request")
            if which == "put":
                self._put(entry.put, entry.tag, deadline)
            elif which == "get":
                self._get(entry.get, entry.tag, deadline)
            elif which == "delete":
                self._delete(entry.delete, entry.tag, deadline)
            elif which == "transact":
                self._transact(entry.transact, entry.tag, deadline)
            else:
                refusal = refusals.invalid(
                    "request", "is empty; get, put, delete or transact is needed"
                )
                self._refuse(entry.tag, refusal)

    def _put(self, put: kv_pb2.PutRequest, tag: int, deadline: float) -> None:
        key = put.key
        value_bytes = len(put.value)
        has_id = put.HasField("id")
        # What passes nearly always, at one glance; the validation says what is wrong with the rest.
        if (
            not 0 < len(key) <= self._key_bytes_max
            or value_bytes > self._value_bytes_max
            or (has_id and not _plausible(put.id))
        ) and (refusal := self._core.validation.put(put)) is not None:
            self._refuse(tag, refusal)
            return
        op = Op(Kind.PUT, put, len(key) + value_bytes + OVERHEAD_BYTES, deadline, self, tag)
        if not has_id:
            op.own_id = self._core.ids.assign(put.id)
        self._submit(op, slot_of(key))

    def _get(self, get: kv_pb2.GetRequest, tag: int, deadline: float) -> None:
        key = get.key
        op = Op(Kind.GET, get, len(key) + OVERHEAD_BYTES, deadline, self, tag)
        if get.HasField("read"):
            refusal = self._core.validation.get(get)
            consistency = get.read.consistency
            if consistency == SNAPSHOT:
                op.version = get.read.version
            elif consistency == STALE:
                op.stale = True
        else:
            refusal = self._core.validation.key(key)
        if refusal is not None:
            self._refuse(tag, refusal)
            return
        self._submit(op, slot_of(key))

    def _delete(self, delete: kv_pb2.DeleteRequest, tag: int, deadline: float) -> None:
        refusal = self._core.validation.delete(delete)
        if refusal is not None:
            self._refuse(tag, refusal)
            return
        key = delete.key
        op = Op(Kind.DELETE, delete, len(key) + OVERHEAD_BYTES, deadline, self, tag)
        if not delete.HasField("id"):
            op.own_id = self._core.ids.assign(delete.id)
        self._submit(op, slot_of(key))

    def _transact(self, transact: kv_pb2.TransactRequest, tag: int, deadline: float) -> None:
        validation = self._core.validation
        keys = validation.keys_of_puts(transact)
        if keys is None:
            refusal = validation.transact(transact)
            if refusal is not None:
                self._refuse(tag, refusal)
                return
            keys = keys_of(transact)
        size = transact.ByteSize() + OVERHEAD_BYTES
        op = Op(Kind.TRANSACT, transact, size, deadline, self, tag)
        if not transact.HasField("id"):
            op.own_id = self._core.ids.assign(transact.id)
        slots = tuple(dict.fromkeys(slots_of(keys)))
        op.slots = slots[1:] and slots
        self._submit(op, slots[0])

    def _submit(self, op: Op, slot: int) -> None:
        op.slot = slot
        self._open += 1
        self._open_bytes += op.size
        if self._open_bytes > self._stream_bytes_max and self._open > 1:
            op.refuse(self._too_much())
            return
        link = self._by_slot[slot]
        if link is None or op.stale or op.slots:
            self._submit_specially(op)
        else:
            link.submit(op)

    def _too_much(self) -> Refusal:
        return refusals.resource_exhausted(
            "stream",
            f"{self._open_bytes} bytes of this stream's requests have no answer yet, the limit is "
            f"{self._stream_bytes_max}; wait for answers before sending more",
        )

    # --- answers (operations.Sink) ----------------------------------------------------------------

    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None:
        self._open -= 1
        self._open_bytes -= op.size
        self._succeeded[op.kind] += 1
        if self._closed:
            self._count_succeeded()
            return
        if field == "put":
            self._entry(op.tag, 32).put.CopyFrom(result.put)
        elif field == "delete":
            self._entry(op.tag, 32).delete.CopyFrom(result.delete)
        else:
            transact = result.transact
            self._entry(op.tag, transact.ByteSize() + 32).transact.CopyFrom(transact)

    def written(self, op: Op, version: int) -> None:
        self._open -= 1
        self._open_bytes -= op.size
        self._succeeded[op.kind] += 1
        if self._closed:
            self._count_succeeded()
            return
        self._entry(op.tag, 32).put.version = version

    def read(self, op: Op, value: shard_pb2.Value) -> None:
        self.got(op, value.value, value.version if value.found else 0)

    def got(self, op: Op, content: bytes, version: int) -> None:
        self._open -= 1
        self._open_bytes -= op.size
        self._succeeded[op.kind] += 1
        if self._closed:
            self._count_succeeded()
            return
        get = self._entry(op.tag, len(content) + 32).get
        if version:
            get.found = True
            get.value = content
            get.version = version
        else:
            get.SetInParent()

    def refused(self, op: Op, refusal: Refusal) -> None:
        self._open -= 1
        self._open_bytes -= op.size
        self._core.metrics.count(_METHODS[op.kind], refusal.code)
        if not self._closed:
            refusal.fill(self._entry(op.tag, 256).error)

    def _refuse(self, tag: int, refusal: Refusal) -> None:
        """Refuse what never became a request."""
        refusal.fill(self._entry(tag, 256).error)
        self._core.metrics.count("Batch", refusal.code)

    def _entry(self, tag: int, size: int) -> kv_pb2.BatchResponse.Entry:
        if self._response_bytes + size > ANSWER_MESSAGE_BYTES_MAX and self._response_bytes:
            self._full.append((self._response, self._response_bytes))
            self._renew()
        if not self._response_bytes:
            self._wake.set()
        self._response_bytes += size
        self._waiting_bytes += size
        entry = self._add()
        entry.tag = tag
        return entry

    def _count_succeeded(self) -> None:
        for kind, method in _METHODS.items():
            if self._succeeded[kind]:
                self._core.metrics.count(method, 0, self._succeeded[kind])
                self._succeeded[kind] = 0


def _plausible(request_id: kv_pb2.RequestId) -> bool:
    """Whether an id passes ``Validation.request_id``."""
    client_id = request_id.client_id
    number = request_id.request_number
    return (
        len(client_id) == 16
        and client_id[6] >> 4 == 7
        and 0 < number >= request_id.acknowledged_below
    )
