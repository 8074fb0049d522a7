"""Kept results as bytes: what a retry is answered with, long after (PROTOCOL 2.2, 2.10).

One record holds all results of one log entry. It is on disk and in snapshots: tags are never used again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from overdb_node.machine.types import (
    Code,
    Deleted,
    OperationResult,
    Refused,
    Result,
    Transacted,
    Written,
)

_HEAD = struct.Struct(">16sQQBI")  # client id, request number, fingerprint, tag, length of the rest
_PUT = struct.Struct(">16sQQBIQ")  # the same of a put, with its rest
_VERSION = struct.Struct(">Q")
_DELETED = struct.Struct(">Q?")
_TRANSACTED = struct.Struct(">?QI")
_OPERATION = struct.Struct(">?QI")
_REFUSED = struct.Struct(">B")
_STRIPPED = struct.Struct(">?QII")  # with the key in place of the value where there is one
_WRITTEN, _WAS_DELETED, _HAS_TRANSACTED, _WAS_REFUSED, _HAS_STRIPPED = 1, 2, 3, 4, 5


class Kept(NamedTuple):
    """A result under its id. A Put's is its version alone: there are many, and they are small so."""

    client_id: bytes
    number: int
    fingerprint: int
    result: int | Result


def pack(kept: Iterable[tuple[bytes, int, int, int | Result]]) -> bytes:
    """The fields of ``Kept``, for each."""
    parts: list[bytes] = []
    for client_id, number, fingerprint, result in kept:
        if type(result) is int:  # most are
            parts.append(_PUT.pack(client_id, number, fingerprint, _WRITTEN, 8, result))
            continue
        tag, rest = _pack_result(result)
        parts.append(_HEAD.pack(client_id, number, fingerprint, tag, len(rest)))
        parts.append(rest)
    return b"".join(parts)


def _pack_result(result: int | Result) -> tuple[int, bytes]:
    if isinstance(result, int):
        return _WRITTEN, _VERSION.pack(result)
    if isinstance(result, Deleted):
        return _WAS_DELETED, _DELETED.pack(result.version, result.existed)
    if isinstance(result, Transacted):
        head = _TRANSACTED.pack(result.succeeded, result.version, len(result.results))
        results = result.results
        first = results[0] if results else None
        if first and not first.key and results.count(first) == len(results):  # as of puts, often
            return _HAS_TRANSACTED, head + _pack_operation(first) * len(results)
        if any(one.key for one in results):
            return _HAS_STRIPPED, head + b"".join(map(_pack_stripped, results))
        return _HAS_TRANSACTED, head + b"".join(map(_pack_operation, results))
    assert isinstance(result, Refused), result
    return _WAS_REFUSED, _REFUSED.pack(result.code) + result.message.encode()


def _pack_operation(result: OperationResult) -> bytes:
    return _OPERATION.pack(result.found, result.version, len(result.value)) + result.value


def _pack_stripped(result: OperationResult) -> bytes:
    value, key = result.value, result.key
    return _STRIPPED.pack(result.found, result.version, len(value), len(key)) + value + key


def unpack(packed: bytes) -> Iterator[Kept]:
    offset = 0
    while offset < len(packed):
        client_id, number, fingerprint, tag, length = _HEAD.unpack_from(packed, offset)
        offset += _HEAD.size
        yield Kept(client_id, number, fingerprint, _unpack_result(tag, packed, offset, length))
        offset += length


def without_words(packed: bytes) -> bytes:
    """The same with the texts of refusals left out."""
    parts: list[bytes] = []
    start = offset = 0
    while offset < len(packed):
        *_, tag, length = _HEAD.unpack_from(packed, offset)
        offset += _HEAD.size
        if tag == _WAS_REFUSED:
            parts.append(packed[start : offset + _REFUSED.size])
            start = offset + length
        offset += length
    return b"".join((*parts, packed[start:])) if parts else packed


def _unpack_result(tag: int, packed: bytes, offset: int, length: int) -> int | Result:
    if tag == _WRITTEN:
        return int(_VERSION.unpack_from(packed, offset)[0])
    if tag == _WAS_DELETED:
        return Deleted(*_DELETED.unpack_from(packed, offset))
    if tag == _HAS_TRANSACTED:
        return _unpack_transacted(packed, offset)
    if tag == _HAS_STRIPPED:
        return _unpack_stripped(packed, offset)
    assert tag == _WAS_REFUSED, tag
    code = Code(packed[offset])
    return Refused(code, packed[offset + 1 : offset + length].decode())


def _unpack_transacted(packed: bytes, offset: int) -> Transacted:
    succeeded, version, count = _TRANSACTED.unpack_from(packed, offset)
    offset += _TRANSACTED.size
    results: list[OperationResult] = []
    for _ in range(count):
        found, written, length = _OPERATION.unpack_from(packed, offset)
        offset += _OPERATION.size
        result = OperationResult(found, packed[offset : offset + length], written)
        offset += length
        # One object where all are equal, as it was when it ran: of puts there are many.
        results.append(results[0] if results and results[0] == result else result)
    return Transacted(succeeded, tuple(results), version)


def _unpack_stripped(packed: bytes, offset: int) -> Transacted:
    succeeded, version, count = _TRANSACTED.unpack_from(packed, offset)
    offset += _TRANSACTED.size
    results = []
    for _ in range(count):
        found, written, value_length, key_length = _STRIPPED.unpack_from(packed, offset)
        offset += _STRIPPED.size
        value = packed[offset : offset + value_length]
        offset += value_length
        results.append(OperationResult(found, value, written, packed[offset : offset + key_length]))
        offset += key_length
    return Transacted(succeeded, tuple(results), version)


def result_of(kept: int | Result) -> Result:
    """The result as it is answered."""
    return Written(kept) if isinstance(kept, int) else kept
