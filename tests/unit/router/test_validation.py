"""Every bad request is refused before anything is sent, with the field, the limit and the value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb.v1 import kv_pb2
from overdb_common.settings import Limits
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.types import Refused
from overdb_node.machine.validation import refuse_transact
from overdb_node.transaction_codec import decode_transact
from overdb_router.ids import uuid7
from overdb_router.refusals import INVALID_ARGUMENT, Refusal
from overdb_router.validation import Validation, keys_of, payload_bytes

LIMITS = Limits(key_bytes_max=8, value_bytes_max=16, request_bytes_max=1024, operations_max=4)
ID = uuid7(1_700_000_000_000, bytes(range(10)))
UUID4 = bytes.fromhex("f47ac10b58cc4372a5670e02b2c3d479")
VALIDATION = Validation(LIMITS)


def rid(client_id: bytes = ID, number: int = 5, below: int = 0) -> kv_pb2.RequestId:
    return kv_pb2.RequestId(client_id=client_id, request_number=number, acknowledged_below=below)


def read(consistency: int, version: int = 0) -> kv_pb2.ReadOptions:
    return kv_pb2.ReadOptions(consistency=consistency, version=version)  # type: ignore[arg-type]


def operation(**kind: object) -> kv_pb2.Operation:
    return kv_pb2.Operation(**kind)  # type: ignore[arg-type]


def transact(**fields: object) -> kv_pb2.TransactRequest:
    return kv_pb2.TransactRequest(**fields)  # type: ignore[arg-type]


def compare(operator: int = 1, key: bytes = b"k", **target: object) -> kv_pb2.Compare:
    return kv_pb2.Compare(key=key, operator=operator, **target)  # type: ignore[arg-type]


GET = operation(get=kv_pb2.Operation.Get(key=b"k"))
Put, Delete, Get, Scan = (
    kv_pb2.PutRequest,
    kv_pb2.DeleteRequest,
    kv_pb2.GetRequest,
    kv_pb2.ScanRequest,
)
V = VALIDATION
BAD: list[tuple[Callable[[], Refusal | None], str, str]] = [
    (lambda: V.put(Put(key=b"")), "key", "empty"),
    (lambda: V.put(Put(key=b"123456789")), "key", "9 bytes; the limit of a key is 8 bytes"),
    (
        lambda: V.put(Put(key=b"k", value=b"v" * 17)),
        "value",
        "17 bytes; the limit of a value is 16",
    ),
    (lambda: V.put(Put(key=b"k", id=rid(b"short"))), "id.client_id", "5 bytes"),
    (lambda: V.put(Put(key=b"k", id=rid(UUID4))), "id.client_id", "version 4"),
    (lambda: V.put(Put(key=b"k", id=rid(number=0))), "id.request_number", "0"),
    (lambda: V.put(Put(key=b"k", id=rid(below=6))), "id.acknowledged_below", "6"),
    (lambda: V.delete(Delete(key=b"")), "key", "empty"),
    (lambda: V.delete(Delete(key=b"k", id=rid(b""))), "id.client_id", "0 bytes"),
    (lambda: V.get(Get(key=b"")), "key", "empty"),
    (lambda: V.get(Get(key=b"k", read=read(9))), "read.consistency", "9"),
    (lambda: V.get(Get(key=b"k", read=read(1, 7))), "read.version", "STRICT"),
    (lambda: V.get(Get(key=b"k", read=read(0, 7))), "read.version", "STRICT"),
    (lambda: V.get(Get(key=b"k", read=read(3, 7))), "read.version", "STALE"),
    (lambda: V.scan(Scan(start=b"b", end=b"a")), "end", "not behind start"),
    (lambda: V.scan(Scan(start=b"b", end=b"b")), "end", "not behind start"),
    (lambda: V.scan(Scan(start=b"1234567890")), "start", "10 bytes"),
    (lambda: V.scan(Scan(read=read(1, 7))), "read.version", "STRICT"),
    (lambda: V.transact(transact()), "then", "no compare and no operation"),
    (
        lambda: V.transact(transact(then=[GET] * 5)),
        "then",
        "5 compares and operations; the limit is 4",
    ),
    (lambda: V.transact(transact(id=rid(b"x"), then=[GET])), "id.client_id", "1 bytes"),
    (lambda: V.transact(transact(then=[operation()])), "then[0]", "get, put, delete or add"),
    (
        lambda: V.transact(transact(then=[GET], otherwise=[operation(add=kv_pb2.Operation.Add())])),
        "otherwise[0].add.key",
        "empty",
    ),
    (
        lambda: V.transact(
            transact(then=[operation(put=kv_pb2.Operation.Put(key=b"k", value=b"v" * 17))])
        ),
        "then[0].put.value",
        "17 bytes",
    ),
    (lambda: V.transact(transact(compares=[compare()])), "compares[0].target", "not given"),
    (
        lambda: V.transact(transact(compares=[compare(0, version=1)])),
        "compares[0].operator",
        "EQUAL",
    ),
    (
        lambda: V.transact(transact(compares=[compare(77, version=1)])),
        "compares[0].operator",
        "EQUAL",
    ),
    (
        lambda: V.transact(transact(compares=[compare(3, exists=True)])),
        "compares[0].operator",
        "existence",
    ),
    (
        lambda: V.transact(transact(compares=[compare(1, key=b"", version=1)])),
        "compares[0].key",
        "empty",
    ),
    (
        lambda: V.transact(transact(compares=[compare(1, value=b"v" * 17)])),
        "compares[0].value",
        "17 bytes",
    ),
]


@pytest.mark.parametrize("case", range(len(BAD)), ids=[f"{i}-{b[1]}" for i, b in enumerate(BAD)])
def test_what_is_wrong_is_named(case: int) -> None:
    check, field, text = BAD[case]
    refusal = check()
    assert refusal is not None
    assert refusal.code == INVALID_ARGUMENT
    assert refusal.message.startswith(f"{field}: ")
    assert text in refusal.message
    packed = any_pb2.Any.FromString(refusal.details[0])
    detail = error_details_pb2.BadRequest()
    assert packed.Unpack(detail)
    assert detail.field_violations[0].field == field


@pytest.mark.parametrize(
    "check",
    [
        lambda: V.put(Put(key=b"12345678", value=b"v" * 16, id=rid(below=5))),
        lambda: V.put(Put(key=b"k")),
        lambda: V.delete(Delete(key=b"k", id=rid())),
        lambda: V.get(Get(key=b"k", read=read(2, 7))),
        lambda: V.get(Get(key=b"k", read=read(3))),
        lambda: V.scan(Scan()),
        lambda: V.scan(Scan(start=b"a", end=b"b", read=read(2))),
        lambda: V.transact(transact(compares=[compare(2, exists=True)])),
        lambda: V.transact(transact(compares=[compare(3, version=4)], then=[GET], otherwise=[GET])),
    ],
)
def test_what_is_right_passes(check: Callable[[], Refusal | None]) -> None:
    assert check() is None


def test_a_request_over_its_limit_is_refused_with_its_size() -> None:
    validation = Validation(Limits(key_bytes_max=8, value_bytes_max=700, request_bytes_max=1024))
    put = operation(put=kv_pb2.Operation.Put(key=b"k", value=b"v" * 600))
    refusal = validation.transact(transact(then=[put, put]))
    assert refusal is not None
    assert "limit of a request is 1024 bytes" in refusal.message


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                compare(1, version=4),
                compare(1, exists=True),
                compare(3, value=b"v" * 16),
            ]
        ),
        max_size=3,
    ),
    st.lists(
        st.sampled_from(
            [
                GET,
                operation(put=kv_pb2.Operation.Put(key=b"12345678", value=b"v" * 600)),
                operation(add=kv_pb2.Operation.Add(key=b"1234", delta=2**62)),
                operation(delete=kv_pb2.Operation.Delete(key=b"12")),
            ]
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_routers_and_replicas_measure_a_transaction_alike(
    compares: list[kv_pb2.Compare], then: list[kv_pb2.Operation]
) -> None:
    """A client may send one copy to a leader and one to a router: what the first takes, the second takes."""
    request = transact(compares=compares, then=then)
    size = payload_bytes(request)
    decoded = decode_transact(request)
    assert not isinstance(decoded, Refused)
    for limit in (size, size - 1):
        settings_there = MachineSettings(request_bytes_max=limit)
        limits_here = Limits().model_copy(update={"request_bytes_max": limit})
        there = refuse_transact(decoded, settings_there)
        here = Validation(limits_here).transact(request)
        if limit < size:
            assert there is not None
            assert f" {size} bytes" in there.message
        else:
            assert there is None
        # Where all the message is within the limit, keys and values are.
        assert (here is None) is (there is None or request.ByteSize() <= limit)


# --- transactions of puts alone ------------------------------------------------------------------------


def put(key: bytes, value: bytes = b"v") -> kv_pb2.Operation:
    return operation(put=kv_pb2.Operation.Put(key=key, value=value))


_OPERATIONS = st.one_of(
    st.builds(
        put, st.sampled_from([b"a", b"b", b"12345678"]), st.sampled_from([b"", b"v", b"v" * 16])
    ),
    st.sampled_from([put(b""), put(b"123456789"), put(b"a", b"v" * 17), GET, operation()]),
)
_IDS = st.sampled_from([None, rid(), rid(b"short"), rid(UUID4), rid(number=0), rid(below=6)])


@settings(max_examples=300, deadline=None)
@given(
    _IDS,
    st.lists(st.just(compare(1, version=4)), max_size=1),
    st.lists(_OPERATIONS, max_size=5),
    st.lists(st.just(GET), max_size=1),
    st.sampled_from([VALIDATION, Validation(LIMITS.model_copy(update={"request_bytes_max": 60}))]),
)
def test_keys_of_puts_are_those_of_what_is_right(
    identity: kv_pb2.RequestId | None,
    compares: list[kv_pb2.Compare],
    then: list[kv_pb2.Operation],
    otherwise: list[kv_pb2.Operation],
    validation: Validation,
) -> None:
    request = transact(id=identity, compares=compares, then=then, otherwise=otherwise)
    keys = validation.keys_of_puts(request)
    puts = all(one.HasField("put") for one in then) and not compares and not otherwise
    assert (keys is not None) is (puts and validation.transact(request) is None)
    assert keys is None or keys == keys_of(request)


@pytest.mark.parametrize(
    "request_",
    [
        transact(then=[put(b"a")], compares=[compare(1, version=4)]),
        transact(then=[put(b"a")], otherwise=[put(b"b")]),
        transact(),
        transact(then=[put(b"a")] * 5),
        transact(then=[put(b"12345678", b"v" * 18)] * 4, id=rid()),
        transact(then=[put(b"a")], id=rid(below=6)),
        transact(then=[put(b"a"), put(b"")]),
        transact(then=[put(b"a"), GET]),
        transact(then=[put(b"a"), put(b"123456789")]),
        transact(then=[put(b"a"), put(b"b", b"v" * 17)]),
    ],
    ids=["compares", "otherwise", "none", "many", "large", "id", "empty", "get", "key", "value"],
)
def test_what_is_not_puts_alone_is_looked_at_with_care(request_: kv_pb2.TransactRequest) -> None:
    validation = Validation(LIMITS.model_copy(update={"request_bytes_max": 100}))
    assert validation.keys_of_puts(request_) is None
    assert validation.keys_of_puts(transact(then=[put(b"a"), put(b"b")])) == [b"a", b"b"]
