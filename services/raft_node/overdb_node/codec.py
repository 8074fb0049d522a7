"""Protobuf <-> the values of the pure rooms. The one file of a replica that knows both."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from google.protobuf.message import DecodeError

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_node import transaction_codec
from overdb_node.machine.settings import BYTE_LIMITS, LIMITS, MachineSettings
from overdb_node.machine.types import (
    Acknowledged,
    Advance,
    Advanced,
    Behind,
    Code,
    Command,
    CompareReplicas,
    Configure,
    Delete,
    Deleted,
    OperationResult,
    Put,
    ReadRefusal,
    Refused,
    RequestId,
    Result,
    SetTime,
    Transacted,
    Unread,
    Untimely,
    Vote,
    Waits,
    Written,
    WrongGroup,
)
from overdb_node.raft.types import Configuration, Member, Snapshot
from overdb_node.storage.data import ScanPage
from overdb_node.transaction_codec import decode_id, decode_puts, decode_transact, fill_error

_new = tuple.__new__  # of a NamedTuple, without the call that its class puts before it
_UNREADABLE = Refused(Code.INVALID_ARGUMENT, "the command cannot be read by this version")

# --- log entries -------------------------------------------------------------------------------------


def encode_envelope(stamp: int, commands: bytes) -> bytes:
    """An entry's payload: the leader's stamp (microseconds) and the router's commands as they came."""
    return log_pb2.Envelope(stamp=stamp, commands=commands).SerializeToString()


def decode_envelope(payload: bytes) -> tuple[int, list[Command | Refused]]:
    """The stamp and the commands of an entry; what cannot be read becomes the Refused it is answered with.

    Never raises: a committed entry must be applied, whatever is in it.
    """
    try:
        envelope = log_pb2.Envelope.FromString(payload)
    except DecodeError:
        return 0, [_UNREADABLE]
    return envelope.stamp, decode_commands(envelope.commands)


def decode_commands(commands: bytes) -> list[Command | Refused]:
    """The commands of a message; what cannot be read becomes the Refused that it is answered with."""
    try:
        parsed = log_pb2.Commands.FromString(commands)
    except DecodeError:
        return [_UNREADABLE]
    return [
        _decode_put(command.put) if command.HasField("put") else _decode_command(command)
        for command in parsed.commands
    ]


def _decode_put(put: kv_pb2.PutRequest) -> Put:
    wire = put.id
    request = (
        wire.client_id,
        wire.request_number,
        wire.started_at,
        wire.acknowledged_below,
    )
    return _new(Put, (put.key, put.value, _new(RequestId, request)))


def _decode_command(command: log_pb2.Command) -> Command | Refused:
    kind = command.WhichOneof("command")
    if kind == "delete":
        return Delete(command.delete.key, decode_id(command.delete.id))
    if kind == "transact":
        return decode_puts(command.transact) or decode_transact(command.transact)
    if kind == "advance":
        return Advance(command.advance.version)
    if kind == "compare":
        return CompareReplicas()
    if kind == "set_time":
        return SetTime()
    if kind == "configure":
        limits = tuple(getattr(command.configure, name) for name in LIMITS)
        byte_limits = tuple(getattr(command.configure, name) for name in BYTE_LIMITS)
        return Configure(limits, command.configure.level, byte_limits if any(byte_limits) else ())
    return transaction_codec.decode(command, kind) or _UNREADABLE


def encode_limits(settings: MachineSettings, level: int = 0) -> bytes:
    """Commands that put the limits of the state machine into the log, and raise its level."""
    limits = log_pb2.Configure(**dict(zip(LIMITS, settings.limits, strict=True)), level=level)
    for name, value in zip(BYTE_LIMITS, settings.byte_limits, strict=True):
        setattr(limits, name, value)
    return log_pb2.Commands(commands=[log_pb2.Command(configure=limits)]).SerializeToString()


SET_TIME = log_pb2.Commands(
    commands=[log_pb2.Command(set_time=log_pb2.SetTime())]
).SerializeToString()


def takes_part(commands: bytes) -> bool:
    """Returns whether any of these commands belongs to a transaction over several groups."""
    try:
        parsed = log_pb2.Commands.FromString(commands)
    except DecodeError:
        return False
    return any(command.WhichOneof("command") in _TAKE_PART for command in parsed.commands)


_TAKE_PART = frozenset(("prepare", "resolve", "inquire", "forget"))


class Need(IntEnum):
    """What a command needs of a disk (PROTOCOL 1.4)."""

    UPKEEP = (
        0  # finishes transactions, moves clocks, compares, or only reads: other groups wait for it
    )
    FREES = 1  # deletes: a tombstone now, room later
    STORES = 2  # a value


def need_of(commands: bytes) -> Need:
    """Returns the most that any of these commands needs. What this program does not know stores."""
    try:
        parsed = log_pb2.Commands.FromString(commands)
    except DecodeError:
        return Need.STORES
    return max(map(_need, parsed.commands), default=Need.UPKEEP)


def _need(command: log_pb2.Command) -> Need:
    kind = command.WhichOneof("command") or ""
    part: kv_pb2.TransactRequest | log_pb2.Prepare
    if kind == "transact":
        part = command.transact
    elif kind == "prepare":
        part = command.prepare
    else:
        return _NEEDS.get(kind, Need.STORES)
    operations = (operation.WhichOneof("operation") for operation in (*part.then, *part.otherwise))
    return max((_NEEDS.get(kind or "", Need.STORES) for kind in operations), default=Need.UPKEEP)


_UPKEEP = ("advance", "resolve", "inquire", "forget", "compare", "configure", "set_time", "get")
_NEEDS = {"delete": Need.FREES, **dict.fromkeys(_UPKEEP, Need.UPKEEP)}


# --- results -----------------------------------------------------------------------------------------


def fill_result(out: shard_pb2.Result, result: Result) -> None:
    """Fill an empty message with a command's result."""
    _FILLERS[type(result)](out, result)


def _fill_written(out: shard_pb2.Result, result: Written) -> None:
    out.put.version = result.version


def _fill_deleted(out: shard_pb2.Result, result: Deleted) -> None:
    out.delete.version = result.version
    out.delete.existed = result.existed


def _fill_transacted(out: shard_pb2.Result, result: Transacted) -> None:
    transact = out.transact
    transact.succeeded = result.succeeded
    transact.version = result.version
    results = result.results
    if len(results) > 1 and results.count(results[0]) == len(results):
        # As of puts, nearly always. One after the other, serialized, is what repeated messages are.
        same = kv_pb2.TransactResponse(results=[_operation_result(results[0])])
        transact.MergeFromString(same.SerializeToString() * len(results))
        return
    transact.results.extend(map(_operation_result, results))


def _operation_result(result: OperationResult) -> kv_pb2.OperationResult:
    return kv_pb2.OperationResult(found=result.found, value=result.value, version=result.version)


def _fill_refused(out: shard_pb2.Result, result: Refused) -> None:
    fill_error(out.error, result)


def _fill_wrong_group(out: shard_pb2.Result, result: WrongGroup) -> None:
    out.wrong_group.epoch = result.epoch


def _fill_advanced(out: shard_pb2.Result, result: Advanced) -> None:
    out.clock = result.clock


def _fill_vote(out: shard_pb2.Result, result: Vote) -> None:
    transaction_codec.fill_vote(out.vote, result)


def _fill_acknowledged(out: shard_pb2.Result, _: Acknowledged) -> None:
    out.acknowledged.SetInParent()


def _fill_pending(out: shard_pb2.Result, _: Waits | Unread) -> None:
    out.pending.SetInParent()


_FILLERS: dict[type, Callable[[shard_pb2.Result, Any], None]] = {
    Written: _fill_written,
    Deleted: _fill_deleted,
    Transacted: _fill_transacted,
    Refused: _fill_refused,
    Untimely: _fill_refused,
    WrongGroup: _fill_wrong_group,
    Advanced: _fill_advanced,
    Vote: _fill_vote,
    Acknowledged: _fill_acknowledged,
    Waits: _fill_pending,
    Unread: _fill_pending,
}


# --- reads -------------------------------------------------------------------------------------------


def fill_value(out: shard_pb2.Value, found: tuple[int, bytes | None] | None) -> None:
    """Fill an empty message with what the store has: (version, value or None), or nothing."""
    if found is not None and found[1] is not None:
        out.found = True
        out.version = found[0]
        out.value = found[1]


def fill_read_refusal(out: shard_pb2.Value, refusal: ReadRefusal) -> None:
    if isinstance(refusal, Behind):
        out.behind.clock = refusal.clock
    elif isinstance(refusal, WrongGroup):
        out.wrong_group.epoch = refusal.epoch
    else:
        fill_error(out.error, refusal)


def scan_page(page: ScanPage, version: int) -> shard_pb2.ScanPageResponse:
    """A page as it is answered. An empty page with ``more`` has seen nothing but deleted keys."""
    response = shard_pb2.ScanPageResponse(more=page.more, resume=page.resume, version=version)
    add = response.items.add
    for key, value, at in page.items:  # with keywords it costs twice as much
        item = add()
        item.key = key
        item.value = value
        item.version = at
    return response


def scan_refusal(refusal: Behind | Refused) -> shard_pb2.ScanPageResponse:
    if isinstance(refusal, Behind):
        return shard_pb2.ScanPageResponse(behind=shard_pb2.Behind(clock=refusal.clock))
    return shard_pb2.ScanPageResponse(
        error=kv_pb2.Error(code=refusal.code, message=refusal.message)
    )


# --- the first element and the members -----------------------------------------------------------------


def encode_configuration(configuration: Configuration) -> bytes:
    """A CONFIGURATION entry's payload."""
    return _configuration(configuration).SerializeToString()


def decode_configuration(payload: bytes) -> Configuration:
    """What a CONFIGURATION entry says. Raises DecodeError."""
    return _decode_configuration(log_pb2.Configuration.FromString(payload))


def _configuration(configuration: Configuration) -> log_pb2.Configuration:
    return log_pb2.Configuration(
        replicas=[
            log_pb2.Replica(
                id=member.replica_id,
                address=member.address,
                voter=member.voter,
                incarnation=member.incarnation,
            )
            for member in configuration.members
        ],
        retired=configuration.retired,
    )


def _decode_configuration(wire: log_pb2.Configuration) -> Configuration:
    members = tuple(Member(r.id, r.address, r.voter, r.incarnation) for r in wire.replicas)
    return Configuration(members, tuple(wire.retired))


def encode_snapshot(snapshot: Snapshot) -> log_pb2.SnapshotElement:
    return log_pb2.SnapshotElement(
        index=snapshot.index,
        term=snapshot.term,
        clock=snapshot.clock,
        members=_configuration(snapshot.configuration),
        checkpoint=snapshot.checkpoint,
        size=snapshot.size,
    )


def decode_snapshot(wire: log_pb2.SnapshotElement) -> Snapshot:
    first = _decode_configuration(wire.members)
    return Snapshot(
        wire.index,
        wire.term,
        wire.clock,
        first.members,
        wire.checkpoint,
        wire.size,
        first.retired,
    )
