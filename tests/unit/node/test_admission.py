"""What a leader takes from routers and other leaders (PROTOCOL 2.11; FAULTS 87)."""

from __future__ import annotations

import pytest

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_node import admission

CLOCK = 1_760_000_000_000_000
HOUR = 3_600_000_000


def request(*commands: log_pb2.Command) -> shard_pb2.ShardRequest:
    payload = log_pb2.Commands(commands=commands).SerializeToString()
    return shard_pb2.ShardRequest(commands=payload, count=len(commands))


def command(kind: str) -> log_pb2.Command:
    made = log_pb2.Command()
    getattr(made, kind).SetInParent()
    return made


def resolve(version: int) -> log_pb2.Command:
    return log_pb2.Command(resolve=log_pb2.Resolve(version=version))


@pytest.mark.parametrize("kind", sorted(admission._INTERNAL))
def test_what_leaders_propose_themselves_is_taken_from_nobody(kind: str) -> None:
    if kind not in log_pb2.Command.DESCRIPTOR.fields_by_name:
        pytest.skip("not a command of this program")
    with pytest.raises(admission.Refused, match=f"{kind} is proposed by the group's leader alone"):
        admission.of_router(request(command("put"), command(kind)), CLOCK)


def test_every_other_command_is_taken_as_it_came() -> None:
    kinds = set(log_pb2.Command.DESCRIPTOR.fields_by_name) - admission._INTERNAL
    asked = request(*map(command, sorted(kinds)))
    assert admission.of_router(asked, CLOCK) == (asked.commands, [])


def test_an_outcome_of_more_than_an_hour_ahead_is_taken_out_and_the_rest_is_kept() -> None:
    taken, out = admission.of_router(
        request(
            command("put"), resolve(CLOCK + HOUR), resolve(CLOCK + HOUR + 1), command("forget")
        ),
        CLOCK,
    )
    kinds = [one.WhichOneof("command") for one in log_pb2.Commands.FromString(taken).commands]
    assert kinds == ["put", "resolve", None, "forget"]
    assert [outcome.version for outcome in out] == [CLOCK + HOUR + 1]


@pytest.mark.parametrize("kind", ["put", "resolve"])
def test_there_is_a_limit_to_the_commands_of_a_message(kind: str) -> None:
    most = [command(kind)] * admission.COMMANDS_MAX
    assert admission.of_router(request(*most), CLOCK)[1] == []
    with pytest.raises(admission.Refused, match="16385 commands, the limit is 16384"):
        admission.of_router(request(*most, command(kind)), CLOCK)


def test_commands_that_cannot_be_read_are_refused_before_they_are_in_the_log() -> None:
    with pytest.raises(admission.Refused, match="cannot be read"):
        admission.of_router(shard_pb2.ShardRequest(commands=b"\xff\xff"), CLOCK)


def test_there_is_a_limit_to_the_keys_of_sets() -> None:
    keys = [b"a"] * (admission.SET_KEYS_MAX + 1)
    reads = shard_pb2.Reads(reads=[shard_pb2.Read(set=shard_pb2.ReadSet(keys=keys))])
    with pytest.raises(admission.Refused, match="keys in sets, the limit is"):
        admission.of_reads(reads)
