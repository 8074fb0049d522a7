"""What a stranger can send to the ports of a node, from a seed: garbage, forged packets, commands of others.

Only what must be survived without a broken promise. Who speaks in a member's name with the number of its
directory is that member to the others: nothing helps against that but authentication (PROTOCOL 1.5).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc

from overdb.ids import uuid7
from overdb.internal.v1 import log_pb2, raft_pb2, shard_pb2
from overdb.v1 import kv_pb2

STRANGER = 7_777
LEVEL = 1  # so that nobody is refused for its program alone
CALL_SECONDS_MAX = 1.0
PAUSE_SECONDS = 0.01  # between two calls
_EDGES = (0, 1, (1 << 32) - 1, 1 << 32, (1 << 62) + 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1)
_TOO_LATE = ((1 << 62) + 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1)  # terms that nobody comes to
_SHARD, _DELIVER = "/overdb.internal.v1.Shard/", "/overdb.internal.v1.Raft/Deliver"
_METHODS = [method.name for method in shard_pb2.DESCRIPTOR.services_by_name["Shard"].methods]
_BODIES = [field.name for field in raft_pb2.RaftMessage.DESCRIPTOR.oneofs[0].fields]
# What a stranger does, some of it more often; the last one is anything else.
_ACTS = (
    *("packet",) * 3,
    "noise",
    "direct noise",
    "shard noise",
    "direct commands",
    *("commands",) * 3,
)
_KINDS = ("resolve", "abort", "inquire", "forget", "configure", "compare", "")


@dataclass(frozen=True, slots=True)
class Target:
    """A node, as cluster.json describes it."""

    cluster: str
    node_id: int
    group: int
    members: tuple[int, ...]  # of its group
    address: str
    direct_address: str = ""


class _Deck:
    """Deals its cards in an order of its own in each round: a short run has all kinds too."""

    def __init__(self, cards: Sequence[str], random: Random) -> None:
        self._cards = cards
        self._random = random
        self._left: list[str] = []

    def deal(self) -> str:
        if not self._left:
            self._left = self._random.sample(self._cards, len(self._cards))
        return self._left.pop()


class Stranger:
    """Sends to one node until ``stopping`` is set, and each of ``opening`` however soon that is.

    Not to a node that lets a call of it time out: each of the others would take as long.

    ``answered``: calls with an answer, of those ``sent``.
    """

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._random = Random(seed)
        self._acts = _Deck(_ACTS, self._random)
        self._kinds = _Deck(_KINDS, self._random)
        self._numbers: dict[int, int] = {}  # of directories, by the id of their replica
        self.stopping = False
        self.sent = 0
        self.answered = 0

    async def run(self) -> None:
        target = self._target
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(target.address, options) as node,
            grpc.aio.insecure_channel(target.direct_address or target.address, options) as direct,
        ):
            await self._learn(node)
            for method, content in self.opening():
                in_time = await self._call(node, method, content)
                if self.stopping and not in_time:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
            # Not by cancelling its task: gRPC may swallow that along with the end of a call.
            while not self.stopping:
                kind = self._acts.deal()
                if kind == "packet":
                    await self._call(node, _DELIVER, self._packet())
                elif kind == "noise":
                    await self._call(node, _DELIVER, os.urandom(30))
                elif kind == "direct noise":
                    await self._call(direct, _SHARD + self._random.choice(_METHODS), os.urandom(30))
                elif kind == "shard noise":
                    await self._call(node, _SHARD + self._random.choice(_METHODS), os.urandom(30))
                elif kind == "direct commands":
                    await self._call(direct, f"{_SHARD}Exchange", self._commands(20))
                else:
                    await self._call(node, f"{_SHARD}Submit", self._commands(5))
                await asyncio.sleep(PAUSE_SECONDS)

    def opening(self) -> list[tuple[str, bytes]]:
        """Each kind of command in a message of its own, and a packet of a member's: method and content.

        What is drawn later may all be refused for something else in the same message.
        """
        submit = f"{_SHARD}Submit"
        opening = [(submit, self._request([self._command(kind)])) for kind in _KINDS]
        target = self._target
        sender = next((one for one in target.members if one != target.node_id), STRANGER)
        packet = self._packet_from(sender, target.cluster)
        packet.messages.add(term=self._random.choice(_TOO_LATE)).append.SetInParent()
        return [*opening, (_DELIVER, packet.SerializeToString())]

    async def _learn(self, channel: grpc.aio.Channel) -> None:
        """The numbers of the members' directories: the port of a node tells them."""
        describe: Any = channel.unary_unary(f"{_SHARD}Describe")
        try:
            answer = await describe(b"", timeout=CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError:
            return
        self._numbers = dict(shard_pb2.DescribeResponse.FromString(answer).founders)

    async def _call(self, channel: grpc.aio.Channel, path: str, content: bytes) -> bool:
        """Send one message, await the first thing that comes back; return false if the time was up."""
        self.sent += 1
        call: Any = channel.stream_stream(path)()
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await call.write(content)
                await call.done_writing()
                await call.read()
                self.answered += 1
        except grpc.aio.AioRpcError:
            self.answered += 1  # a status is an answer
        except asyncio.InvalidStateError:
            pass
        except TimeoutError:
            return False
        finally:
            call.cancel()
        return True

    # --- Raft ---------------------------------------------------------------------------------------

    def _packet(self) -> bytes:
        random, target = self._random, self._target
        member = random.random() < 0.5
        cluster = target.cluster if random.random() < 0.9 else "another\n" * 9
        others = [one for one in target.members if one != target.node_id] or [STRANGER]
        packet = self._packet_from(random.choice(others) if member else STRANGER, cluster)
        if (
            random.random() < 0.3
        ):  # a later start of that replica, which would make an old copy of it
            packet.start_number, packet.start_id = 1 << 40, random.getrandbits(64)
        for _ in range(random.choice((1, 1, 3, 1000))):
            message = packet.messages.add(term=random.choice(_TOO_LATE if member else _EDGES))
            body = getattr(message, random.choice(_BODIES))
            body.SetInParent()
            for field in body.DESCRIPTOR.fields:
                if field.type == field.TYPE_UINT64 and not field.is_repeated:
                    setattr(body, field.name, random.choice(_EDGES))
            if message.HasField("vote_request"):
                message.vote_request.transfer = True
            elif message.HasField("append"):
                message.append.entries.add(term=1, kind=random.choice((0, 2, 3)), payload=b"\xff")
        return packet.SerializeToString()

    def _packet_from(self, sender: int, cluster: str) -> raft_pb2.Packet:
        """Without messages. Of a member it has the number of that member's directory, if it is known."""
        target = self._target
        packet = raft_pb2.Packet(
            cluster=cluster,
            group=target.group,
            to=target.node_id,
            incarnation=self._numbers.get(sender, self._random.getrandbits(64)),
            address="192.0.2.1:7410",
            level=LEVEL,
        )
        setattr(packet, "from", sender)
        return packet

    # --- commands -----------------------------------------------------------------------------------

    def _commands(self, most: int) -> bytes:
        random = self._random
        commands = [self._command(self._kinds.deal()) for _ in range(random.randint(1, most))]
        return self._request(commands, b"\n\x00" * 100_000 if random.random() < 0.1 else b"")

    def _request(self, commands: Sequence[log_pb2.Command], instead: bytes = b"") -> bytes:
        """A message of these commands, or of other bytes in their place."""
        payload = instead or log_pb2.Commands(commands=commands).SerializeToString()
        return shard_pb2.ShardRequest(
            sequence=1, group=self._target.group, commands=payload, count=len(commands), level=LEVEL
        ).SerializeToString()

    def _command(self, kind: str) -> log_pb2.Command:
        random, command = self._random, log_pb2.Command()
        if kind == "resolve":
            command.resolve.id.CopyFrom(self._id())
            command.resolve.branch = log_pb2.BRANCH_THEN
            command.resolve.version = random.choice(((1 << 63) - 1, (1 << 64) - 2, (1 << 64) - 1))
        elif kind == "abort":
            command.resolve.id.CopyFrom(self._id())
            command.resolve.attempt = random.choice((0, (1 << 32) - 1))
        elif kind == "inquire":
            command.inquire.id.CopyFrom(self._id())
            command.inquire.participants.extend(random.choice(([0, 1], [1, 0], [9999])))
        elif kind == "forget":
            command.forget.id.CopyFrom(self._id())
        elif kind == "configure":
            for field in command.configure.DESCRIPTOR.fields:
                setattr(command.configure, field.name, 1)
        elif kind == "compare":
            command.compare.SetInParent()
        return command

    def _id(self) -> kv_pb2.RequestId:
        random = self._random
        now = int(time.time() * 1000)
        at = random.choice((now, 0, now + 10**8, (1 << 48) - 1))
        client_id = random.choice((uuid7(at, random.randbytes(10)), b"", b"\xff" * 9))
        return kv_pb2.RequestId(
            client_id=client_id,
            request_number=random.choice(_EDGES),
            started_at=random.choice(_EDGES),
            acknowledged_below=random.choice(_EDGES),
        )
