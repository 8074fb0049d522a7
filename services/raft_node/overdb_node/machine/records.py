"""What is stored of transactions over several groups and of parked requests, and its form on disk."""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from overdb_node.machine.locks import Age, Locker, modes_of
from overdb_node.machine.types import (
    Code,
    Command,
    Compare,
    Delete,
    Operation,
    OperationKind,
    OperationResult,
    Operator,
    Outcome,
    Prepare,
    Put,
    Refused,
    RequestId,
    Target,
    Transact,
    TransactionId,
    Vote,
    VoteKind,
)

TRANSACTION_PREFIX = b"t"  # + client id + request number
PARKED_PREFIX = b"p"  # + client id + request number
_NUMBER = struct.Struct(">Q")
_VOTE_FIELDS = Vote._fields.index(
    "sized"
)  # of a vote that is not sized: as release 0.1.0 stores it
_KEY = OperationResult._fields.index("key")
_FORM = b"\x01"  # of the records; another order or number of fields is another form


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return _FORM + packed


def _unpacked(packed: bytes) -> Any:
    assert packed[:1] == _FORM, "the record is of a later version of the program"
    return msgpack.unpackb(packed[1:], use_list=False)


class Transaction(Locker):
    """One attempt of a transaction at this participant (PROTOCOL 2.2).

    Without a vote it waits in the queues. With a PREPARED vote and no outcome it is open: it stays in the
    queues and holds everything. ``part`` is let go with the outcome.
    """

    __slots__ = (
        "attempt",
        "fingerprint",
        "forget",
        "heard",
        "part",
        "participants",
        "positions",
        "request",
        "vote",
        "writes",
    )

    def __init__(
        self,
        request: RequestId,
        attempt: int,
        fingerprint: int,
        participants: tuple[int, ...],
        part: Prepare | None,
    ) -> None:
        modes = {} if part is None else modes_of(part.compares, part.then, part.otherwise)
        super().__init__(identity_of(request), age_of(request), modes, parked=False)
        self.request = request
        self.attempt = attempt
        self.fingerprint = fingerprint
        self.participants = participants
        self.part = part
        self.vote: Vote | None = None
        self.forget = False
        self.heard = 0  # signs of life of a router; not stored, a new leader waits anew
        # Of the operations of both branches: where in the whole, and whether it writes.
        self.positions: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self.writes: tuple[tuple[bool, ...], tuple[bool, ...]] = ((), ())
        if part is not None:
            self.positions = (part.then_positions, part.otherwise_positions)
            self.writes = (_writes(part.then), _writes(part.otherwise))

    @property
    def is_open(self) -> bool:
        """Voted PREPARED, and the outcome is not known here."""
        vote = self.vote
        return vote is not None and vote.kind is VoteKind.PREPARED and vote.outcome is None

    @property
    def is_committed(self) -> bool:
        vote = self.vote
        return vote is not None and vote.outcome not in (None, Outcome.ABORTED)

    @property
    def name(self) -> bytes:
        return TRANSACTION_PREFIX + self.id.client_id + _NUMBER.pack(self.id.request_number)

    def pack(self) -> bytes:
        part = self.part
        return _packed(
            (
                tuple(self.request),
                self.attempt,
                self.fingerprint,
                self.participants,
                None if part is None else _part_fields(part),
                self.positions,
                self.writes,
                None if self.vote is None else _vote_fields(self.vote),
                self.forget,
                self.ticket,
            )
        )


class Parked(Locker):
    """A request inside this group that waits until nobody holds its keys (PROTOCOL 2.6)."""

    __slots__ = ("command", "fingerprint", "order")

    def __init__(self, command: Put | Delete | Transact, fingerprint: int, order: int) -> None:
        super().__init__(
            identity_of(command.id), age_of(command.id), modes_of_command(command), parked=True
        )
        self.command = command
        self.fingerprint = fingerprint
        self.order = order  # in the log

    @property
    def value_bytes(self) -> int:
        """Bytes of keys and values that wait with it."""
        command = self.command
        if isinstance(command, Put):
            return len(command.key) + len(command.value)
        if isinstance(command, Delete):
            return len(command.key)
        operands = (c.operand for c in command.compares if isinstance(c.operand, bytes))
        written = (len(one.value) for branch in command[2:] for one in branch)
        return sum(map(len, self.modes)) + sum(map(len, operands)) + sum(written)

    @property
    def name(self) -> bytes:
        return PARKED_PREFIX + self.id.client_id + _NUMBER.pack(self.id.request_number)

    def pack(self) -> bytes:
        command = self.command
        kind = (Put, Delete, Transact).index(type(command))
        return _packed((kind, tuple(command), self.fingerprint, self.order, self.ticket))


def identity_of(request: RequestId) -> TransactionId:
    return TransactionId(request.client_id, request.request_number)


def age_of(request: RequestId) -> Age:
    return Age(request.started_at, request.client_id, request.request_number)


def modes_of_command(command: Put | Delete | Transact) -> dict[bytes, bool]:
    if isinstance(command, Transact):
        return modes_of(command.compares, command.then, command.otherwise)
    return {command.key: True}


def _part_fields(part: Prepare) -> tuple[object, ...]:
    fields = (part.compares, part.then, part.otherwise)
    return (*fields, True) if part.bounded else fields


def _vote_fields(vote: Vote) -> tuple[object, ...]:
    vote = vote._replace(then=_result_fields(vote.then), otherwise=_result_fields(vote.otherwise))
    return vote if vote.sized else vote[:_VOTE_FIELDS]


def _result_fields(results: Any) -> Any:
    """Results without a key are stored as release 0.1.0 stores them."""
    if isinstance(results, Refused):
        return results
    return tuple(result if result.key else result[:_KEY] for result in results)


def _writes(branch: tuple[Operation, ...]) -> tuple[bool, ...]:
    return tuple(operation.kind is not OperationKind.GET for operation in branch)


# --- reading ------------------------------------------------------------------------------------------


def unpack_transaction(packed: bytes) -> tuple[Transaction, int]:
    """The transaction and its ticket: the caller puts it back into the queues."""
    request, attempt, fingerprint, participants, part, positions, writes, vote, forget, ticket = (
        _unpacked(packed)
    )
    request = RequestId(*request)
    prepare = None
    if part is not None:
        compares, then, otherwise, *bounded = part
        prepare = Prepare(
            request,
            attempt,
            participants,
            fingerprint,
            tuple(map(_compare, compares)),
            tuple(map(_operation, then)),
            tuple(map(_operation, otherwise)),
            positions[0],
            positions[1],
            bool(bounded),
        )
    transaction = Transaction(request, attempt, fingerprint, participants, prepare)
    transaction.positions, transaction.writes = positions, writes
    transaction.vote = None if vote is None else _vote(vote)
    transaction.forget = forget
    return transaction, ticket


def without_words(packed: bytes) -> bytes:
    """A transaction's record with the texts of refusals left out."""
    *fields, vote, forget, ticket = _unpacked(packed)
    if vote is not None:
        parts = Vote(*vote)
        wordless = parts._replace(
            then=_wordless(parts.then),
            otherwise=_wordless(parts.otherwise),
            refusal=_wordless(parts.refusal),
        )
        vote = wordless[: len(vote)]
    return _packed((*fields, vote, forget, ticket))


def _wordless(fields: Any) -> Any:
    return fields[:1] if fields and not isinstance(fields[0], tuple) else fields


def unpack_parked(packed: bytes) -> tuple[Parked, int]:
    kind, fields, fingerprint, order, ticket = _unpacked(packed)
    command: Command
    if kind == 0:
        command = Put(fields[0], fields[1], RequestId(*fields[2]))
    elif kind == 1:
        command = Delete(fields[0], RequestId(*fields[1]))
    else:
        command = Transact(
            RequestId(*fields[0]),
            tuple(map(_compare, fields[1])),
            tuple(map(_operation, fields[2])),
            tuple(map(_operation, fields[3])),
        )
    return Parked(command, fingerprint, order), ticket


def _compare(fields: tuple[Any, ...]) -> Compare:
    key, operator, target, operand = fields
    return Compare(key, Operator(operator), Target(target), operand)


def _operation(fields: tuple[Any, ...]) -> Operation:
    kind, *rest = fields
    return Operation(OperationKind(kind), *rest)


def _vote(fields: tuple[Any, ...]) -> Vote:
    vote = Vote(*fields)
    return vote._replace(
        kind=VoteKind(vote.kind),
        then=_results(vote.then),
        otherwise=_results(vote.otherwise),
        refusal=None if vote.refusal is None else _refused(vote.refusal),
        rival=None if vote.rival is None else TransactionId(*vote.rival),
        outcome=None if vote.outcome is None else Outcome(vote.outcome),
    )


def _results(fields: Any) -> tuple[OperationResult, ...] | Refused:
    """A Refused is told from results by its first part, which is a number."""
    if fields and not isinstance(fields[0], tuple):
        return _refused(fields)
    return tuple(OperationResult(*result) for result in fields)


def _refused(fields: Any) -> Refused:
    return Refused(Code(fields[0]), fields[1])
