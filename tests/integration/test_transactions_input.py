"""What transactions over several groups refuse: a clear error, and nothing done (PROTOCOL 2.2, 2.10)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import grpc
import pytest

import overdb
import overdb.sync
from overdb.ids import RequestId
from overdb.v1 import kv_pb2, kv_pb2_grpc
from tests.integration.cluster import LocalCluster
from tests.integration.transactions import fresh_id, pair_of_keys, value_of

pytestmark = pytest.mark.processes
MIB = 1 << 20
Operation = kv_pb2.Operation
Request = kv_pb2.TransactRequest
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def client(shared_cluster: LocalCluster) -> Iterator[overdb.sync.Client]:
    with overdb.sync.Client(shared_cluster.endpoints, timeout=10.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def kv(shared_cluster: LocalCluster) -> Iterator[kv_pb2_grpc.KVStub]:
    options = [("grpc.max_send_message_length", 16 * MIB)]
    with grpc.insecure_channel(shared_cluster.endpoints[0], options=options) as connected:
        yield kv_pb2_grpc.KVStub(connected)


def good_request(left: bytes, right: bytes) -> Request:
    """Writes to both groups."""
    equal = kv_pb2.Compare.OPERATOR_EQUAL
    request = Request(
        compares=[kv_pb2.Compare(key=key, operator=equal, exists=True) for key in (left, right)],
        then=[Operation(put=Operation.Put(key=key, value=b"done")) for key in (left, right)],
    )
    _set_id(request, fresh_id())
    return request


def _set_id(request: Request, request_id: RequestId) -> None:
    request.id.CopyFrom(kv_pb2.RequestId(**request_id._asdict()))


def _no_operations(request: Request) -> None:
    for field in ("compares", "then"):
        request.ClearField(field)


def _add(request: Request, number: int) -> None:
    key = request.then[number].put.key
    request.then.insert(0, Operation(add=Operation.Add(key=key, delta=1)))


def _too_large_sum(request: Request) -> None:
    key = request.then[1].put.key + b"-sum"
    request.then.add().put.CopyFrom(Operation.Put(key=key, value=b"%d" % (2**63 - 1)))
    request.then.add().add.CopyFrom(Operation.Add(key=key, delta=1))


_TOO_MANY = [Operation(get=Operation.Get(key=b"any"))] * (1025 - 4)
_TOO_LARGE = [Operation(put=Operation.Put(key=b"any", value=bytes(MIB)))] * 4


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        pytest.param(spoil, code, said, id=name)
        for name, spoil, code, said in [
            ("no operations", _no_operations, INVALID, ["at least one"]),
            ("too many", lambda r: r.then.extend(_TOO_MANY), INVALID, ["1025", "1024"]),
            ("too large", lambda r: r.then.extend(_TOO_LARGE), INVALID, ["4194304"]),
            (
                "compare without target",
                lambda r: r.compares[1].ClearField("exists"),
                INVALID,
                ["compares[1].target"],
            ),
            (
                "compare without operator",
                lambda r: r.compares[1].ClearField("operator"),
                INVALID,
                ["compares[1].operator"],
            ),
            (
                "compare with a key too long",
                lambda r: setattr(r.compares[1], "key", b"k" * 4097),
                INVALID,
                ["compares[1].key", "4097", "4096"],
            ),
            ("empty operation", lambda r: r.then.add(), INVALID, ["then[2]", "get, put"]),
            (
                "empty key",
                lambda r: setattr(r.otherwise.add().put, "value", b"1"),
                INVALID,
                ["otherwise[0].put.key", "empty"],
            ),
            ("add to no number in group 0", lambda r: _add(r, 0), INVALID, ["number"]),
            ("add to no number in group 1", lambda r: _add(r, 1), INVALID, ["number"]),
            ("sum too large", _too_large_sum, grpc.StatusCode.OUT_OF_RANGE, ["64"]),
            (
                "expired id",
                lambda r: _set_id(r, fresh_id(age_seconds=3700)),
                grpc.StatusCode.FAILED_PRECONDITION,
                ["expired"],
            ),
            (
                "id from ahead",
                lambda r: _set_id(r, fresh_id(age_seconds=-120)),
                INVALID,
                ["ahead", "60 s"],
            ),
            (
                "start time ahead",
                lambda r: _set_id(r, fresh_id(ahead_seconds=120)),
                INVALID,
                ["ahead", "60 s"],
            ),
            (
                "no UUIDv7",
                lambda r: setattr(r.id, "client_id", bytes(16)),
                INVALID,
                ["version 7"],
            ),
            (
                "number 0",
                lambda r: setattr(r.id, "request_number", 0),
                INVALID,
                ["request_number"],
            ),
            (
                "acknowledges itself",
                lambda r: setattr(r.id, "acknowledged_below", 2),
                INVALID,
                ["acknowledged_below"],
            ),
        ]
    ],
)
def test_bad_input_over_groups_is_told_clearly_and_nothing_is_done(
    client: overdb.sync.Client,
    kv: kv_pb2_grpc.KVStub,
    request: pytest.FixtureRequest,
    spoil: Callable[[Request], object],
    code: grpc.StatusCode,
    said: list[str],
) -> None:
    keys = pair_of_keys(client, request.node.name)
    for key in keys:
        client.put(key, b"before")
    asked = good_request(*keys)
    spoil(asked)
    for _ in range(2):  # and the same again when it is asked again
        with pytest.raises(grpc.RpcError) as refused:
            kv.Transact(asked, timeout=10)
        text = refused.value.details() or ""
        assert refused.value.code() is code, text
        for words in said:
            assert words in text
        assert [value_of(client, key) for key in keys] == [b"before", b"before"]
    # No lock is left behind.
    for key in keys:
        client.put(key, b"after", timeout=5)


def test_the_good_request_is_good(client: overdb.sync.Client, kv: kv_pb2_grpc.KVStub) -> None:
    keys = pair_of_keys(client, "good")
    for key in keys:
        client.put(key, b"before")
    assert kv.Transact(good_request(*keys), timeout=10).succeeded
    assert [value_of(client, key) for key in keys] == [b"done", b"done"]


def test_an_id_is_not_taken_for_another_request(
    client: overdb.sync.Client, shared_cluster: LocalCluster
) -> None:
    """PROTOCOL 2.2: it is refused, through either router, and named; the first one stays as it is."""
    left, right = pair_of_keys(client, "reused")
    request_id = fresh_id()
    first = [overdb.Add(left, 1), overdb.Add(right, 1)]
    done = client.transact(then=first, request_id=request_id)
    others: list[list[overdb.Operation]] = [
        [overdb.Add(left, 2), overdb.Add(right, 1)],
        [overdb.Add(left, 1), overdb.Add(right, 2)],
        [overdb.Add(left, 1)],
        [overdb.Add(right, 1)],
    ]
    for endpoint in shared_cluster.endpoints:
        with overdb.sync.Client(endpoint, timeout=10.0) as other:
            for operations in others:
                with pytest.raises(overdb.InvalidArgument) as refused:
                    other.transact(then=operations, request_id=request_id)
                assert str(request_id) in str(refused.value)
            with pytest.raises(overdb.InvalidArgument) as refused:
                other.put(right, b"9", request_id=request_id)
            assert str(request_id) in str(refused.value)
            assert other.transact(then=first, request_id=request_id) == done
    assert [value_of(client, key) for key in (left, right)] == [b"1", b"1"]


def test_the_id_of_a_request_in_one_group_is_not_taken_over_groups(
    client: overdb.sync.Client,
) -> None:
    left, right = pair_of_keys(client, "reused-single")
    request_id = fresh_id()
    client.put(left, b"1", request_id=request_id)
    with pytest.raises(overdb.InvalidArgument) as refused:
        client.transact(
            then=[overdb.Put(left, b"2"), overdb.Put(right, b"2")], request_id=request_id
        )
    assert str(request_id) in str(refused.value)
    assert value_of(client, left) == b"1"
    assert client.get(right) is None
    for key in (left, right):
        client.put(key, b"free", timeout=5)


def test_a_version_of_the_future_is_refused_by_reads_over_groups(
    client: overdb.sync.Client,
) -> None:
    ahead = (time.time_ns() // 1000) + 120_000_000
    with pytest.raises(overdb.InvalidArgument, match="future"):
        client.get(b"any", version=ahead)
    with pytest.raises(overdb.InvalidArgument, match="future"):
        list(client.scan(prefix=b"any", version=ahead))


def test_an_answer_too_large_over_all_groups_is_refused_and_nothing_is_written(
    shared_cluster: LocalCluster, client: overdb.sync.Client
) -> None:
    """FAULTS 86. Each group alone is within the bound. By a plain stub with gRPC's default limits."""
    by_group: dict[int, list[bytes]] = {0: [], 1: []}
    for number in range(100):
        key = b"large-%d" % number
        keys = by_group[client.locate(key).group]
        if len(keys) < 3:
            client.put(key, b"x" * MIB)
            keys.append(key)
    with grpc.insecure_channel(shared_cluster.endpoints[0]) as channel:
        stub = kv_pb2_grpc.KVStub(channel)
        few, all_of_them = by_group[0][:2] + by_group[1][:1], by_group[0] + by_group[1]
        for written, keys in ((b"large-no", all_of_them), (b"large-yes", few)):
            request = Request(then=[Operation(put=Operation.Put(key=written, value=b"1"))])
            request.then.extend(Operation(get=Operation.Get(key=key)) for key in keys)
            _set_id(request, fresh_id())
            status = kv_pb2.TransactionStatusRequest(id=request.id)
            if keys is all_of_them:
                for _ in range(2):
                    with pytest.raises(grpc.RpcError) as refused:
                        stub.Transact(request, timeout=10)
                    assert refused.value.code() is INVALID
                    assert "4194304" in str(refused.value.details())
                expected = kv_pb2.TransactionStatusResponse.STATUS_ABORTED
            else:
                first = stub.Transact(request, timeout=10)
                client.put(few[0], b"later")
                assert stub.Transact(request, timeout=10) == first  # read again, as of then
                expected = kv_pb2.TransactionStatusResponse.STATUS_COMMITTED
                assert stub.TransactionStatus(status, timeout=10).response == first
            assert stub.TransactionStatus(status, timeout=10).status == expected
    assert client.get(b"large-no") is None
    assert value_of(client, b"large-yes") == b"1"
