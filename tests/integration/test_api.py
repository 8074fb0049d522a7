"""The public contract against real processes, through two routers: what it does and what it refuses."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import overdb
import overdb.sync
from overdb.v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from tests.integration.cluster import LocalCluster, wait_until

pytestmark = pytest.mark.processes
MIB = 1 << 20


@pytest.fixture(scope="module")
def client(shared_cluster: LocalCluster) -> Iterator[overdb.sync.Client]:
    with overdb.sync.Client(shared_cluster.endpoints, timeout=10.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def channel(shared_cluster: LocalCluster) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", 16 * MIB)]
    with grpc.insecure_channel(shared_cluster.endpoints[0], options=options) as connected:
        yield connected


@pytest.fixture(scope="module")
def kv(channel: grpc.Channel) -> kv_pb2_grpc.KVStub:
    return kv_pb2_grpc.KVStub(channel)


def keys_of_both_groups(client: overdb.sync.Client, prefix: str, count: int) -> list[bytes]:
    keys = [f"{prefix}{number:04d}".encode() for number in range(count)]
    assert {client.locate(key).group for key in keys[:20]} == {0, 1}
    return keys


def test_what_was_put_is_got_through_every_router(
    shared_cluster: LocalCluster, client: overdb.sync.Client
) -> None:
    version = client.put(b"everywhere", b"1")
    for endpoint in shared_cluster.endpoints:
        with overdb.sync.Client(endpoint) as other:
            found = other.get(b"everywhere")
            assert found == overdb.Value(b"1", version)


def test_a_missing_key_and_a_deleted_one_are_not_found(client: overdb.sync.Client) -> None:
    assert client.get(b"never") is None
    client.put(b"gone", b"1")
    assert client.delete(b"gone").existed
    assert client.get(b"gone") is None
    assert not client.delete(b"gone").existed


def test_versions_of_a_key_grow_and_old_ones_can_be_read(client: overdb.sync.Client) -> None:
    first = client.put(b"history", b"1")
    second = client.put(b"history", b"2")
    gone = client.delete(b"history").version
    assert first < second < gone
    assert client.get(b"history", version=first) == overdb.Value(b"1", first)
    assert client.get(b"history", version=second) == overdb.Value(b"2", second)
    assert client.get(b"history", version=gone) is None
    assert client.get(b"history", version=first - 1) is None


def test_a_scan_merges_all_groups_in_key_order_at_one_version(client: overdb.sync.Client) -> None:
    keys = keys_of_both_groups(client, "scanned", 300)
    for key in keys:
        client.put(key, key * 2)
    client.delete(keys[7])
    left = [key for key in keys if key != keys[7]]
    found = list(client.scan(prefix=b"scanned"))
    assert [item.key for item in found] == left
    assert all(item.value == item.key * 2 for item in found)
    assert [item.key for item in client.scan(prefix=b"scanned", reverse=True)] == left[::-1]
    assert [item.key for item in client.scan(prefix=b"scanned", limit=5)] == left[:5]
    last = [item.key for item in client.scan(prefix=b"scanned", limit=5, reverse=True)]
    assert last == left[::-1][:5]
    part = list(client.scan(keys[10], keys[20], keys_only=True))
    assert [item.key for item in part] == keys[10:20]
    assert all(item.value == b"" for item in part)
    before = max(item.version for item in found)
    client.put(keys[0], b"later")
    old = {item.key: item.value for item in client.scan(prefix=b"scanned", version=before)}
    assert old[keys[0]] == keys[0] * 2


def test_pages_of_a_scan_are_bounded_in_bytes(
    client: overdb.sync.Client, kv: kv_pb2_grpc.KVStub
) -> None:
    for number in range(12):
        client.put(f"large{number:02d}".encode(), os.urandom(400_000))
    pages = list(kv.Scan(kv_pb2.ScanRequest(start=b"large", end=b"largf"), timeout=20))
    assert sum(len(page.items) for page in pages) == 12
    assert len(pages) >= 5
    assert max(page.ByteSize() for page in pages) <= MIB + 4096
    assert len({page.version for page in pages}) == 1


def test_a_transaction_runs_one_branch_in_order(client: overdb.sync.Client) -> None:
    client.put(b"{t}a", b"1")
    request = {
        "compares": [overdb.Compare.value(b"{t}a", "==", b"1"), overdb.Compare.missing(b"{t}b")],
        "then": [
            overdb.Put(b"{t}b", b"2"),
            overdb.Get(b"{t}b"),
            overdb.Add(b"{t}n", 5),
            overdb.Add(b"{t}n", -7),
            overdb.Delete(b"{t}a"),
            overdb.Get(b"{t}a"),
        ],
        "otherwise": [overdb.Get(b"{t}b")],
    }
    done = client.transact(**request)  # type: ignore[arg-type]
    assert done.succeeded
    assert [r.found for r in done.results] == [False, True, False, True, True, False]
    assert [r.value for r in done.results] == [b"", b"2", b"5", b"-2", b"", b""]
    other = client.transact(**request)  # type: ignore[arg-type]
    assert not other.succeeded
    assert other.results[0].value == b"2"
    assert other.results[0].version == done.version


def test_a_transaction_over_groups_is_one_step_at_one_version(client: overdb.sync.Client) -> None:
    keys = keys_of_both_groups(client, "over", 20)
    done = client.transact(
        [overdb.Compare.missing(key) for key in keys], [overdb.Put(key, b"1") for key in keys]
    )
    assert done.succeeded
    assert [client.get(key) for key in keys] == [overdb.Value(b"1", done.version)] * 20


def test_the_same_id_runs_once_through_whichever_router(shared_cluster: LocalCluster) -> None:
    """PROTOCOL 2.2; FAULTS 51."""
    now = time.time_ns()
    raw = bytearray((now // 1_000_000).to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    request_id = kv_pb2.RequestId(
        client_id=bytes(raw), request_number=1, started_at=now // 1000, acknowledged_below=0
    )
    request = kv_pb2.TransactRequest(id=request_id)
    request.then.add().add.CopyFrom(kv_pb2.Operation.Add(key=b"once", delta=1))
    answers = []
    for endpoint in shared_cluster.endpoints * 3:
        with grpc.insecure_channel(endpoint) as connected:
            answers.append(kv_pb2_grpc.KVStub(connected).Transact(request, timeout=10))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].results[0].value == b"1"
    different = kv_pb2.PutRequest(key=b"once", value=b"9", id=request_id)
    with grpc.insecure_channel(shared_cluster.endpoints[0]) as connected:
        with pytest.raises(grpc.RpcError) as refused:
            kv_pb2_grpc.KVStub(connected).Put(different, timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        found = kv_pb2_grpc.KVStub(connected).Get(kv_pb2.GetRequest(key=b"once"), timeout=10)
        assert found.value == b"1"


@pytest.mark.parametrize(
    ("method", "request_message", "said"),
    [
        ("Put", kv_pb2.PutRequest(value=b"1"), ["key", "empty"]),
        ("Get", kv_pb2.GetRequest(), ["key", "empty"]),
        ("Delete", kv_pb2.DeleteRequest(), ["key", "empty"]),
        ("Put", kv_pb2.PutRequest(key=b"k" * 4097), ["4097", "4096"]),
        ("Put", kv_pb2.PutRequest(key=b"k", value=b"v" * (MIB + 1)), ["1048577", "1048576"]),
        (
            "Put",
            kv_pb2.PutRequest(key=b"k", id=kv_pb2.RequestId(client_id=b"short", request_number=1)),
            ["client_id", "5"],
        ),
        ("Transact", kv_pb2.TransactRequest(), ["operation"]),
        (
            "Transact",
            kv_pb2.TransactRequest(
                then=[kv_pb2.Operation(get=kv_pb2.Operation.Get(key=b"{x}"))] * 1025
            ),
            ["1025", "1024"],
        ),
        (
            "Transact",
            kv_pb2.TransactRequest(
                then=[kv_pb2.Operation(put=kv_pb2.Operation.Put(key=b"{x}", value=b"v" * MIB))] * 5
            ),
            ["4194304"],
        ),
        (
            "Transact",
            kv_pb2.TransactRequest(
                compares=[kv_pb2.Compare(key=b"k", operator=kv_pb2.Compare.OPERATOR_EQUAL)]
            ),
            ["target"],
        ),
        (
            "Get",
            kv_pb2.GetRequest(
                key=b"k",
                read=kv_pb2.ReadOptions(version=1 << 62, consistency=kv_pb2.CONSISTENCY_SNAPSHOT),
            ),
            ["future"],
        ),
    ],
)
def test_bad_input_is_refused_with_the_thing_and_the_limit(
    kv: kv_pb2_grpc.KVStub, method: str, request_message: object, said: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        getattr(kv, method)(request_message, timeout=10)
    error = refused.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    for word in said:
        assert word in (error.details() or "")


def test_a_scan_that_ends_before_it_starts_is_refused(kv: kv_pb2_grpc.KVStub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(kv.Scan(kv_pb2.ScanRequest(start=b"b", end=b"a"), timeout=10))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_group_is_not_found(channel: grpc.Channel) -> None:
    stub = cluster_pb2_grpc.ClusterStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Members(cluster_pb2.MembersRequest(group=7), timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert "7" in (refused.value.details() or "")


def test_reflection_describes_services_messages_and_methods(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    for symbol in ("overdb.v1.KV", "overdb.v1.KV.Put", "overdb.v1.PutRequest"):
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=10)
        assert answer.file_descriptor_response.file_descriptor_proto, symbol
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="overdb.v1.KV.Fly")
    (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=10)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_256_callers_share_messages_and_fsyncs(shared_cluster: LocalCluster) -> None:
    """DESIGN: every hop carries all that waits. 2,560 puts make far fewer entries than puts."""

    def entries() -> int:
        seen = [shared_cluster.describe(shared_cluster.leader(group)) for group in range(2)]
        return sum(answer.last_index for answer in seen if answer is not None)

    async def run() -> None:
        async with overdb.Client(shared_cluster.endpoints[0]) as connected:

            async def caller(number: int) -> None:
                for turn in range(10):
                    await connected.put(b"shared-%d-%d" % (number, turn), b"v")

            await asyncio.gather(*(caller(number) for number in range(256)))

    before = entries()
    asyncio.run(run())
    assert entries() - before < 2560 / 8


def test_health_names_every_group_and_follows_a_lost_quorum(tmp_path: Path) -> None:
    with LocalCluster(tmp_path) as cluster:
        with grpc.insecure_channel(cluster.endpoints[0]) as connected:
            stub = health_pb2_grpc.HealthStub(connected)

            def status(name: str) -> int:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                return int(answer.status)

            serving = health_pb2.HealthCheckResponse.SERVING
            for name in ("", "overdb.v1.KV", "group-0", "group-1"):
                assert status(name) == serving
            for node_id in (4, 5):
                cluster.nodes[node_id].kill()
            wait_until(lambda: status("group-1") != serving, "group 1 is not serving")
            assert status("") != serving
            assert status("group-0") == serving
            with overdb.sync.Client(cluster.endpoints, timeout=1.0) as client:
                key = next(
                    key for key in (b"k%d" % n for n in range(100)) if client.locate(key).group == 1
                )
                with pytest.raises((overdb.Unavailable, overdb.OutcomeUnknown)):
                    client.put(key, b"1")
            for node_id in (4, 5):
                cluster.nodes[node_id].start()
            wait_until(lambda: status("") == serving, "serving again")


def test_old_versions_go_after_their_retention(tmp_path: Path) -> None:
    settings = {"OVERDB_RETENTION_SECONDS": "1"}
    with (
        LocalCluster(tmp_path, groups=1, replicas=1, settings=settings) as cluster,
        overdb.sync.Client(cluster.endpoints) as client,
    ):
        first = client.put(b"k", b"1")
        client.put(b"k", b"2")

        def refused() -> bool:
            client.put(b"other", b"x")  # time is what the group's leader stamps
            try:
                client.get(b"k", version=first)
            except overdb.FailedPrecondition as error:
                return "oldest" in str(error)
            return False

        wait_until(refused, "the old version is refused")
        found = client.get(b"k")
        assert found is not None
        assert found.value == b"2"


def test_many_large_values_at_once_come_in_portions(shared_cluster: LocalCluster) -> None:
    """32 values of 1 MiB in one turn: more than a message may have, and all of them arrive."""

    async def run() -> None:
        async with overdb.Client(shared_cluster.endpoints[0], timeout=30.0) as connected:
            keys = [b"{large}%d" % number for number in range(32)]
            for key in keys:
                await connected.put(key, key + bytes(MIB - 100))
            found = await asyncio.gather(*(connected.get(key) for key in keys))
            for key, value in zip(keys, found, strict=True):
                assert value is not None
                assert value.value.startswith(key)

    asyncio.run(run())
