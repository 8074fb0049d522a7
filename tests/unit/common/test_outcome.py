"""The one function that decides a transaction over several groups (PROTOCOL 2.3)."""

from __future__ import annotations

import pytest

from overdb_common.outcome import (
    ANSWER_BYTES_MAX,
    Ballot,
    Branch,
    Outcome,
    Part,
    answer_bytes,
    answer_bytes_of,
    outcome_of,
)

HALF = Part(answer_bytes=ANSWER_BYTES_MAX // 2)
MORE = Part(answer_bytes=ANSWER_BYTES_MAX // 2 + 1)


@pytest.mark.parametrize(
    ("ballots", "expected"),
    [
        ([Ballot(True, 5), Ballot(True, 7)], Outcome(Branch.THEN, 7)),
        ([Ballot(True, 9), Ballot(False, 7)], Outcome(Branch.OTHERWISE, 9)),
        ([Ballot(True, 5, Part(runs=False)), Ballot(True, 7)], Outcome(Branch.NONE, 7)),
        ([Ballot(False, 5, Part(runs=False)), Ballot(True, 7)], Outcome(Branch.OTHERWISE, 7)),
        ([Ballot(True, 5, HALF, sized=True)] * 2, Outcome(Branch.THEN, 5)),
        (
            [Ballot(True, 5, HALF, sized=True), Ballot(True, 6, MORE, sized=True)],
            Outcome(Branch.NONE, 6),
        ),
        ([Ballot(True, 5, MORE, sized=True), Ballot(True, 6, MORE)], Outcome(Branch.THEN, 6)),
        (
            [Ballot(False, 5, MORE, sized=True), Ballot(True, 6, MORE, sized=True)],
            Outcome(Branch.OTHERWISE, 6),
        ),
        (
            [Ballot(True, 5, known=Outcome(Branch.NONE, 8)), Ballot(True, 7)],
            Outcome(Branch.NONE, 8),
        ),
    ],
)
def test_the_outcome_follows_from_the_votes(ballots: list[Ballot], expected: Outcome) -> None:
    assert outcome_of(ballots) == expected
    assert outcome_of(ballots[::-1]) == expected


def test_an_answer_as_large_as_allowed_fits_what_a_grpc_client_takes_by_default() -> None:
    """With the results' frames and those of a Batch around them, however many operations there are."""
    from overdb.v1 import kv_pb2

    for operations in (1, 4, 1024):
        value = b"v" * (ANSWER_BYTES_MAX // operations - answer_bytes(0))
        assert operations * answer_bytes(len(value)) <= ANSWER_BYTES_MAX
        largest = (1 << 64) - 1
        result = kv_pb2.OperationResult(found=True, value=value, version=largest)
        response = kv_pb2.TransactResponse(
            succeeded=True, results=[result] * operations, version=largest
        )
        entry = kv_pb2.BatchResponse.Entry(tag=largest, transact=response)
        assert kv_pb2.BatchResponse(entries=[entry]).ByteSize() <= 4 << 20
        status = kv_pb2.TransactionStatusResponse(status=3, response=response)  # type: ignore[arg-type]
        assert status.ByteSize() <= 4 << 20


def test_nothing_is_counted_where_one_participant_has_not() -> None:
    assert answer_bytes_of([Ballot(True, 1, MORE, sized=True), Ballot(True, 1, MORE)]) == 0
