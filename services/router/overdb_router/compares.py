"""Compares and gets of a transaction on values that were read, as a group evaluates them itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from overdb.v1 import kv_pb2

_Compare = kv_pb2.Compare


def holds(compare: kv_pb2.Compare, read: kv_pb2.GetResponse) -> bool:
    """Whether a compare holds on what was read of its key.

    A missing key has version 0 and no value: EQUAL, LESS and GREATER on its value are false, NOT_EQUAL
    is true. Values compare as bytes.
    """
    target = compare.WhichOneof("target")
    if target == "exists":
        return read.found == (compare.exists == (compare.operator == _Compare.OPERATOR_EQUAL))
    if target == "version":
        version = read.version if read.found else 0
        return _holds(compare.operator, (version > compare.version) - (version < compare.version))
    if not read.found:
        return compare.operator == _Compare.OPERATOR_NOT_EQUAL
    order = (read.value > compare.value) - (read.value < compare.value)
    return _holds(compare.operator, order)


def _holds(operator: kv_pb2.Compare.Operator.ValueType, order: int) -> bool:
    if operator == _Compare.OPERATOR_EQUAL:
        return order == 0
    if operator == _Compare.OPERATOR_NOT_EQUAL:
        return order != 0
    if operator == _Compare.OPERATOR_LESS:
        return order < 0
    return order > 0


def only_reads(request: kv_pb2.TransactRequest) -> bool:
    """Whether neither branch writes anything."""
    return all(
        one.HasField("get") for branch in (request.then, request.otherwise) for one in branch
    )


def branch_of(
    request: kv_pb2.TransactRequest, reads: Mapping[bytes, kv_pb2.GetResponse]
) -> tuple[bool, Sequence[kv_pb2.Operation]]:
    """Return whether all compares hold, and the operations that are to run then."""
    succeeded = all(holds(compare, reads[compare.key]) for compare in request.compares)
    return succeeded, request.then if succeeded else request.otherwise


def answer(
    request: kv_pb2.TransactRequest, reads: Mapping[bytes, kv_pb2.GetResponse], version: int
) -> kv_pb2.TransactResponse:
    """Return the response of a transaction that only reads, from the values of all its keys."""
    succeeded, operations = branch_of(request, reads)
    response = kv_pb2.TransactResponse(succeeded=succeeded, version=version)
    for operation in operations:
        read = reads[operation.get.key]
        if read.found:
            response.results.add(found=True, value=read.value, version=read.version)
        else:
            response.results.add()
    return response
