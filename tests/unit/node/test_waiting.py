"""Requests that wait for an entry, a lock or a transaction, when nobody will answer them any more."""

from __future__ import annotations

from typing import cast

from overdb.internal.v1 import shard_pb2
from overdb_node.applying import Deferred
from overdb_node.machine.types import Token
from overdb_node.reads import BlockedReads
from overdb_node.transport.shard_service import Answers


def _answers(count: int) -> list[Answers]:
    """Objects whose hash is their address, as that of streams is."""
    return [cast("Answers", object()) for _ in range(count)]


def test_what_waits_for_locks_is_told_once_and_in_the_order_in_which_it_came() -> None:
    deferred, streams = Deferred(), _answers(50)
    for number, answers in enumerate(streams):
        deferred.add(Token(b"c" * 16, number, 1), answers, number % 7, 0)
        deferred.add(Token(b"c" * 16, number, 2), answers, number % 7, 1)
    assert list(deferred.take_all()) == [(n % 7, answers) for n, answers in enumerate(streams)]
    assert not list(deferred.take_all())


def test_blocked_reads_are_told_once_and_in_the_order_in_which_they_came() -> None:
    blocked, streams = BlockedReads(), _answers(50)
    for number, answers in enumerate(streams):
        for position in range(2):
            blocked.add(b"%d" % number, answers, number % 7, position, shard_pb2.Read())
    assert list(blocked.take_all()) == [(n % 7, answers) for n, answers in enumerate(streams)]
    assert not len(blocked)
