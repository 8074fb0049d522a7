"""The stores that are compared, as one asyncio client process calls them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import grpc.aio

import overdb
from bench.etcd import rpc_pb2, rpc_pb2_grpc
from overdb.sharding import slot_of

if TYPE_CHECKING:
    from bench.etcd.rpc_pb2_grpc import KVAsyncStub  # known to type checkers only


class KeyValue(Protocol):
    """What every store can be asked; errors are raised."""

    async def put(self, key: bytes, value: bytes) -> None: ...
    async def get(self, key: bytes) -> bytes | None: ...
    async def close(self) -> None: ...


@runtime_checkable
class Store(KeyValue, Protocol):
    """One that knows transactions and ranges too."""

    async def put_all(self, puts: Sequence[tuple[bytes, bytes]]) -> None: ...
    async def scan(self, start: bytes, end: bytes, limit: int) -> int: ...


def error_name(error: Exception) -> str:
    """What went wrong, in a word or two: the status of a call, and whose bound it was that is full."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code().name
    name = type(error).__name__
    if isinstance(error, overdb.ResourceExhausted):
        violations = (v for detail in error.details for v in getattr(detail, "violations", ()))
        return f"{name} ({next((v.subject for v in violations), 'client')})"
    return name


class OverDB:
    """Our own client, through the router or, if ``direct``, straight to the leaders where it can."""

    def __init__(self, endpoints: list[str], *, direct: bool = False) -> None:
        self._client = overdb.Client(endpoints, timeout=30.0, direct=direct)

    async def put(self, key: bytes, value: bytes) -> None:
        await self._client.put(key, value)

    async def get(self, key: bytes) -> bytes | None:
        found = await self._client.get(key)
        return None if found is None else found.value

    async def put_all(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        """One transaction."""
        await self._client.transact(then=[overdb.Put(key, value) for key, value in puts])

    async def scan(self, start: bytes, end: bytes, limit: int) -> int:
        return len([item async for item in self._client.scan(start, end, limit=limit)])

    async def close(self) -> None:
        await self._client.close()


class Etcd:
    """Unary calls, in turn to each of the given endpoints; reads are linearizable."""

    def __init__(self, endpoints: list[str]) -> None:
        self._channels = [grpc.aio.insecure_channel(e) for e in endpoints]
        self._stubs = itertools.cycle(
            [cast("KVAsyncStub", rpc_pb2_grpc.KVStub(c)) for c in self._channels]
        )

    async def put(self, key: bytes, value: bytes) -> None:
        await next(self._stubs).Put(rpc_pb2.PutRequest(key=key, value=value), timeout=30)

    async def get(self, key: bytes) -> bytes | None:
        found = await next(self._stubs).Range(rpc_pb2.RangeRequest(key=key), timeout=30)
        return found.kvs[0].value if found.kvs else None

    async def put_all(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        """One Txn."""
        wire = [rpc_pb2.PutRequest(key=key, value=value) for key, value in puts]
        request = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=p) for p in wire])
        await next(self._stubs).Txn(request, timeout=30)

    async def scan(self, start: bytes, end: bytes, limit: int) -> int:
        # An end is given, since etcd 3.4 walks its index to it whatever the limit.
        request = rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit)
        return len((await next(self._stubs).Range(request, timeout=30)).kvs)

    async def close(self) -> None:
        await asyncio.gather(*(c.close() for c in self._channels))


def by_group(keys: list[bytes], groups: int) -> list[list[bytes]]:
    """The keys of each group of an OverDB cluster."""
    return [[k for k in keys if slot_of(k) % groups == group] for group in range(groups)]
