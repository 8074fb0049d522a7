"""Transactions into messages and back: what comes by the hundred the short way, and nothing else so."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb._call import transact_request, transact_result
from overdb.operations import Add, Delete, Get, Operation, OperationResult, Put, TransactResult
from overdb.sharding import slot_of, slots_of
from overdb.v1 import kv_pb2

_RESULTS = st.lists(
    st.builds(
        OperationResult, st.booleans(), st.sampled_from([b"", b"v"]), st.sampled_from([0, 9])
    ),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), _RESULTS | _RESULTS.map(lambda ones: ones[:1] * 5), st.integers(0, 9))
def test_an_answer_says_what_the_message_says(
    succeeded: bool, results: list[OperationResult], version: int
) -> None:
    message = kv_pb2.TransactResponse(succeeded=succeeded, version=version)
    for one in results:
        message.results.add(found=one.found, value=one.value, version=one.version)
    expected = TransactResult(succeeded, tuple(results), version)
    assert transact_result(message) == expected
    assert (
        transact_result(kv_pb2.TransactResponse.FromString(message.SerializeToString())) == expected
    )


class _Bytes(bytes):
    """Bytes of another class are bytes too."""


class _Put(Put):
    """And so is a put."""


_Wire = kv_pb2.Operation
_WIRE: list[tuple[Operation, kv_pb2.Operation]] = [
    (Put(b"k", b"v"), _Wire(put=_Wire.Put(key=b"k", value=b"v"))),
    (Put(b"", b""), _Wire(put=_Wire.Put())),
    (Put(_Bytes(b"k"), _Bytes(b"v")), _Wire(put=_Wire.Put(key=b"k", value=b"v"))),
    (_Put(b"k", b"v"), _Wire(put=_Wire.Put(key=b"k", value=b"v"))),
    (Get(b"k"), _Wire(get=_Wire.Get(key=b"k"))),
    (Delete(b"k"), _Wire(delete=_Wire.Delete(key=b"k"))),
    (Add(b"k", -2), _Wire(add=_Wire.Add(key=b"k", delta=-2))),
]


def test_a_request_says_what_was_asked_for() -> None:
    operations, wire = zip(*_WIRE, strict=True)
    assert transact_request((), operations, operations[::-1]) == kv_pb2.TransactRequest(
        then=wire, otherwise=wire[::-1]
    )


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (Put("k", b"v"), "key of an operation in then must be bytes, not str"),  # type: ignore[arg-type]
        (Put(b"k", "v"), "value of an operation in then must be bytes, not str"),  # type: ignore[arg-type]
        (Put(bytearray(b"k"), b"v"), "not bytearray"),  # type: ignore[arg-type]
        ((b"k", b"v"), "expected Get, Put, Delete or Add, not tuple"),
    ],
)
def test_what_is_no_put_is_told(operation: Operation, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        transact_request((), (Put(b"a", b"b"), operation), ())


@given(st.lists(st.sampled_from([b"a", b"{a}b", b"{}c", b"{d", b"e{a}"]) | st.binary(max_size=9)))
def test_slots_of_many_keys_are_those_of_each(keys: list[bytes]) -> None:
    assert slots_of(keys) == [slot_of(key) for key in keys]
