"""The values that the state machine works on. No protobuf here: ``codec.py`` beside the node converts."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class RequestId(NamedTuple):
    """Names a request for exactly-once execution (PROTOCOL 2.2, 2.10)."""

    client_id: bytes  # 16 bytes, UUIDv7
    request_number: int  # from 1
    started_at: int  # microseconds since the epoch by the client's clock
    acknowledged_below: int  # every number below this has its answer


class Put(NamedTuple):
    key: bytes
    value: bytes
    id: RequestId


class Delete(NamedTuple):
    key: bytes
    id: RequestId


class Operator(IntEnum):
    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    GREATER = 4


class Target(IntEnum):
    """What of a key is compared."""

    VALUE = 1
    VERSION = 2
    EXISTS = 3


class Compare(NamedTuple):
    key: bytes
    operator: Operator
    target: Target
    operand: bytes | int | bool  # bytes for VALUE, int for VERSION, bool for EXISTS


class OperationKind(IntEnum):
    GET = 1
    PUT = 2
    DELETE = 3
    ADD = 4


class Operation(NamedTuple):
    kind: OperationKind
    key: bytes
    value: bytes = b""  # of a PUT
    delta: int = 0  # of an ADD, signed 64 bits


class Transact(NamedTuple):
    id: RequestId
    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    otherwise: tuple[Operation, ...]


class Puts(NamedTuple):
    """A transaction of puts alone: no compares, nothing otherwise.

    What the Transact is that ``whole`` gives, in a form that costs little to make and to look through.
    ``keys`` and ``values`` have the same length, at least 1; an operation each.
    """

    id: RequestId
    keys: list[bytes]
    values: list[bytes]

    def whole(self) -> Transact:
        puts = zip(self.keys, self.values, strict=True)
        then = tuple(Operation(OperationKind.PUT, key, value) for key, value in puts)
        return Transact(self.id, (), then, ())


class Advance(NamedTuple):
    """Raise the clock to at least ``version`` (PROTOCOL 2.7)."""

    version: int


class TransactionId(NamedTuple):
    """Names a transaction over several groups, in all its copies and attempts (PROTOCOL 2.2)."""

    client_id: bytes
    request_number: int


class Prepare(NamedTuple):
    """This group's part of a transaction over several (PROTOCOL 2.3)."""

    id: RequestId
    attempt: int
    participants: tuple[int, ...]
    fingerprint: int  # of the whole transaction
    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    otherwise: tuple[Operation, ...]
    then_positions: tuple[int, ...] = ()  # of each operation in its branch of the whole
    otherwise_positions: tuple[int, ...] = ()
    bounded: bool = True  # the router knows the bound of what all participants read together


class Outcome(IntEnum):
    """What a transaction came to; with the commit timestamp it is all that a participant needs."""

    ABORTED = 0
    THEN = 1
    OTHERWISE = 2
    NONE = 3  # committed without effect: an operation of the branch cannot be carried out


class Resolve(NamedTuple):
    id: TransactionId
    attempt: int
    outcome: Outcome
    version: int  # commit timestamp


class Inquire(NamedTuple):
    """Ask for the vote, and see to it that there is one (PROTOCOL 2.5)."""

    id: RequestId
    attempt: int
    fingerprint: int
    participants: tuple[int, ...]


class Forget(NamedTuple):
    """Every participant has acknowledged the Resolve of this attempt (PROTOCOL 2.10)."""

    id: TransactionId
    attempt: int


class CompareReplicas(NamedTuple):
    """Every replica notes its checksums behind this entry; nothing else changes."""


class Configure(NamedTuple):
    """The limits from here on, in the order of ``settings.LIMITS``; the level if it is larger than before.

    ``byte_limits`` are in the order of ``settings.BYTE_LIMITS``, from level 1 on. 0 changes nothing.
    """

    limits: tuple[int, ...]
    level: int = 0
    byte_limits: tuple[int, ...] = ()


class SetTime(NamedTuple):
    """Set physical time back to the stamp of this command's own entry (PROTOCOL 2.1)."""


Command = (
    Put
    | Delete
    | Transact
    | Puts
    | Advance
    | Prepare
    | Resolve
    | Inquire
    | Forget
    | CompareReplicas
    | Configure
    | SetTime
)


class Code(IntEnum):
    """gRPC status codes that the state machine answers with."""

    INVALID_ARGUMENT = 3
    FAILED_PRECONDITION = 9
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    OUT_OF_RANGE = 11
    DATA_LOSS = 15


class Written(NamedTuple):
    """Result of a Put."""

    version: int


class Deleted(NamedTuple):
    version: int
    existed: bool


class OperationResult(NamedTuple):
    found: bool
    value: bytes
    version: int
    key: bytes = (
        b""  # in a result that is kept: the value is read again, from this key at ``version``
    )


class Transacted(NamedTuple):
    succeeded: bool
    results: tuple[OperationResult, ...]
    version: int


class Advanced(NamedTuple):
    clock: int


class Refused(NamedTuple):
    """The request did nothing. ``message`` names the thing and the limit."""

    code: Code
    message: str


class Untimely(Refused):
    """The id is of the wrong age: it has expired, or is too far ahead. Stored, it is an ordinary Refused.

    ``group_time_us``: physical time of the group, microseconds since the epoch.
    """

    group_time_us: int = 0

    @classmethod
    def at(cls, group_time_us: int, code: Code, message: str) -> Untimely:
        made = cls(code, message)
        made.group_time_us = group_time_us
        return made


class WrongGroup(NamedTuple):
    """A key's slot is not owned by this group; nothing was done."""

    epoch: int


class VoteKind(IntEnum):
    PREPARED = 1
    REFUSED = 2
    SUPERSEDED = 3  # a newer attempt is known here
    STALE = 4  # not a vote: the id is stale or expired here
    REUSED = 5  # not a vote for this request: the id belongs to another one
    WAITING = 6  # not a vote either: said only to who looks


class Vote(NamedTuple):
    """What a participant says of an attempt. Once stored, a PREPARED or a REFUSED never changes."""

    kind: VoteKind
    attempt: int
    holds: bool = False
    version: int = 0  # timestamp of the vote
    # Results of each branch, should it run, or why it cannot. Version 0: that of the commit.
    then: tuple[OperationResult, ...] | Refused = ()
    otherwise: tuple[OperationResult, ...] | Refused = ()
    refusal: Refused | None = None
    rival: TransactionId | None = None  # who was in the way
    key: bytes = b""  # where
    again: bool = False  # another attempt may go better
    outcome: Outcome | None = None
    commit_version: int = 0
    # From level 1 on, if the Prepare was ``bounded``: the sizes of the results of each branch, should it run.
    sized: bool = False
    then_answer_bytes: int = 0
    otherwise_answer_bytes: int = 0


class Acknowledged(NamedTuple):
    """Result of a Resolve, a Forget, a CompareReplicas or a Configure."""


class Token(NamedTuple):
    """Names the answer that a request waits for."""

    client_id: bytes
    request_number: int
    attempt: int  # 0 for a request inside this group


class Waits(NamedTuple):
    """The result follows, under this token, with an entry that sets the keys free (PROTOCOL 2.3, 2.6)."""

    token: Token


class Unread(NamedTuple):
    """A result whose values have to be read before it is answered (``Machine.read_again``)."""

    result: Transacted | Vote


Result = (
    Written
    | Deleted
    | Transacted
    | Advanced
    | Refused
    | WrongGroup
    | Vote
    | Acknowledged
    | Waits
    | Unread
)


class Behind(NamedTuple):
    """A version was asked for that this group's clock has not reached."""

    clock: int


ReadRefusal = Behind | Refused | WrongGroup


class Batch(NamedTuple):
    """What the host writes to disk as one, along with the applied index."""

    versions: list[tuple[bytes, int, bytes | None]]  # key, version, value or None for a tombstone
    records: list[tuple[bytes, bytes | None]]  # name, content or None to delete
