"""The clients of the stores that are compared: each asks for what its row says, and shows what failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import types
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from bench.etcd import rpc_pb2, rpc_pb2_grpc
from bench.etcd_cluster import EtcdCluster
from bench.load import Disk
from bench.python_stores import OxideDB, PySyncObj, Refused
from bench.stores import Etcd


class FakeEtcd(rpc_pb2_grpc.KVServicer, rpc_pb2_grpc.MaintenanceServicer):
    """A node: what it was asked, and whom it takes for the leader."""

    def __init__(self, member: int = 1, leader: int = 1) -> None:
        self.values: dict[bytes, bytes] = {}
        self.requests: list[Any] = []
        self._status = rpc_pb2.StatusResponse(
            header=rpc_pb2.ResponseHeader(member_id=member), leader=leader
        )

    async def Put(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        if request.key == b"refused":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        self.values[request.key] = request.value
        return rpc_pb2.PutResponse()

    async def Range(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        end = request.range_end or request.key + b"\0"
        found = [k for k in sorted(self.values) if request.key <= k < end]
        return rpc_pb2.RangeResponse(
            kvs=[
                rpc_pb2.KeyValue(key=k, value=self.values[k])
                for k in found[: request.limit or None]
            ]
        )

    async def DeleteRange(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise AssertionError("no row deletes")

    async def Txn(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        for one in request.success:
            self.values[one.request_put.key] = one.request_put.value
        return rpc_pb2.TxnResponse(succeeded=True)

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._status


@contextlib.asynccontextmanager
async def served(nodes: Iterable[FakeEtcd]) -> AsyncIterator[list[str]]:
    """Serve each node; yield their endpoints."""
    servers, endpoints = [], []
    for node in nodes:
        server = grpc.aio.server()
        rpc_pb2_grpc.add_KVServicer_to_server(node, server)
        rpc_pb2_grpc.add_MaintenanceServicer_to_server(node, server)
        endpoints.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    try:
        yield endpoints
    finally:
        await asyncio.gather(*(server.stop(0) for server in servers))


async def test_etcd_is_asked_in_turn_and_for_what_the_rows_say() -> None:
    nodes = [FakeEtcd(), FakeEtcd()]
    async with served(nodes) as endpoints:
        store = Etcd(endpoints)
        try:
            for number in range(4):
                await store.put(b"k%d" % number, b"v")
            assert [sorted(node.values) for node in nodes] == [[b"k0", b"k2"], [b"k1", b"k3"]]
            assert await store.get(b"k0") == b"v"
            assert await store.get(b"k0") is None  # that was the other one
            await store.put_all([(b"k0", b"w"), (b"k9", b"w")])
            (transaction,) = (r for r in nodes[0].requests if isinstance(r, rpc_pb2.TxnRequest))
            assert len(transaction.success) == 2
            assert await store.scan(b"k1", b"k9", 10) == 2
            assert nodes[1].requests[-1].range_end == b"k9"
            assert await store.scan(b"k", b"l", 1) == 1
            with pytest.raises(grpc.aio.AioRpcError, match="no room"):
                await store.put(b"refused", b"")
        finally:
            await store.close()


@pytest.mark.parametrize(
    ("leaders", "expected"), [((2, 2, 2), 1), ((0, 0, 0), None), ((1, 3, 3), 0)]
)
async def test_the_leader_of_etcd_is_the_first_node_that_leads_by_its_own_word(
    tmp_path: Path, leaders: tuple[int, int, int], expected: int | None
) -> None:
    cluster = EtcdCluster(tmp_path)
    async with served(FakeEtcd(n, leader) for n, leader in enumerate(leaders, 1)) as endpoints:
        cluster.endpoints = endpoints
        leader = await asyncio.to_thread(cluster.leader)
    assert leader == (None if expected is None else endpoints[expected])


async def test_a_node_of_etcd_that_is_down_is_passed_over(tmp_path: Path) -> None:
    cluster = EtcdCluster(tmp_path)
    async with served([FakeEtcd(2, 2)]) as endpoints:
        cluster.endpoints = [*cluster.endpoints[:1], *endpoints]
        assert await asyncio.to_thread(cluster.leader) == endpoints[0]


async def test_pysyncobj_is_asked_at_its_leader_and_answers_in_any_order() -> None:
    msgpack = pytest.importorskip("msgpack")
    asked: list[tuple[bool, Any]] = []

    def node(leads: bool) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            unpacker = msgpack.Unpacker()
            waiting: list[Any] = []
            while data := await reader.read(1 << 16):
                unpacker.feed(data)
                for number, kind, *arguments in unpacker:
                    asked.append((leads, kind))
                    if kind == "leader":
                        writer.write(msgpack.packb((number, None, leads)))
                        continue
                    failed = "reason 3" if arguments[0] == b"bad" else None
                    waiting.insert(0, (number, failed, arguments[0]))
                    if len(waiting) == 2:
                        writer.writelines(msgpack.packb(one) for one in waiting)
                        waiting.clear()
            writer.close()

        return serve

    servers = [await asyncio.start_server(node(leads), "127.0.0.1", 0) for leads in (False, True)]
    store = PySyncObj([server.sockets[0].getsockname()[1] for server in servers])
    try:
        first = asyncio.create_task(store.get(b"a"))
        while (True, "get") not in asked:
            await asyncio.sleep(0)
        assert await store.get(b"b") == b"b"
        assert await first == b"a"
        assert (False, "get") not in asked
        outcomes = await asyncio.gather(
            store.put(b"bad", b"1"), store.put(b"c", b"1"), return_exceptions=True
        )
        assert isinstance(outcomes[0], RuntimeError)
        assert outcomes[1] is None
    finally:
        await store.close()
        for server in servers:
            server.close()


async def test_a_put_that_oxidedb_has_not_done_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClusterStore:
        def __init__(self, addresses: list[str]) -> None:
            self.values: dict[bytes, bytes] = {}

        def wait_until_routable(self, seconds: float) -> None: ...

        def set(self, key: bytes, value: bytes) -> bool:
            if key != b"bad":
                self.values[key] = value
            return key != b"bad"

        def get(self, key: bytes) -> bytes | None:
            return self.values.get(key)

        def close(self) -> None: ...

    package, cli = types.ModuleType("oxidedb"), types.ModuleType("oxidedb.cli")
    vars(cli)["ClusterStore"] = ClusterStore
    monkeypatch.setitem(sys.modules, "oxidedb", package)
    monkeypatch.setitem(sys.modules, "oxidedb.cli", cli)
    store = OxideDB(["127.0.0.1:1"])
    try:
        await store.put(b"a", b"1")
        assert await store.get(b"a") == b"1"
        assert await store.get(b"b") is None
        with pytest.raises(Refused):
            await store.put(b"bad", b"1")
    finally:
        await store.close()


def test_what_a_disk_was_given_is_read_from_the_line_of_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    major, minor = os.major(device), os.minor(device)
    lines = [
        f"{major} {minor + 1} other 1 2 3 4 5 6 70 8 9 10 11",
        f"{major} {minor} this 1 2 3 4 5 6 42 8 9 10 11",
    ]
    monkeypatch.setattr(Path, "read_text", lambda _: "\n".join(lines))
    assert Disk(tmp_path).written() == 42 * 512
    lines.pop()
    assert Disk(tmp_path).written() is None
