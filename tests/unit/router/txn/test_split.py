"""A transaction taken apart for its groups, and its results put together again."""

from __future__ import annotations

import pytest

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_router.split import BrokenVote, exclusive_keys, fingerprint_of, merge, split

Operation = kv_pb2.Operation
Result = kv_pb2.OperationResult


def get(key: bytes) -> Operation:
    return Operation(get=Operation.Get(key=key))


def put(key: bytes, value: bytes = b"v") -> Operation:
    return Operation(put=Operation.Put(key=key, value=value))


def add(key: bytes) -> Operation:
    return Operation(add=Operation.Add(key=key, delta=1))


def exists(key: bytes) -> kv_pb2.Compare:
    return kv_pb2.Compare(key=key, operator=kv_pb2.Compare.OPERATOR_EQUAL, exists=True)


def group_of(key: bytes) -> int:
    return int(key[:1])


REQUEST = kv_pb2.TransactRequest(
    id=kv_pb2.RequestId(client_id=b"c" * 16, request_number=9, started_at=5),
    compares=[exists(b"3c"), exists(b"1c")],
    then=[put(b"2a"), get(b"1a"), get(b"2a"), add(b"1b")],
    otherwise=[get(b"2a"), get(b"1a")],
)


def test_each_group_gets_its_part_with_the_places_of_its_operations() -> None:
    parts = split(REQUEST, group_of)
    assert list(parts) == [1, 2, 3]
    for part in parts.values():
        assert part.id == REQUEST.id
        assert part.attempt == 0
        assert list(part.participants) == [1, 2, 3]
        assert part.fingerprint == fingerprint_of(REQUEST)
    assert parts[1].compares == [exists(b"1c")]
    assert parts[1].then == [get(b"1a"), add(b"1b")]
    assert list(parts[1].then_positions) == [1, 3]
    assert parts[2].then == [put(b"2a"), get(b"2a")]
    assert list(parts[2].then_positions) == [0, 2]
    assert list(parts[2].otherwise_positions) == [0]
    assert not parts[3].then
    assert parts[3].compares == [exists(b"3c")]


def test_the_fingerprint_is_of_everything_but_the_id() -> None:
    other = kv_pb2.TransactRequest()
    other.CopyFrom(REQUEST)
    other.id.request_number = 10
    assert fingerprint_of(other) == fingerprint_of(REQUEST)
    assert REQUEST.HasField("id")
    other.then[0].put.value = b"w"
    assert fingerprint_of(other) != fingerprint_of(REQUEST)
    assert fingerprint_of(kv_pb2.TransactRequest(then=[get(b"1")])) == 8136475686764383398


def test_keys_are_shared_where_they_are_only_read() -> None:
    assert exclusive_keys(REQUEST) == {
        b"3c": False,
        b"1c": False,
        b"2a": True,
        b"1a": False,
        b"1b": True,
    }


def votes() -> dict[int, shard_pb2.Vote]:
    return {
        1: shard_pb2.Vote(
            then=[Result(found=True, value=b"old", version=4), Result(value=b"1")],
            otherwise=[Result()],
        ),
        2: shard_pb2.Vote(
            then=[Result(), Result(found=True, value=b"v")],
            otherwise=[Result(found=True, value=b"x", version=3)],
        ),
        3: shard_pb2.Vote(),
    }


def test_results_stand_in_the_order_of_the_branch_and_writes_have_the_commit_version() -> None:
    response = merge(split(REQUEST, group_of), votes(), 50, then=True)
    assert response == kv_pb2.TransactResponse(
        succeeded=True,
        version=50,
        results=[
            Result(version=50),
            Result(found=True, value=b"old", version=4),
            Result(found=True, value=b"v", version=50),
            Result(value=b"1", version=50),
        ],
    )


def test_what_is_not_found_has_no_version() -> None:
    response = merge(split(REQUEST, group_of), votes(), 50, then=False)
    assert not response.succeeded
    assert list(response.results) == [Result(found=True, value=b"x", version=3), Result()]


def test_a_vote_without_all_results_is_broken() -> None:
    parts: dict[int, log_pb2.Prepare] = split(REQUEST, group_of)
    broken = votes()
    del broken[2].then[0]
    with pytest.raises(BrokenVote):
        merge(parts, broken, 50, then=True)
