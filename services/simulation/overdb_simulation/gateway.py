"""Real gRPC in front of simulated routers: every call is carried into the simulated network and back.

Threads of gRPC's synchronous server wait for what the simulation's thread answers, so that whoever calls may
use any stack, asyncio's too (which allows for one event loop a process).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from overdb_common import grpc_options
from overdb_simulation.embedded import Embedded
from overdb_simulation.loop import Process
from overdb_simulation.network import Channel, Stream

CALLS_MAX = 256  # at a time; a client's Batch stream is one
_ENDED = object()
_FOREVER_SECONDS = 10**7


class Gateway(grpc.GenericRpcHandler):
    """Serves what one simulated router serves, on a free port of 127.0.0.1. ``client`` is where the calls
    come from, in the simulated network."""

    def __init__(self, embedded: Embedded, router_address: str, client: Process) -> None:
        self._embedded = embedded
        self._router_address = router_address
        self._client = client
        network = embedded.world.network
        self._methods = dict(network.servers[router_address].handlers)
        self._channel = Channel(network, client, router_address)
        self._threads = ThreadPoolExecutor(CALLS_MAX, "overdb-gateway")
        self._server = grpc.server(self._threads, options=grpc_options.server_options())
        self._server.add_generic_rpc_handlers((self,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait(5.0)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Bytes in, bytes out, in the shape that the method has."""
        path = str(details.method)
        method = self._methods.get(path)
        if method is None:
            return None

        def one(request: bytes, context: grpc.ServicerContext) -> bytes:
            return next(self._call(path, iter((request,)), context), b"")

        def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._call(path, iter((request,)), context)

        def both(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._call(path, requests, context)

        if method.request_streaming:
            return grpc.stream_stream_rpc_method_handler(both)
        if method.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(one)

    def _call(
        self, path: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Carry one call; yields the answers, and ends with the status that came."""
        remaining = context.time_remaining()
        timeout = None if remaining is None or remaining > _FOREVER_SECONDS else remaining
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        call = _Call(self._embedded, self._channel, path, timeout, answers)
        if not context.add_callback(call.cancel):
            return
        threading.Thread(target=call.write_all, args=(requests,), daemon=True).start()
        while (answer := answers.get()) is not _ENDED:
            if isinstance(answer, grpc.aio.AioRpcError):
                context.set_trailing_metadata(tuple(answer.trailing_metadata() or ()))
                context.abort(answer.code(), answer.details() or "")
            yield answer


class _Call:
    """One call under way. What touches its stream runs in the simulation's thread."""

    def __init__(
        self,
        embedded: Embedded,
        channel: Channel,
        path: str,
        timeout: float | None,
        answers: queue.SimpleQueue[Any],
    ) -> None:
        self._embedded = embedded
        self._channel = channel
        self._path = path
        self._timeout = timeout
        self._answers = answers
        self._stream: Stream | None = None
        embedded.post(self._begin)

    def write_all(self, requests: Iterator[bytes]) -> None:
        """In a thread: pass on what the caller sends, until it has no more or is gone."""
        try:
            for request in requests:
                self._inside(lambda stream, request=request: stream.send(request))
        except Exception:  # gRPC raises a plain one when the call is over
            return
        self._inside(Stream.half_close)

    def cancel(self) -> None:
        """The caller is gone, or has its answer."""
        self._inside(Stream.cancel)

    def _inside(self, do: Any) -> None:
        loop, client = self._embedded.world.loop, self._channel.process

        def run() -> None:
            if self._stream is not None:
                loop.inside(client, do, self._stream)

        self._embedded.post(run)

    def _begin(self) -> None:
        loop, client = self._embedded.world.loop, self._channel.process

        def begin() -> None:
            self._stream = Stream(self._channel, self._path, None, None, self._timeout)
            loop.create_task(self._read(self._stream))

        loop.inside(client, begin)

    async def _read(self, stream: Stream) -> None:
        try:
            while (answer := await stream.read()) is not grpc.aio.EOF:
                self._answers.put(answer)
        except grpc.aio.AioRpcError as error:
            self._answers.put(error)
        finally:
            self._answers.put(_ENDED)
