"""overdb.v1.KV: checks requests, hands them to the dispatcher, turns answers into responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from overdb.internal.v1 import shard_pb2
from overdb.sharding import slot_of
from overdb.v1 import kv_pb2, kv_pb2_grpc
from overdb_router import refusals, scans, status
from overdb_router.batch_stream import BatchStream
from overdb_router.core import RouterCore
from overdb_router.gate import Gate
from overdb_router.operations import Kind, Op
from overdb_router.queues import OVERHEAD_BYTES
from overdb_router.refusals import Refusal, Refused
from overdb_router.snapshots import Waiter
from overdb_router.validation import SNAPSHOT, STALE, keys_of

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

# The answer should reach the client before the client gives up, because it says more.
_MARGIN_SECONDS_MAX = 0.1
_MARGIN_SHARE = 0.1


class KVService(kv_pb2_grpc.KVServicer):
    """One call is one request; ``Batch`` is a stream of many."""

    def __init__(self, core: RouterCore, gate: Gate) -> None:
        self._core = core
        self._gate = gate
        self._streams: set[BatchStream] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    def end_streams(self) -> None:
        """Have Batch streams take no more requests and end when all theirs are answered."""
        for stream in self._streams:
            stream.end()

    # --- RPCs -----------------------------------------------------------------------------------

    async def Get(self, request: kv_pb2.GetRequest, context: Context) -> kv_pb2.GetResponse:  # noqa: N802
        return await self._call("Get", self._get, request, context)

    async def Put(self, request: kv_pb2.PutRequest, context: Context) -> kv_pb2.PutResponse:  # noqa: N802
        return await self._call("Put", self._put, request, context)

    async def Delete(  # noqa: N802
        self, request: kv_pb2.DeleteRequest, context: Context
    ) -> kv_pb2.DeleteResponse:
        return await self._call("Delete", self._delete, request, context)

    async def Transact(  # noqa: N802
        self, request: kv_pb2.TransactRequest, context: Context
    ) -> kv_pb2.TransactResponse:
        return await self._call("Transact", self._transact, request, context)

    async def TransactionStatus(  # noqa: N802
        self, request: kv_pb2.TransactionStatusRequest, context: Context
    ) -> kv_pb2.TransactionStatusResponse:
        return await self._call("TransactionStatus", self._transaction_status, request, context)

    async def Scan(  # noqa: N802
        self, request: kv_pb2.ScanRequest, context: Context
    ) -> AsyncIterator[kv_pb2.ScanResponse]:
        began = time.monotonic()
        code = grpc.StatusCode.CANCELLED.value[0]
        try:
            self._gate.enter()
        except Refused as refused:
            await refusals.abort(context, refused.refusal)
        try:
            _raise(self._core.validation.scan(request))
            async for page in scans.scan(self._core, request, self._scan_deadline(context)):
                yield page
            code = 0
        except Refused as refused:
            code = refused.refusal.code
            await refusals.abort(context, refused.refusal)
        finally:
            self._gate.leave()
            self._core.metrics.called("Scan", code, time.monotonic() - began)

    async def Batch(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[kv_pb2.BatchRequest],  # noqa: ARG002 - read from the context
        context: Context,
    ) -> None:
        try:
            self._gate.enter(bounded=False)
        except Refused as refused:
            await refusals.abort(context, refused.refusal)
        stream = BatchStream(self._core)
        self._streams.add(stream)
        try:
            await stream.run(context)
        finally:
            self._streams.discard(stream)
            self._gate.leave()

    # --- single calls ---------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        work: Callable[[Request, float], Awaitable[Response]],
        request: Request,
        context: Context,
    ) -> Response:
        """Count the call in and out, and answer a Refused by its status."""
        began = time.monotonic()
        code = grpc.StatusCode.CANCELLED.value[0]
        try:
            self._gate.enter()
            try:
                response = await work(request, self._deadline(context))
                code = 0
                return response
            finally:
                self._gate.leave()
        except Refused as refused:
            code = refused.refusal.code
            await refusals.abort(context, refused.refusal)
        finally:
            self._core.metrics.called(method, code, time.monotonic() - began)

    def _deadline(self, context: Context) -> float:
        """Return when to give up, by the loop's clock: a little before the client does."""
        seconds = self._core.settings.request_seconds_max
        remaining = context.time_remaining()
        if remaining is not None:
            margin = min(_MARGIN_SECONDS_MAX, remaining * _MARGIN_SHARE)
            seconds = min(seconds, remaining - margin)
        return self._loop.time() + seconds

    def _scan_deadline(self, context: Context) -> float:
        """A scan takes as long as its client allows."""
        remaining = context.time_remaining()
        return float("inf") if remaining is None else self._loop.time() + remaining

    async def _get(self, request: kv_pb2.GetRequest, deadline: float) -> kv_pb2.GetResponse:
        _raise(self._core.validation.get(request))
        waiter = Waiter()
        op = Op(Kind.GET, request, len(request.key) + OVERHEAD_BYTES, deadline, waiter)
        op.version = request.read.version if request.read.consistency == SNAPSHOT else 0
        op.stale = request.read.consistency == STALE
        op.slot = slot_of(request.key)
        self._core.dispatcher.submit(op)
        value = await waiter.value()
        return kv_pb2.GetResponse(found=value.found, value=value.value, version=value.version)

    async def _put(self, request: kv_pb2.PutRequest, deadline: float) -> kv_pb2.PutResponse:
        _raise(self._core.validation.put(request))
        size = len(request.key) + len(request.value)
        result = await self._write(Kind.PUT, request, (slot_of(request.key),), size, deadline)
        return result.put

    async def _delete(
        self, request: kv_pb2.DeleteRequest, deadline: float
    ) -> kv_pb2.DeleteResponse:
        _raise(self._core.validation.delete(request))
        slots = (slot_of(request.key),)
        result = await self._write(Kind.DELETE, request, slots, len(request.key), deadline)
        return result.delete

    async def _transact(
        self, request: kv_pb2.TransactRequest, deadline: float
    ) -> kv_pb2.TransactResponse:
        _raise(self._core.validation.transact(request))
        slots = tuple(dict.fromkeys(map(slot_of, keys_of(request))))
        result = await self._write(Kind.TRANSACT, request, slots, request.ByteSize(), deadline)
        return result.transact

    async def _write(
        self,
        kind: Kind,
        request: kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.TransactRequest,
        slots: tuple[int, ...],
        size: int,
        deadline: float,
    ) -> shard_pb2.Result:
        waiter = Waiter()
        op = Op(kind, request, size + OVERHEAD_BYTES, deadline, waiter)
        op.slot, op.slots = slots[0], slots[1:] and slots
        if not request.HasField("id"):
            op.own_id = self._core.ids.assign(request.id)
        self._core.dispatcher.submit(op)
        return await waiter.result()

    async def _transaction_status(
        self, request: kv_pb2.TransactionStatusRequest, deadline: float
    ) -> kv_pb2.TransactionStatusResponse:
        _raise(self._core.validation.request_id(request.id))
        return await status.status(self._core, request.id, deadline)


def _raise(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise Refused(refusal)
