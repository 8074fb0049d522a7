"""KV.TransactionStatus: what became of an id, from what every group keeps under it (PROTOCOL 2.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_common.outcome import ANSWER_BYTES_MAX, outcome_of
from overdb_router import refusals
from overdb_router.core import RouterCore
from overdb_router.exchange import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN
from overdb_router.operations import Kind, Op
from overdb_router.queues import OVERHEAD_BYTES
from overdb_router.refusals import Refusal, Refused
from overdb_router.snapshots import Waiter
from overdb_router.votes import prepared

Response = kv_pb2.TransactionStatusResponse
_Found = Mapping[int, shard_pb2.Found]
_Votes = Mapping[int, shard_pb2.Vote]
_Vote = shard_pb2.Vote

_UNKNOWN = Response.STATUS_UNKNOWN
_OPEN = Response.STATUS_OPEN
_COMMITTED = Response.STATUS_COMMITTED
_ABORTED = Response.STATUS_ABORTED


async def status(core: RouterCore, request_id: kv_pb2.RequestId, deadline: float) -> Response:
    """Ask the leader of every group, linearizably. Raises Refused when one of them does not answer."""
    await core.snapshots.all_known(deadline)
    loop = asyncio.get_running_loop()
    backoff = BACKOFF_SECONDS_MIN
    while True:
        groups = sorted(core.topology.groups)
        lookups = [_look_up(core, group, request_id, deadline) for group in groups]
        found = dict(zip(groups, await asyncio.gather(*lookups), strict=True))
        answer = merge(found)
        if answer is not None:
            return answer
        # One group was asked before the transaction ran there, another one after: ask again.
        if loop.time() + backoff >= deadline:
            raise Refused(_unavailable("the groups were asked while it ran"))
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)


async def _look_up(
    core: RouterCore, group: int, request_id: kv_pb2.RequestId, deadline: float
) -> shard_pb2.Found:
    waiter = Waiter()
    op = Op(Kind.LOOKUP, request_id, OVERHEAD_BYTES, deadline, waiter)
    core.dispatcher.links[group].leader.submit(op)
    try:
        value = await waiter.value()
    except Refused as refused:
        if refused.refusal.code == refusals.DEADLINE_EXCEEDED:
            raise Refused(_unavailable(f"group {group} did not answer in time")) from None
        raise
    return value.lookup


def _unavailable(reason: str) -> Refusal:
    return Refusal(
        refusals.UNAVAILABLE, f"what became of the transaction is not known: {reason}; retry"
    )


# --- what the answers come to ---------------------------------------------------------------------------


def merge(found: _Found) -> Response | None:
    """Return the status that all groups' answers come to; None when they have to be asked again."""
    results = [one.result for one in found.values() if one.HasField("result")]
    votes = {group: one.transaction for group, one in found.items() if one.HasField("transaction")}
    if results:
        return _of_result(results)
    if votes:
        return _of_votes(votes, found)
    return Response(status=_UNKNOWN)


def _of_result(results: Sequence[shard_pb2.Result]) -> Response:
    """A request inside one group: one log entry there."""
    result = results[0]
    field = result.WhichOneof("result")
    if field == "error":
        return Response(status=_ABORTED)
    if field == "transact":
        return _fitting(Response(status=_COMMITTED, response=result.transact))
    if field == "put":
        return _committed(result.put.version)
    if field == "delete":
        return _committed(result.delete.version)
    return Response(status=_OPEN)  # parked behind a transaction (PROTOCOL 2.6)


def _committed(version: int) -> Response:
    response = kv_pb2.TransactResponse(succeeded=True, version=version)
    return Response(status=_COMMITTED, response=response)


def _of_votes(votes: _Votes, found: _Found) -> Response | None:
    """A transaction over several groups. Only the newest attempt counts: it exists because the older
    ones are aborted (PROTOCOL 2.2)."""
    newest = max(vote.attempt for vote in votes.values())
    known = {group: vote for group, vote in votes.items() if vote.attempt == newest}
    participants = sorted({group for vote in known.values() for group in vote.participants})
    outcome = next((vote for vote in known.values() if vote.resolved), None)
    ready = {g: vote for g, vote in known.items() if vote.kind == _Vote.KIND_PREPARED}
    missing = [group for group in participants if group not in ready]
    if outcome is None and not missing and participants:
        outcome = decide(list(ready.values()))
    if outcome is None or outcome.branch == log_pb2.BRANCH_UNSPECIFIED:
        return _not_committed(known, participants, found)
    if outcome.branch == log_pb2.BRANCH_NONE:
        return Response(status=_ABORTED)  # it is decided, and has no effect
    if any(not found[group].closed for group in missing if group in found):
        return None  # asked before it voted: it has by now
    if missing:
        return Response(status=_COMMITTED)  # a part of the answer is forgotten
    then = outcome.branch == log_pb2.BRANCH_THEN
    if any(
        len(one.then if then else one.otherwise)
        < len(one.then_writes if then else one.otherwise_writes)
        for one in ready.values()
    ):
        return Response(status=_COMMITTED)  # what it read is no longer kept
    response = merge_results(ready, outcome.branch, outcome.commit_version)
    return _fitting(Response(status=_COMMITTED, response=response))


def _fitting(response: Response) -> Response:
    """Leave the results out where a client could not receive them: votes from before the bound (2.3)."""
    if response.ByteSize() > ANSWER_BYTES_MAX:
        del response.response.results[:]
    return response


def _not_committed(known: _Votes, participants: Sequence[int], found: _Found) -> Response:
    """Undecided, or aborted: then another attempt may follow as long as its id is accepted."""
    aborted = any(_is_aborted(vote) for vote in known.values())
    # A fence that an abort left knows no participants, so it says nothing of what others may yet do.
    closed = bool(participants) and all(
        group in found and found[group].closed for group in participants
    )
    return Response(status=_ABORTED if aborted and closed else _OPEN)


def _is_aborted(vote: shard_pb2.Vote) -> bool:
    return vote.kind == _Vote.KIND_REFUSED or (
        vote.resolved and vote.branch == log_pb2.BRANCH_UNSPECIFIED
    )


def decide(votes: Sequence[shard_pb2.Vote]) -> shard_pb2.Vote:
    """Return the outcome of an attempt for which every participant is prepared (PROTOCOL 2.3)."""
    branch, version = outcome_of([prepared(vote).ballot() for vote in votes])
    wire = log_pb2.Branch.ValueType(branch)
    return shard_pb2.Vote(resolved=True, branch=wire, commit_version=version)


def merge_results(
    votes: _Votes, branch: log_pb2.Branch.ValueType, commit_version: int
) -> kv_pb2.TransactResponse:
    """Return the answer of a committed transaction: all participants' results in branch order."""
    then = branch == log_pb2.BRANCH_THEN
    placed: list[tuple[int, kv_pb2.OperationResult]] = []
    for vote in votes.values():
        results = vote.then if then else vote.otherwise
        positions = vote.then_positions if then else vote.otherwise_positions
        writes = vote.then_writes if then else vote.otherwise_writes
        for result, position, write in zip(results, positions, writes, strict=True):
            merged = kv_pb2.OperationResult()
            merged.CopyFrom(result)
            # A get of what the transaction itself wrote has no version in the vote either.
            if write or (result.found and not result.version):
                merged.version = commit_version
            placed.append((position, merged))
    placed.sort(key=lambda one: one[0])
    return kv_pb2.TransactResponse(
        succeeded=then, results=[result for _, result in placed], version=commit_version
    )
