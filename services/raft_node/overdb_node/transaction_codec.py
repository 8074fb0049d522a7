"""Protobuf <-> transactions: requests, their parts, votes, and what is told of them to people."""

from __future__ import annotations

from collections.abc import Callable

from overdb._expiry import untimely_id
from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import cluster_pb2, kv_pb2
from overdb_node.machine.machine import Machine
from overdb_node.machine.records import Parked, Transaction
from overdb_node.machine.types import (
    Code,
    Command,
    Compare,
    Forget,
    Inquire,
    Operation,
    OperationKind,
    OperationResult,
    Operator,
    Outcome,
    Prepare,
    Puts,
    Refused,
    RequestId,
    Resolve,
    Target,
    Transact,
    TransactionId,
    Untimely,
    Vote,
    VoteKind,
)

OfOutcome = Callable[[Resolve], log_pb2.Command]
_OUTCOMES = frozenset(map(int, Outcome))
_VOTES = frozenset(map(int, VoteKind))
_LISTED_KEYS_MAX = 16
LISTED_MAX = 1000
LISTED_BYTES_MAX = 1 << 20  # about; keys may be long

# --- commands ----------------------------------------------------------------------------------------


def decode(command: log_pb2.Command, kind: str | None) -> Command | Refused | None:
    """A message of the commit protocol; None: it is none that is known."""
    if kind == "prepare":
        return _decode_prepare(command.prepare)
    if kind == "resolve":
        wire = command.resolve
        if wire.branch not in _OUTCOMES:
            return None  # of a later version of the program
        return Resolve(_identity(wire.id), wire.attempt, Outcome(wire.branch), wire.version)
    if kind == "inquire":
        inquire = command.inquire
        return Inquire(
            decode_id(inquire.id),
            inquire.attempt,
            inquire.fingerprint,
            tuple(inquire.participants),
        )
    if kind == "forget":
        return Forget(_identity(command.forget.id), command.forget.attempt)
    return None


def _identity(wire: kv_pb2.RequestId) -> TransactionId:
    return TransactionId(wire.client_id, wire.request_number)


def _decode_prepare(wire: log_pb2.Prepare) -> Prepare | Refused:
    part = decode_transact(wire)
    if isinstance(part, Refused):
        return part
    return Prepare(
        part.id,
        wire.attempt,
        tuple(wire.participants),
        wire.fingerprint,
        part.compares,
        part.then,
        part.otherwise,
        tuple(wire.then_positions),
        tuple(wire.otherwise_positions),
        wire.bounded,
    )


def decode_id(wire: kv_pb2.RequestId) -> RequestId:
    return RequestId(wire.client_id, wire.request_number, wire.started_at, wire.acknowledged_below)


def decode_puts(wire: kv_pb2.TransactRequest) -> Puts | None:
    """A transaction of puts alone, in a form that costs little; None: it is another, or not right."""
    if wire.compares or wire.otherwise:
        return None
    puts = [operation.put for operation in wire.then]
    keys = [put.key for put in puts]
    # Of an operation that is no put, ``put`` is an empty one; no put without a key is right.
    if not keys or not all(keys):
        return None
    return Puts(decode_id(wire.id), keys, [put.value for put in puts])


def decode_transact(wire: kv_pb2.TransactRequest | log_pb2.Prepare) -> Transact | Refused:
    compares = []
    for compare in wire.compares:
        target = compare.WhichOneof("target")
        if target is None or compare.operator not in _OPERATORS:
            return Refused(
                Code.INVALID_ARGUMENT, "a compare has no target or no operator that is known"
            )
        compares.append(
            Compare(
                compare.key,
                _OPERATORS[compare.operator],
                _TARGETS[target],
                getattr(compare, target),
            )
        )
    branches = []
    for wire_branch in (wire.then, wire.otherwise):
        branch = []
        for wire_operation in wire_branch:
            operation = _decode_operation(wire_operation)
            if operation is None:
                return Refused(Code.INVALID_ARGUMENT, "an operation is empty or not known")
            branch.append(operation)
        branches.append(tuple(branch))
    return Transact(decode_id(wire.id), tuple(compares), branches[0], branches[1])


_OPERATORS = {int(operator): operator for operator in Operator}
_TARGETS = {"value": Target.VALUE, "version": Target.VERSION, "exists": Target.EXISTS}


def _decode_operation(wire: kv_pb2.Operation) -> Operation | None:
    kind = wire.WhichOneof("operation")
    if kind == "put":
        put = wire.put
        return Operation(OperationKind.PUT, put.key, put.value)
    if kind == "get":
        return Operation(OperationKind.GET, wire.get.key)
    if kind == "delete":
        return Operation(OperationKind.DELETE, wire.delete.key)
    if kind == "add":
        return Operation(OperationKind.ADD, wire.add.key, delta=wire.add.delta)
    return None


def encode_id(out: kv_pb2.RequestId, identity: TransactionId | RequestId) -> None:
    out.client_id, out.request_number = identity[0], identity[1]
    if isinstance(identity, RequestId):
        out.started_at = identity.started_at
        out.acknowledged_below = identity.acknowledged_below


def inquire_command(transaction: Transaction) -> log_pb2.Command:
    wire = log_pb2.Inquire(
        attempt=transaction.attempt,
        fingerprint=transaction.fingerprint,
        participants=transaction.participants,
    )
    encode_id(wire.id, transaction.request)
    return log_pb2.Command(inquire=wire)


def resolve_command(resolve: Resolve) -> log_pb2.Command:
    branch = log_pb2.Branch.ValueType(resolve.outcome)
    wire = log_pb2.Resolve(attempt=resolve.attempt, branch=branch, version=resolve.version)
    encode_id(wire.id, resolve.id)
    return log_pb2.Command(resolve=wire)


def forget_command(resolve: Resolve) -> log_pb2.Command:
    wire = log_pb2.Forget(attempt=resolve.attempt)
    encode_id(wire.id, resolve.id)
    return log_pb2.Command(forget=wire)


# --- votes -------------------------------------------------------------------------------------------


def fill_error(out: kv_pb2.Error, refused: Refused) -> None:
    out.code = refused.code
    out.message = refused.message
    if isinstance(refused, Untimely):
        expired = refused.code is Code.FAILED_PRECONDITION
        out.details.append(untimely_id(refused.group_time_us, expired=expired))


def fill_vote(out: shard_pb2.Vote, vote: Vote) -> None:
    out.kind = vote.kind  # type: ignore[assignment]  # the same numbers
    out.attempt = vote.attempt
    out.holds = vote.holds
    out.version = vote.version
    if isinstance(vote.then, Refused):
        fill_error(out.then_error, vote.then)
    else:
        _fill_results(out.then, vote.then)
    if isinstance(vote.otherwise, Refused):
        fill_error(out.otherwise_error, vote.otherwise)
    else:
        _fill_results(out.otherwise, vote.otherwise)
    if vote.refusal is not None:
        fill_error(out.refusal, vote.refusal)
    if vote.rival is not None:
        encode_id(out.rival, vote.rival)
    out.key = vote.key
    out.again = vote.again
    if vote.sized:
        out.sized = True
        out.then_answer_bytes = vote.then_answer_bytes
        out.otherwise_answer_bytes = vote.otherwise_answer_bytes
    if vote.outcome is not None:
        out.resolved = True
        out.branch = int(vote.outcome)  # type: ignore[assignment]  # the same numbers
        out.commit_version = vote.commit_version


def _fill_results(out: object, results: tuple[OperationResult, ...]) -> None:
    for result in results:
        out.add(found=result.found, value=result.value, version=result.version)  # type: ignore[attr-defined]


def decode_vote(wire: shard_pb2.Vote) -> Vote | None:
    """What a finisher needs of a vote: no results. None when this version does not know its kind."""
    if wire.kind not in _VOTES or wire.branch not in _OUTCOMES:
        return None
    return Vote(
        VoteKind(wire.kind),
        wire.attempt,
        wire.holds,
        wire.version,
        _decode_error(wire, "then_error"),
        _decode_error(wire, "otherwise_error"),
        outcome=Outcome(wire.branch) if wire.resolved else None,
        commit_version=wire.commit_version,
        sized=wire.sized,
        then_answer_bytes=wire.then_answer_bytes,
        otherwise_answer_bytes=wire.otherwise_answer_bytes,
    )


def _decode_error(wire: shard_pb2.Vote, field: str) -> tuple[OperationResult, ...] | Refused:
    if not wire.HasField(field):  # type: ignore[arg-type]
        return ()
    return Refused(Code.INVALID_ARGUMENT, getattr(wire, field).message)  # that there is one counts


# --- what is known of an id, and what is open -----------------------------------------------------------


def fill_found_transaction(out: shard_pb2.Vote, transaction: Transaction, machine: Machine) -> None:
    """Fill in a participant's part. Results are missing where what was read is no longer kept."""
    vote = transaction.vote
    if vote is not None:
        whole = machine.read_again(vote)
        vote = whole if isinstance(whole, Vote) else vote._replace(then=(), otherwise=())
    if vote is None:
        out.kind = shard_pb2.Vote.KIND_WAITING
        out.attempt = transaction.attempt
    else:
        fill_vote(out, vote)
    out.participants.extend(transaction.participants)
    out.then_positions.extend(transaction.positions[0])
    out.otherwise_positions.extend(transaction.positions[1])
    out.then_writes.extend(transaction.writes[0])
    out.otherwise_writes.extend(transaction.writes[1])


def open_transactions(machine: Machine) -> shard_pb2.OpenTransactionsResponse:
    """What is open, oldest first: without an outcome, waiting, or parked behind those."""
    participant = machine.participant
    found: list[Transaction | Parked] = [
        one for one in participant.transactions() if one.is_open or one.vote is None
    ]
    found += participant.parked.values()
    found.sort(key=lambda one: one.age)
    response = shard_pb2.OpenTransactionsResponse(count=len(found))
    size = 0
    for one in found[:LISTED_MAX]:
        entry = response.transactions.add()
        _fill_open(entry, one, machine)
        size += entry.ByteSize()
        if size > LISTED_BYTES_MAX:
            break
    return response


def _fill_open(
    out: cluster_pb2.OpenTransaction, one: Transaction | Parked, machine: Machine
) -> None:
    encode_id(out.id, one.id)
    out.id.started_at = one.age.started_at
    if isinstance(one, Parked):
        out.state = cluster_pb2.OpenTransaction.STATE_PARKED
    else:
        waiting = one.vote is None
        out.attempt = one.attempt
        out.state = (
            cluster_pb2.OpenTransaction.STATE_WAITING
            if waiting
            else cluster_pb2.OpenTransaction.STATE_PREPARED
        )
        out.participants.extend(one.participants)
    out.keys.extend(sorted(one.modes)[:_LISTED_KEYS_MAX])
    out.key_count = len(one.modes)
    if out.state != cluster_pb2.OpenTransaction.STATE_PREPARED:
        for rival in {other.id for _, other in machine.participant.locks.ahead(one)}:
            encode_id(out.waits_for.add(), rival)
    out.age_us = max(0, machine.physical - one.age.started_at)
