"""Bytes that are no message of the kind that a method takes end the call with INVALID_ARGUMENT, and one line.

gRPC itself answers UNKNOWN with the name of a Python class, and logs a traceback for each such call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

if TYPE_CHECKING:  # gRPC's classes are generic in their stubs alone
    Handler = grpc.RpcMethodHandler[Any, Any]
Context = Any
_REASON_CHARACTERS_MAX = 200


class Unreadable:
    """Takes the place of a request that cannot be read. ``reason`` is one line."""

    __slots__ = ("reason",)

    def __init__(self, error: Exception) -> None:
        text = " ".join(str(error).split())[:_REASON_CHARACTERS_MAX]
        self.reason = f"the request cannot be read: {text}"


async def refuse(request: Unreadable, context: Context) -> None:
    """End the call of a request that cannot be read."""
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, request.reason)


class CarefulServer:
    """What generated code needs of a server, to register services that are ``careful``.

    A method that reads its stream by ``context.read()`` gets an Unreadable there, and has to ``refuse`` it.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Generated code registers everything a second time, by ``add_registered_method_handlers``."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        made = {name: careful(handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, made)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, made)


def careful(handler: Any) -> Handler:
    """Return the handler with a deserializer that never raises; what it cannot read is refused."""
    kinds = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler, _unary),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler, _unary),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler, _stream),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler, _stream),
    }
    name, make, wrap = kinds[handler.request_streaming, handler.response_streaming]
    made: Handler = make(
        wrap(getattr(handler, name)),
        _deserializer(handler.request_deserializer),
        handler.response_serializer,
    )
    return made


def _deserializer(whole: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize(raw: bytes) -> Any:
        try:
            return whole(raw)
        except DecodeError as error:
            return Unreadable(error)

    return deserialize


def _unary(method: Callable[..., Any]) -> Callable[..., Any]:
    if isasyncgenfunction(method):

        async def pages(request: Any, context: Context) -> AsyncIterator[Any]:
            if isinstance(request, Unreadable):
                await refuse(request, context)
            async with aclosing(method(request, context)) as responses:
                async for response in responses:
                    yield response

        return pages

    async def answer(request: Any, context: Context) -> Any:
        if isinstance(request, Unreadable):
            await refuse(request, context)
        return await method(request, context)

    return answer


def _stream(method: Callable[..., Any]) -> Callable[..., Any]:
    if isasyncgenfunction(method):

        async def responses(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            async with aclosing(method(_readable(requests, context), context)) as made:
                async for response in made:
                    yield response

        return responses

    async def answer(requests: AsyncIterator[Any], context: Context) -> Any:
        return await method(_readable(requests, context), context)

    return answer


async def _readable(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Unreadable):
            await refuse(request, context)
        yield request
