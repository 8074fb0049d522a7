"""Every request is checked before anything of it is sent. A refusal names the field, the limit and the
actual value."""

from __future__ import annotations

from collections.abc import Sequence

from overdb.v1 import kv_pb2
from overdb_common.settings import Limits
from overdb_router.refusals import Refusal, invalid

STRICT = kv_pb2.CONSISTENCY_STRICT
SNAPSHOT = kv_pb2.CONSISTENCY_SNAPSHOT
STALE = kv_pb2.CONSISTENCY_STALE

_ORDERED = (kv_pb2.Compare.OPERATOR_LESS, kv_pb2.Compare.OPERATOR_GREATER)
_OPERATORS = frozenset(kv_pb2.Compare.Operator.values()) - {kv_pb2.Compare.OPERATOR_UNSPECIFIED}


class Validation:
    """The checks, with the limits they name. Each returns None or what is wrong."""

    def __init__(self, limits: Limits) -> None:
        self._key_bytes_max = limits.key_bytes_max
        self._value_bytes_max = limits.value_bytes_max
        self._request_bytes_max = limits.request_bytes_max
        self._operations_max = limits.operations_max

    def key(self, key: bytes, field: str = "key") -> Refusal | None:
        if not key:
            return invalid(field, "is empty; a key has at least one byte")
        if len(key) > self._key_bytes_max:
            return invalid(field, _over(len(key), self._key_bytes_max, "key"))
        return None

    def value(self, value: bytes, field: str = "value") -> Refusal | None:
        if len(value) > self._value_bytes_max:
            return invalid(field, _over(len(value), self._value_bytes_max, "value"))
        return None

    def request_id(self, request_id: kv_pb2.RequestId, field: str = "id") -> Refusal | None:
        """PROTOCOL 2.2, 2.10: 16 bytes of UUIDv7, a number from 1, acknowledged_below up to it."""
        client_id = request_id.client_id
        if len(client_id) != 16:
            return invalid(
                f"{field}.client_id", f"has {len(client_id)} bytes; a UUIDv7 has 16 bytes"
            )
        if client_id[6] >> 4 != 7:
            return invalid(
                f"{field}.client_id",
                f"{client_id.hex()} is a UUID of version {client_id[6] >> 4}; version 7 is needed, "
                "because it carries its creation time",
            )
        number = request_id.request_number
        if number < 1:
            return invalid(f"{field}.request_number", "is 0; numbers begin with 1")
        if request_id.acknowledged_below > number:
            return invalid(
                f"{field}.acknowledged_below",
                f"is {request_id.acknowledged_below}, above this request's own number {number}",
            )
        return None

    def put(self, request: kv_pb2.PutRequest) -> Refusal | None:
        return (
            self.key(request.key)
            or self.value(request.value)
            or (self.request_id(request.id) if request.HasField("id") else None)
        )

    def delete(self, request: kv_pb2.DeleteRequest) -> Refusal | None:
        return self.key(request.key) or (
            self.request_id(request.id) if request.HasField("id") else None
        )

    def get(self, request: kv_pb2.GetRequest) -> Refusal | None:
        return self.key(request.key) or self.read_options(request.read)

    def read_options(self, read: kv_pb2.ReadOptions) -> Refusal | None:
        consistency = read.consistency
        if consistency not in (kv_pb2.CONSISTENCY_UNSPECIFIED, STRICT, SNAPSHOT, STALE):
            return invalid(
                "read.consistency", f"{consistency} is none of STRICT (1), SNAPSHOT (2), STALE (3)"
            )
        if read.version and consistency != SNAPSHOT:
            name = "STALE" if consistency == STALE else "STRICT"
            return invalid(
                "read.version",
                f"is {read.version} with consistency {name}; a version is read with SNAPSHOT",
            )
        return None

    def scan(self, request: kv_pb2.ScanRequest) -> Refusal | None:
        for field, bound in (("start", request.start), ("end", request.end)):
            # One byte more than a key: the first key behind the longest one.
            if len(bound) > self._key_bytes_max + 1:
                return invalid(field, _over(len(bound), self._key_bytes_max, "key"))
        if request.end and request.end <= request.start:
            return invalid(
                "end",
                f"{_short(request.end)} is not behind start {_short(request.start)}; the range "
                "[start, end) is empty. For descending order set reverse, not swapped bounds",
            )
        return self.read_options(request.read)

    def transact(self, request: kv_pb2.TransactRequest) -> Refusal | None:
        if request.HasField("id"):
            refusal = self.request_id(request.id)
            if refusal:
                return refusal
        count = len(request.compares) + len(request.then) + len(request.otherwise)
        if count == 0:
            return invalid("then", "no compare and no operation; a transaction needs at least one")
        if count > self._operations_max:
            return invalid(
                "then",
                f"{count} compares and operations; the limit is {self._operations_max}: split it",
            )
        # What is around keys and values is more than nothing: most are within the limit with all of it.
        if request.ByteSize() > self._request_bytes_max:
            size = payload_bytes(request)
            if size > self._request_bytes_max:
                return invalid("then", _over(size, self._request_bytes_max, "request"))
        return (
            self._compares(request.compares)
            or self._operations("then", request.then)
            or self._operations("otherwise", request.otherwise)
        )

    def keys_of_puts(self, request: kv_pb2.TransactRequest) -> list[bytes] | None:
        """Return the keys of a transaction of puts alone that is right, as nearly all large ones are.

        None says nothing: ``transact`` tells what is wrong, ``keys_of`` the keys of all others.
        """
        size = request.ByteSize()
        if (
            request.compares
            or request.otherwise
            or not 0 < len(request.then) <= self._operations_max
            or (size > self._request_bytes_max and payload_bytes(request) > self._request_bytes_max)
            or (request.HasField("id") and self.request_id(request.id) is not None)
        ):
            return None
        puts = [operation.put for operation in request.then]
        keys = [put.key for put in puts]
        # Of an operation that is no put, ``put`` is an empty one, without a key.
        if not all(keys) or max(map(len, keys)) > self._key_bytes_max:
            return None
        # No value is longer than the whole with what is around it.
        if size > self._value_bytes_max and any(
            len(put.value) > self._value_bytes_max for put in puts
        ):
            return None
        return keys

    def _compares(self, compares: Sequence[kv_pb2.Compare]) -> Refusal | None:
        for index, compare in enumerate(compares):
            field = f"compares[{index}]"
            refusal = self.key(compare.key, f"{field}.key")
            if refusal:
                return refusal
            if compare.operator not in _OPERATORS:
                return invalid(
                    f"{field}.operator",
                    "is not given; EQUAL, NOT_EQUAL, LESS and GREATER are known",
                )
            target = compare.WhichOneof("target")
            if target is None:
                return invalid(
                    f"{field}.target", "is not given; value, version or exists is needed"
                )
            if target == "exists" and compare.operator in _ORDERED:
                return invalid(
                    f"{field}.operator", "existence is compared by EQUAL or NOT_EQUAL only"
                )
            if target == "value":
                refusal = self.value(compare.value, f"{field}.value")
                if refusal:
                    return refusal
        return None

    def _operations(self, branch: str, operations: Sequence[kv_pb2.Operation]) -> Refusal | None:
        key_bytes_max, value_bytes_max = self._key_bytes_max, self._value_bytes_max
        for index, operation in enumerate(operations):
            if operation.HasField("put"):  # what passes nearly always, at one glance
                put = operation.put
                if 0 < len(put.key) <= key_bytes_max and len(put.value) <= value_bytes_max:
                    continue
            refusal = self._operation(f"{branch}[{index}]", operation)
            if refusal:
                return refusal
        return None

    def _operation(self, field: str, operation: kv_pb2.Operation) -> Refusal | None:
        kind = operation.WhichOneof("operation")
        if kind is None:
            return invalid(field, "is empty; get, put, delete or add is needed")
        refusal = self.key(getattr(operation, kind).key, f"{field}.{kind}.key")
        if refusal is None and kind == "put":
            refusal = self.value(operation.put.value, f"{field}.put.value")
        return refusal


def keys_of(request: kv_pb2.TransactRequest) -> list[bytes]:
    """Return every key that a transaction may touch, in the order of the request."""
    keys = [compare.key for compare in request.compares]
    for branch in (request.then, request.otherwise):
        keys += [getattr(one, one.WhichOneof("operation") or "get").key for one in branch]
    return keys


def payload_bytes(request: kv_pb2.TransactRequest) -> int:
    """Return the size of a transaction as replicas measure it: keys, values, 8 for another operand.

    A leader must not take what a router refuses: clients may send to either, with the same id.
    """
    size = 0
    for compare in request.compares:
        size += len(compare.key)
        size += len(compare.value) if compare.WhichOneof("target") == "value" else 8
    for operation in (*request.then, *request.otherwise):
        size += len(getattr(operation, operation.WhichOneof("operation") or "get").key)
        size += len(operation.put.value)  # empty where it is no put
    return size


def _over(size: int, limit: int, what: str) -> str:
    return f"has {size} bytes; the limit of a {what} is {limit} bytes"


def _short(key: bytes) -> str:
    return repr(key if len(key) <= 40 else key[:40] + b"...")
