"""One request of a client on its way through the batches, and how it is written into a message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from overdb.errors import InvalidArgument, OutcomeUnknown
from overdb.ids import Generation, RequestId
from overdb.operations import (
    OPERATORS,
    Add,
    Compare,
    Delete,
    Deleted,
    Get,
    Operation,
    OperationResult,
    Put,
    TransactResult,
    Value,
)
from overdb.v1 import kv_pb2

Entry = kv_pb2.BatchRequest.Entry
Answer = kv_pb2.BatchResponse.Entry

_UNKNOWN = "outcome unknown: "
ENTRY_BYTES = 64  # an id, a tag, lengths: what an entry costs besides its payload


class Call:
    """A request until it has its answer. Reads have no id; writes keep theirs over all retries."""

    __slots__ = (
        "acknowledged_below",
        "ahead_since",
        "client_id",
        "deadline",
        "direct",
        "fill",
        "future",
        "generation",
        "in_doubt",
        "key",
        "number",
        "passed_routers_by",
        "payload",
        "payload_bytes",
        "refusals",
        "refused",
        "sent_at",
        "started_at",
        "tag",
    )

    def __init__(
        self,
        tag: int,
        fill: Callable[[Call, Entry], None],
        key: bytes,
        payload: Any,
        payload_bytes: int,
        deadline: float,
        future: asyncio.Future[Any],
    ) -> None:
        self.tag = tag
        self.fill = fill
        self.key = key
        self.payload = payload  # what ``fill`` needs besides the key
        self.payload_bytes = payload_bytes
        self.deadline = deadline  # of the loop's clock
        self.future = future
        self.number = 0  # 0: a read, which has no id
        self.sent_at = 0.0  # when the copy that is under way was sent; 0: none is
        self.refusals = 0  # answers that ask to try again
        self.refused: tuple[int, str, Sequence[bytes]] | None = None  # the last of them
        self.direct = False  # it is with a link to a leader, not with the router
        self.passed_routers_by = False  # a copy went to a leader that no router has checked
        self.in_doubt = False  # an earlier copy may have run, or may run yet
        self.generation: Generation | None = None  # None: a read, or an id that the caller gave
        self.ahead_since = 0.0  # when it was first refused as from the future; 0: never

    def identify(self, generation: Generation) -> None:
        """Give the write an id of this client."""
        self.generation = generation
        self.client_id = generation.client_id
        self.number = generation.take()
        self.started_at = time.time_ns() // 1000
        self.acknowledged_below = 0  # set when it is sent first: later knows more

    def identify_as(self, request_id: RequestId) -> None:
        """Make the write a repetition of one whose outcome its caller does not know."""
        self.client_id = request_id.client_id
        self.number = request_id.request_number
        self.started_at = request_id.started_at
        self.acknowledged_below = request_id.acknowledged_below
        self.in_doubt = True

    def request_id(self) -> RequestId:
        """Return the id of a write."""
        return RequestId(self.client_id, self.number, self.started_at, self.acknowledged_below)

    def renew(self, generation: Generation) -> None:
        """Give it another id, after every copy under the first one was refused before it ran."""
        assert self.generation is not None
        assert not self.in_doubt
        self.generation.release(self.number)
        self.identify(generation)
        self.sent_at = 0.0

    def may_have_run(self) -> bool:
        """Whether this is a write of which some copy may have run or may run yet."""
        return self.number > 0 and (self.in_doubt or self.sent_at > 0.0)

    def outcome_unknown(self, why: str) -> OutcomeUnknown:
        """Return the error that keeps the id for a safe repetition."""
        request_id = self.request_id()
        why = why.removeprefix(_UNKNOWN)  # routers say it too
        return OutcomeUnknown(
            f"{_UNKNOWN}{why}; the write may have run or may run yet: "
            f"repeat it with request_id={request_id} to be sure",
            request_id=request_id,
        )


def _fill_id(call: Call, target: kv_pb2.RequestId) -> None:
    if not call.acknowledged_below and call.generation is not None:
        call.acknowledged_below = call.generation.acknowledged_below()
    target.client_id = call.client_id
    target.request_number = call.number
    target.started_at = call.started_at
    target.acknowledged_below = call.acknowledged_below


def fill_get(call: Call, entry: Entry) -> None:
    """Write a read of the newest value."""
    entry.get.key = call.key


def fill_get_at(call: Call, entry: Entry) -> None:
    """Write a read with options; the payload is (consistency, version)."""
    request = entry.get
    request.key = call.key
    request.read.consistency, request.read.version = call.payload


def fill_put(call: Call, entry: Entry) -> None:
    """Write a put; the payload is the value."""
    request = entry.put
    request.key = call.key
    request.value = call.payload
    _fill_id(call, request.id)


def fill_delete(call: Call, entry: Entry) -> None:
    """Write a delete."""
    request = entry.delete
    request.key = call.key
    _fill_id(call, request.id)


def fill_transact(call: Call, entry: Entry) -> None:
    """Write a transaction; the payload is its request without the id."""
    request = entry.transact
    request.CopyFrom(call.payload)
    _fill_id(call, request.id)


def result_of(answer: Answer, kind: str) -> Any:
    """Return what the caller gets for an answer of that kind (the name of the set field)."""
    if kind == "put":
        return answer.put.version
    if kind == "get":
        got = answer.get
        return Value(got.value, got.version) if got.found else None
    if kind == "delete":
        return Deleted(answer.delete.version, answer.delete.existed)
    return transact_result(answer.transact)


def transact_result(response: kv_pb2.TransactResponse) -> TransactResult:
    """Convert the answer to a transaction."""
    results = response.results
    if _are_alike(response):
        same = OperationResult(results[0].found, b"", results[0].version)
        return TransactResult(response.succeeded, (same,) * len(results), response.version)
    converted = tuple([OperationResult(r.found, r.value, r.version) for r in results])
    return TransactResult(response.succeeded, converted, response.version)


def _are_alike(response: kv_pb2.TransactResponse) -> bool:
    """Return whether all results are the same and without a value, as those of puts are, nearly always.

    It does not look at each: that would take as long as to convert them.
    """
    results = response.results
    if len(results) < 2 or results[0].value:
        return False
    one = kv_pb2.TransactResponse(results=[results[0]]).SerializeToString()
    alike = kv_pb2.TransactResponse(succeeded=response.succeeded, version=response.version)
    alike.MergeFromString(one * len(results))
    return alike == response


def transact_request(
    compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]
) -> kv_pb2.TransactRequest:
    """Build a transaction without its id. TypeError for what is no compare or operation."""
    request = kv_pb2.TransactRequest()
    for compare in compares:
        if not isinstance(compare, Compare):
            raise TypeError(f"compares: expected Compare, not {type(compare).__name__}")
        _fill_compare(compare, request.compares.add())
    for name, operations, target in (
        ("then", then, request.then),
        ("otherwise", otherwise, request.otherwise),
    ):
        add = target.add
        for operation in operations:
            # Puts come by the hundred, and most are as they should be.
            if (
                type(operation) is Put
                and type(key := operation.key) is bytes
                and type(value := operation.value) is bytes
            ):
                put = add().put
                put.key = key
                put.value = value
            else:
                _fill_operation(name, operation, add())
    return request


def _fill_compare(compare: Compare, target: kv_pb2.Compare) -> None:
    target.key = checked_bytes("key of a compare", compare.key)
    target.operator = kv_pb2.Compare.Operator.ValueType(OPERATORS[compare.sign])
    operand = compare.operand
    if isinstance(operand, bool):
        target.exists = operand
    elif isinstance(operand, int):
        target.version = operand
    else:
        target.value = checked_bytes("value of a compare", operand)


def _fill_operation(name: str, operation: Operation, target: kv_pb2.Operation) -> None:
    if not isinstance(operation, Get | Put | Delete | Add):
        raise TypeError(f"{name}: expected Get, Put, Delete or Add, not {type(operation).__name__}")
    key = checked_bytes(f"key of an operation in {name}", operation.key)
    if isinstance(operation, Put):
        target.put.key = key
        target.put.value = checked_bytes(f"value of an operation in {name}", operation.value)
    elif isinstance(operation, Add):
        target.add.key = key
        target.add.delta = operation.delta
    elif isinstance(operation, Delete):
        target.delete.key = key
    else:
        target.get.key = key


def checked_bytes(what: str, value: object) -> bytes:
    """Return the value if it is bytes; TypeError that names it otherwise."""
    if isinstance(value, bytes):
        return value
    hint = ": encode it, as in 'key'.encode()" if isinstance(value, str) else ""
    raise TypeError(f"{what} must be bytes, not {type(value).__name__}{hint}")


def checked_range(start: bytes, end: bytes, prefix: bytes | None) -> tuple[bytes, bytes]:
    """Return the bounds of a scan; InvalidArgument for a prefix along with start or end."""
    if prefix is None:
        return checked_bytes("start", start), checked_bytes("end", end)
    if start or end:
        raise InvalidArgument("scan: give either prefix, or start and end")
    return checked_bytes("prefix", prefix), end_of_prefix(prefix)


def end_of_prefix(prefix: bytes) -> bytes:
    """Return the first key behind all that begin so; empty when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b""
