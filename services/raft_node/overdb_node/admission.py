"""Looks at requests before they are proposed: who may send which commands, and how many (PROTOCOL 2.11).

Nothing that is refused here is in the log. What is let in is still bounded when it is applied
(``machine.bounds``).
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from overdb.internal.v1 import log_pb2, shard_pb2

# Routers and clients put at most 4,096 requests into one message. Heartbeats wait while one is applied.
COMMANDS_MAX = 16_384
READS_MAX = 16_384
SET_KEYS_MAX = 65_536  # as many as a transaction may have operations
# A commit timestamp may be so far ahead of this group's clock, where somebody else says that it is one.
RESOLVE_AHEAD_US_MAX = 3_600_000_000

_INTERNAL = frozenset(("configure", "compare", "set_time"))  # leaders propose these themselves
_CLIENT_KINDS = "put, delete, transact and get"


class Refused(Exception):  # noqa: N818  # it is an answer
    """The message is not taken; says why, in one line."""


def count_of_clients(commands: bytes) -> int | None:
    """Return the number of commands when all are puts, deletes and transactions; else None.

    Costs a tenth of what decoding costs: nothing is looked at one by one. Fields of other kinds are dropped,
    and what is left is shorter then.
    """
    try:
        found = log_pb2.ClientCommands.FromString(commands)
    except DecodeError:
        return None
    found.DiscardUnknownFields()
    return len(found.commands) if found.ByteSize() == len(commands) else None


def of_client(request: shard_pb2.ShardRequest) -> None:
    """Raises Refused for what a direct client must not ask."""
    if request.commands:
        count = count_of_clients(request.commands)
        if count is None:
            kinds = sorted(_kinds(request.commands) - {"put", "delete", "transact"})
            raise Refused(
                f"{', '.join(kinds) or 'an unreadable command'}: not taken from clients, this address takes "
                f"{_CLIENT_KINDS} alone; ask a router for everything else"
            )
        _refuse_number(count, COMMANDS_MAX, "commands")
    reads = request.reads.reads
    _refuse_number(len(reads), READS_MAX, "reads")
    if not request.reads.plain and any(
        one.HasField("set") or one.HasField("lookup") for one in reads
    ):
        raise Refused(
            f"a read of a set or of an id: not taken from clients, this address takes {_CLIENT_KINDS} alone; "
            "ask a router for everything else"
        )


def of_router(request: shard_pb2.ShardRequest, clock: int) -> tuple[bytes, list[log_pb2.Resolve]]:
    """Return the commands to propose, and the outcomes that were taken out: their versions are too far ahead.

    The leader asks the other participants about those itself. A command that is taken out is answered as one
    that cannot be read; the others of its message are of other requests. Raises Refused for a whole message
    that no router sends.
    """
    commands = request.commands
    count = count_of_clients(commands)
    if count is not None:
        _refuse_number(count, COMMANDS_MAX, "commands")
        return commands, []
    try:
        parsed = log_pb2.Commands.FromString(commands)
    except DecodeError as error:
        raise Refused("the commands cannot be read") from error
    _refuse_number(len(parsed.commands), COMMANDS_MAX, "commands")
    taken_out = []
    latest = clock + RESOLVE_AHEAD_US_MAX
    for command in parsed.commands:
        kind = command.WhichOneof("command")
        if kind in _INTERNAL:
            raise Refused(f"{kind} is proposed by the group's leader alone, not taken from others")
        if kind == "resolve" and command.resolve.version > latest:
            outcome = log_pb2.Resolve()
            outcome.CopyFrom(command.resolve)
            taken_out.append(outcome)
            command.Clear()
    return (parsed.SerializeToString() if taken_out else commands), taken_out


def of_reads(reads: shard_pb2.Reads) -> None:
    """Raises Refused for more reads than a router or a client puts into a message."""
    _refuse_number(len(reads.reads), READS_MAX, "reads")
    if not reads.plain:
        keys = sum(len(one.set.keys) for one in reads.reads if one.HasField("set"))
        _refuse_number(keys, SET_KEYS_MAX, "keys in sets")


def _refuse_number(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise Refused(f"the message has {count} {what}, the limit is {limit}")


def _kinds(commands: bytes) -> set[str]:
    try:
        parsed = log_pb2.Commands.FromString(commands)
    except DecodeError:
        return set()
    return {command.WhichOneof("command") or "an unknown command" for command in parsed.commands}
