"""Calls beside the batch stream: scans and questions about the cluster.

They change nothing, so every one of them may be asked again, of any router, until its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from overdb._endpoints import Router, Routers, backoff_seconds, being_cancelled
from overdb._limits import Limits
from overdb.errors import DeadlineExceeded, OverDBError, Unavailable, from_status
from overdb.operations import KeyValue
from overdb.v1 import kv_pb2

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_TRY_AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


def from_rpc_error(error: grpc.aio.AioRpcError) -> OverDBError:
    """Return the exception for a failed call, with the details that its trailers carry."""
    rpc_status: Any = import_module("grpc_status.rpc_status")  # only errors pay for it
    code, text = error.code().value[0], error.details() or ""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the trailers contradict the status: believe the status
        status = None
    details = [] if status is None else [detail.SerializeToString() for detail in status.details]
    return from_status(code, text, details)


class Attempts:
    """The tries of one question: a router for each, a pause in between, an end at the deadline."""

    def __init__(self, routers: Routers, limits: Limits, timeout_seconds: float) -> None:
        self._routers = routers
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._timeout_seconds = timeout_seconds
        self._deadline = self._loop.time() + timeout_seconds
        self._failures = 0

    def progress(self) -> None:
        """Start the time anew: an answer came."""
        self._deadline = self._loop.time() + self._timeout_seconds
        self._failures = 0

    def remaining_seconds(self) -> float:
        """Return the time that is left, at least a little."""
        return max(0.001, self._deadline - self._loop.time())

    async def router(self, unreachable: Callable[[], str]) -> Router:
        """Return a router; Unavailable when none answers in time."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._routers.connect()
        except TimeoutError:
            raise Unavailable(unreachable()) from None

    async def too_late(self, router: Router) -> None:
        """End with DeadlineExceeded; a router that does not answer at all is given up."""
        if not router.closing:
            await self._routers.reconsider(router)
        raise DeadlineExceeded(
            f"no answer from {router.address} within {self._timeout_seconds:g} s"
        ) from None

    async def failed(self, router: Router, error: grpc.aio.AioRpcError) -> None:
        """Pause before the next try, or raise when there is none left."""
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            await self.too_late(router)
        pause = backoff_seconds(self._limits, self._failures)
        if code not in _TRY_AGAIN or self._loop.time() + pause >= self._deadline:
            raise from_rpc_error(error) from error
        self._failures += 1
        if code is grpc.StatusCode.UNAVAILABLE and not router.closing:
            await self._routers.reconsider(router)
        await asyncio.sleep(pause)


async def ask(
    attempts: Attempts,
    unreachable: Callable[[], str],
    method: Callable[[Router], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
    request: _Request,
) -> _Response:
    """Ask one question until it is answered."""
    while True:
        router = await attempts.router(unreachable)
        try:
            return await method(router)(request, timeout=attempts.remaining_seconds())
        except grpc.aio.AioRpcError as error:
            await attempts.failed(router, error)
        except asyncio.CancelledError:
            if not router.closing or being_cancelled():
                raise  # else: the connection was given up under the call


async def scan_pages(
    attempts: Attempts,
    unreachable: Callable[[], str],
    request: kv_pb2.ScanRequest,
    on_version: Callable[[int], None],
) -> AsyncIterator[list[KeyValue]]:
    """Yield the pages of a scan as they come; the time limit is for each page.

    After the first page the version is known: a scan that breaks goes on behind its last key, at
    that version, through whichever router answers, and the whole is still one snapshot. (A stale
    scan has no version that holds everywhere: it goes on with what the next replica has.)
    ``on_version`` is told the version of each page, also of an empty one, before the page is given.
    """
    left = request.limit
    stale = request.read.consistency == kv_pb2.CONSISTENCY_STALE
    while True:
        router = await attempts.router(unreachable)
        call = router.kv.Scan(request)
        try:
            while True:
                async with asyncio.timeout(attempts.remaining_seconds()):
                    page = await call.read()
                if page is grpc.aio.EOF:
                    return
                page = cast("kv_pb2.ScanResponse", page)
                attempts.progress()
                on_version(page.version)
                items = [KeyValue(item.key, item.value, item.version) for item in page.items]
                if not items:
                    continue
                _go_on_behind(request, items[-1].key, 0 if stale else page.version)
                if left:
                    request.limit -= len(items)
                yield items
                attempts.progress()
                if left and request.limit == 0:
                    return
                if request.end and request.start >= request.end:
                    return  # nothing is left behind that key
        except TimeoutError:
            await attempts.too_late(router)
        except grpc.aio.AioRpcError as error:
            await attempts.failed(router, error)
        except asyncio.CancelledError:
            if not router.closing or being_cancelled():
                raise
        finally:
            call.cancel()
            del call


def _go_on_behind(request: kv_pb2.ScanRequest, last: bytes, version: int) -> None:
    """Turn the request into one for the rest of its range."""
    if request.reverse:
        request.end = last
    else:
        request.start = last + b"\0"
    if version:
        request.read.consistency = kv_pb2.CONSISTENCY_SNAPSHOT
        request.read.version = version
