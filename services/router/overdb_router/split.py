"""A transaction taken apart into one Prepare for each group, and its results put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xxhash import xxh3_64_intdigest

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2


class BrokenVote(Exception):  # noqa: N818 - it says what is broken
    """A vote does not have one result for each operation of its group."""


def split(
    request: kv_pb2.TransactRequest, group_of: Callable[[bytes], int]
) -> dict[int, log_pb2.Prepare]:
    """Return the Prepare of attempt 0 for each participant, by group, ascending (PROTOCOL 2.3)."""
    parts: dict[int, log_pb2.Prepare] = {}

    def part(key: bytes) -> log_pb2.Prepare:
        group = group_of(key)
        if group not in parts:
            parts[group] = log_pb2.Prepare()
        return parts[group]

    for compare in request.compares:
        part(compare.key).compares.append(compare)
    for position, operation in enumerate(request.then):
        prepare = part(_key(operation))
        prepare.then.append(operation)
        prepare.then_positions.append(position)
    for position, operation in enumerate(request.otherwise):
        prepare = part(_key(operation))
        prepare.otherwise.append(operation)
        prepare.otherwise_positions.append(position)
    participants = sorted(parts)
    fingerprint = fingerprint_of(request)
    for prepare in parts.values():
        prepare.id.CopyFrom(request.id)
        prepare.participants.extend(participants)
        prepare.fingerprint = fingerprint
        prepare.bounded = True
    return {group: parts[group] for group in participants}


def fingerprint_of(request: kv_pb2.TransactRequest) -> int:
    """Return what tells this request from another one under the same id: the same in every router."""
    bare = kv_pb2.TransactRequest()
    bare.CopyFrom(request)
    bare.ClearField("id")
    return int(xxh3_64_intdigest(bare.SerializeToString(deterministic=True)))


def exclusive_keys(request: kv_pb2.TransactRequest) -> dict[bytes, bool]:
    """Return every key with whether it may be written; those only read are shared (PROTOCOL 2.3)."""
    keys = dict.fromkeys((compare.key for compare in request.compares), False)
    for branch in (request.then, request.otherwise):
        for operation in branch:
            key = _key(operation)
            keys[key] = keys.get(key, False) or not operation.HasField("get")
    return keys


def merge(
    parts: Mapping[int, log_pb2.Prepare],
    votes: Mapping[int, shard_pb2.Vote],
    version: int,
    *,
    then: bool,
) -> kv_pb2.TransactResponse:
    """Return the answer: the results of one branch in its order, what it wrote at ``version``.

    Raises BrokenVote.
    """
    merged: list[kv_pb2.OperationResult | None] = []
    merged += [None] * sum(len(part.then if then else part.otherwise) for part in parts.values())
    for group, part in parts.items():
        operations = part.then if then else part.otherwise
        positions = part.then_positions if then else part.otherwise_positions
        results = votes[group].then if then else votes[group].otherwise
        if len(results) != len(operations):
            raise BrokenVote(f"{len(results)} results for {len(operations)} operations of {group}")
        for position, operation, result in zip(positions, operations, results, strict=True):
            # A get that found what an earlier operation of this transaction wrote has no version yet.
            if not operation.HasField("get") or (result.found and not result.version):
                result.version = version
            merged[position] = result
    response = kv_pb2.TransactResponse(succeeded=then, version=version)
    response.results.extend(result for result in merged if result is not None)
    return response


def _key(operation: kv_pb2.Operation) -> bytes:
    kind = operation.WhichOneof("operation")
    assert kind is not None  # validation has seen to it
    key: bytes = getattr(operation, kind).key
    return key
