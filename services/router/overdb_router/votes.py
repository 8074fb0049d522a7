"""A participant's vote as it came over the wire, for the protocol; and what to say of rivals."""

from __future__ import annotations

from collections.abc import Sequence

from overdb.internal.v1 import shard_pb2
from overdb_common.outcome import ANSWER_BYTES_MAX
from overdb_router import refusals
from overdb_router.refusals import Refusal
from overdb_router.txn import types

# A key of any length in a message to people.
_KEY_BYTES_SHOWN = 80

_Kind = shard_pb2.Vote.Kind


def payload(vote: types.Prepared) -> shard_pb2.Vote:
    assert isinstance(vote.payload, shard_pb2.Vote)
    return vote.payload


def vote_of(group: int, attempt: int, vote: shard_pb2.Vote) -> types.Vote | None:
    """Return a participant's answer as the protocol takes it, None when it makes no sense."""
    if vote.branch not in _BRANCHES:
        return None  # of a later version of the program
    if vote.kind == _Kind.KIND_PREPARED:
        return prepared(vote)
    if vote.kind == _Kind.KIND_REFUSED:
        return types.Refused(
            vote.attempt, refusals.from_error(vote.refusal), vote.again, _rival(group, vote)
        )
    if vote.kind == _Kind.KIND_SUPERSEDED:
        return types.Superseded(vote.attempt)
    # No votes, but answers to the attempt that was asked about.
    if vote.kind == _Kind.KIND_STALE:
        return types.Stale(attempt, stale_words(vote))
    if vote.kind == _Kind.KIND_REUSED:
        return types.Reused(attempt, _said(vote, refusals.INVALID_ARGUMENT, _REUSED))
    return None


def stale_words(vote: shard_pb2.Vote) -> Refusal:
    """Return why a participant takes no part under this id any more."""
    return _said(vote, refusals.FAILED_PRECONDITION, _STALE)


_BRANCHES = frozenset(map(int, types.Branch))
_STALE = (
    "the request id is expired, or below acknowledged_below of a later request: this copy did not run; "
    "take a fresh id for a new request"
)
_REUSED = "the request id belongs to another request; take a fresh id for each"


def prepared(vote: shard_pb2.Vote) -> types.Prepared:
    """Return a PREPARED vote as the protocol takes it."""
    then = vote.HasField("then_error")
    otherwise = vote.HasField("otherwise_error")
    return types.Prepared(
        attempt=vote.attempt,
        holds=vote.holds,
        version=vote.version,
        then_error=refusals.from_error(vote.then_error) if then else None,
        otherwise_error=refusals.from_error(vote.otherwise_error) if otherwise else None,
        outcome=_outcome(vote) if vote.resolved else None,
        payload=vote,
        sized=vote.sized,
        then_answer_bytes=vote.then_answer_bytes,
        otherwise_answer_bytes=vote.otherwise_answer_bytes,
    )


def _outcome(vote: shard_pb2.Vote) -> types.Outcome:
    return types.Outcome(types.Branch(vote.branch), vote.commit_version)


def _rival(group: int, vote: shard_pb2.Vote) -> types.Rival | None:
    if not vote.HasField("rival"):
        return None
    return types.Rival(vote.rival.client_id, vote.rival.request_number, vote.key, group)


def _said(vote: shard_pb2.Vote, code: int, text: str) -> Refusal:
    """What the participant said, or what to say in its place."""
    said = refusals.from_error(vote.refusal)
    return Refusal(code, said.message or text, said.details)


# --- words ----------------------------------------------------------------------------------------------


def error_of(error: object) -> Refusal:
    if isinstance(error, types.TooLarge):
        return Refusal(
            refusals.INVALID_ARGUMENT,
            "the values that the transaction reads, over all groups together and with what is around them, "
            f"have {error.answer_bytes} bytes, the limit is {ANSWER_BYTES_MAX}; nothing was done: read fewer "
            "keys at a time",
        )
    if isinstance(error, Refusal) and error.code:
        return error
    return Refusal(
        refusals.INTERNAL,
        "a group refused the transaction without saying why; it did nothing",
    )


def not_understood(group: int) -> Refusal:
    return Refusal(
        refusals.INTERNAL,
        f"group {group} sent a vote that this router does not understand; are router and nodes of the "
        "same version?",
    )


def in_the_way(rival: types.Rival | None) -> str:
    if rival is None:
        return "another transaction was in the way"
    return (
        f"transaction {_name(rival)} was in the way on key {_shown(rival.key)!r} of group "
        f"{rival.group}"
    )


def metadata_of(rival: types.Rival | None, waited: int, attempts: int) -> dict[str, str]:
    metadata = {"waited_ms": str(waited), "attempts": str(attempts)}
    if rival is not None:
        metadata["rival"] = _name(rival)
        metadata["key"] = _shown(rival.key).decode("utf-8", "backslashreplace")
        metadata["group"] = str(rival.group)
    return metadata


def _name(rival: types.Rival) -> str:
    return f"{rival.client_id.hex()}/{rival.number}"


def _shown(key: bytes) -> bytes:
    return key if len(key) <= _KEY_BYTES_SHOWN else key[:_KEY_BYTES_SHOWN] + b"..."


def listed(groups: Sequence[int]) -> str:
    return " and ".join(str(group) for group in groups)
