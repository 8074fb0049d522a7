"""What a stranger sends is drawn from a seed, and holds nothing that only a member could say (FAULTS 87)."""

from __future__ import annotations

import asyncio

import pytest

from overdb.internal.v1 import log_pb2, raft_pb2, shard_pb2
from overdb_torture.hostile import STRANGER, Stranger, Target

TARGET = Target("overdb", 2, 1, (1, 2, 3), "127.0.0.1:1")
TERM_MAX = 1 << 62


def stranger(seed: int) -> Stranger:
    return Stranger(TARGET, seed)


def test_the_same_seed_sends_the_same_packets() -> None:
    first, again, other = stranger(1), stranger(1), stranger(2)
    packets = [first._packet() for _ in range(20)]
    assert packets == [again._packet() for _ in range(20)]
    assert packets != [other._packet() for _ in range(20)]


def test_in_a_member_s_name_only_terms_are_said_that_nobody_comes_to() -> None:
    one, senders = stranger(3), set()
    for _ in range(300):
        packet = raft_pb2.Packet.FromString(one._packet())
        sender = getattr(packet, "from")
        senders.add(sender)
        assert sender != TARGET.node_id
        if sender != STRANGER:
            assert all(message.term > TERM_MAX for message in packet.messages)
    assert senders == {1, 3, STRANGER}


def test_no_command_writes_locks_or_decides_anything() -> None:
    """They are all of ids that nobody has, or refused: the histories of the load are as before."""
    one, kinds = stranger(4), set()
    for _ in range(200):
        request = shard_pb2.ShardRequest.FromString(one._commands(5))
        for command in log_pb2.Commands.FromString(request.commands).commands:
            kinds.add(command.WhichOneof("command"))
    assert kinds == {"resolve", "inquire", "forget", "configure", "compare", None}


def test_each_kind_of_command_is_sent_alone_at_first_whatever_the_seed() -> None:
    """In a message with others it may be refused for one of them: a short run must not depend on the draw."""
    for seed in range(50):
        *requests, (method, content) = stranger(seed).opening()
        kinds = []
        for path, request in requests:
            assert path.endswith("/Submit")
            (command,) = _commands_of(request)
            kinds.append(command.WhichOneof("command"))
        assert set(kinds) == {"resolve", "inquire", "forget", "configure", "compare", None}
        assert any(
            command.resolve.version > TERM_MAX
            for _, request in requests
            for command in _commands_of(request)
        )
        assert method.endswith("/Deliver")
        packet = raft_pb2.Packet.FromString(content)
        assert (packet.cluster, getattr(packet, "from") in TARGET.members) == ("overdb", True)
        assert [message.term > TERM_MAX for message in packet.messages] == [True]


@pytest.mark.parametrize("in_time", [True, False])
def test_one_that_is_stopped_at_once_has_sent_its_opening_unless_the_node_is_dead(
    monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    one, sent = stranger(5), []

    async def call(_: object, path: str, content: bytes) -> bool:
        sent.append((path, content))
        return in_time

    monkeypatch.setattr(one, "_call", call)
    one.stopping = True
    asyncio.run(one.run())
    opening = [path for path, _ in stranger(5).opening()]
    assert [path for path, _ in sent] == (opening if in_time else opening[:1])


def _commands_of(request: bytes) -> list[log_pb2.Command]:
    parsed = shard_pb2.ShardRequest.FromString(request)
    return list(log_pb2.Commands.FromString(parsed.commands).commands)
