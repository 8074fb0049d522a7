"""Answers that a gRPC client with default limits has to be able to receive: 4 MiB."""

from __future__ import annotations

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import cluster_pb2, kv_pb2
from overdb_node import transaction_codec
from overdb_node.machine.types import Prepare
from overdb_router.cluster_service import TRANSACTIONS_BYTES_MAX, _shorten
from overdb_router.status import merge
from tests.unit.machine.helpers import Group, put, request

LIMIT = 4 << 20
COMMITTED = kv_pb2.TransactionStatusResponse.STATUS_COMMITTED


def vote(results: int, *, writes: int, value: bytes = b"x") -> shard_pb2.Found:
    found = shard_pb2.Found()
    found.transaction.MergeFrom(
        shard_pb2.Vote(
            kind=shard_pb2.Vote.KIND_PREPARED,
            holds=True,
            version=5,
            resolved=True,
            branch=log_pb2.BRANCH_THEN,
            commit_version=7,
            participants=[0],
            then=[kv_pb2.OperationResult(found=True, value=value, version=3)] * results,
            then_positions=range(writes),
            then_writes=[False] * writes,
        )
    )
    return found


def test_the_status_of_one_that_has_read_too_much_is_told_without_its_results() -> None:
    status = merge({0: vote(8, writes=8, value=b"x" * (1 << 20))})
    assert status is not None
    assert (status.status, status.response.version) == (COMMITTED, 7)
    assert status.ByteSize() < LIMIT
    fits = merge({0: vote(3, writes=3, value=b"x" * (1 << 20))})
    assert fits is not None
    assert len(fits.response.results) == 3


def test_the_status_of_one_whose_values_are_gone_is_committed() -> None:
    status = merge({0: vote(0, writes=2)})
    assert status is not None
    assert status.status == COMMITTED
    assert not status.response.results


def test_a_list_of_open_transactions_on_long_keys_has_a_size() -> None:
    group = Group()
    for number in range(1, 101):
        keys = [put(b"%03d-%02d-" % (number, n) + b"k" * 4000, b"") for n in range(16)]
        group.one(Prepare(request(1, of=number), 0, (0, 1), 7, (), tuple(keys), ()))
    answer = transaction_codec.open_transactions(group.machine)
    assert answer.count == 100
    assert 10 < len(answer.transactions) < 100
    assert answer.ByteSize() < 2 * transaction_codec.LISTED_BYTES_MAX


def test_so_have_the_lists_of_many_groups_together() -> None:
    one = cluster_pb2.OpenTransaction(keys=[b"k" * 4000] * 16)
    groups = [
        cluster_pb2.GroupTransactions(group=n, transactions=[one] * 16, count=16) for n in range(64)
    ]
    for group in groups:
        _shorten(group, TRANSACTIONS_BYTES_MAX // len(groups))
    response = cluster_pb2.TransactionsResponse(groups=groups)
    assert response.ByteSize() < LIMIT
    assert all(group.count == 16 for group in groups)
