"""What the listener for direct clients takes; everything else is refused (PROTOCOL 2.11; FAULTS 87)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from overdb.internal.v1 import log_pb2, raft_pb2, raft_pb2_grpc, shard_pb2, shard_pb2_grpc
from overdb.v1 import kv_pb2
from overdb_node import direct
from overdb_node.transport.shard_service import Answers

CLIENT_KINDS = {"put", "delete", "transact"}
KINDS = [one.name for one in log_pb2.Command.DESCRIPTOR.fields]


@dataclass
class Backend:
    """Answers everything that reaches it, and notes what did."""

    taken: list[shard_pb2.ShardRequest] = field(default_factory=list)

    def exchange(self, request: shard_pb2.ShardRequest, answers: Answers) -> None:
        self.taken.append(request)
        answers.send(shard_pb2.ShardResponse(sequence=request.sequence))

    async def describe(self, request: shard_pb2.DescribeRequest) -> shard_pb2.DescribeResponse:
        assert not request.linearizable
        return shard_pb2.DescribeResponse(
            cluster="c",
            group=request.group,
            role="leader",
            slots=b"s",
            incarnation=77,
            founders={1: 77},
            members=[shard_pb2.Member(id=1, incarnation=77)],
        )


class Replica:
    """What of a replica the listener uses."""

    direct_listen = ""
    settings = SimpleNamespace(direct_listen="127.0.0.1:0")

    def refuse(self, sequence: int, answers: Answers, reason: Any, message: str = "") -> None:
        failure = shard_pb2.Failure(reason=reason, message=message)
        answers.send(shard_pb2.ShardResponse(sequence=sequence, failure=failure))


class Served:
    """The listener, with a channel to it."""

    def __init__(self) -> None:
        self.backend = Backend()
        self.replica = Replica()

    async def __aenter__(self) -> Served:
        listener = await direct.serve(self.backend, self.replica)  # type: ignore[arg-type]
        assert listener is not None
        self.server, self.service = listener
        self.channel = grpc.aio.insecure_channel(self.replica.direct_listen)
        self.stub: shard_pb2_grpc.ShardAsyncStub = shard_pb2_grpc.ShardStub(self.channel)  # type: ignore[assignment]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        self.service.close()
        await self.server.stop(None)

    async def exchange(self, *requests: shard_pb2.ShardRequest) -> list[shard_pb2.ShardResponse]:
        stream = self.stub.Exchange()
        for request in requests:
            await stream.write(request)
        answers = [await stream.read() for _ in requests]
        stream.cancel()
        return answers  # type: ignore[return-value]


def commands(*kinds: str) -> bytes:
    made = log_pb2.Commands()
    for kind in kinds:
        getattr(made.commands.add(), kind).SetInParent()
    return made.SerializeToString()


def request(sequence: int, **fields: Any) -> shard_pb2.ShardRequest:
    return shard_pb2.ShardRequest(sequence=sequence, **fields)


def test_every_kind_of_command_is_taken_or_refused_with_its_name() -> None:
    async def scenario() -> None:
        async with Served() as served:
            asked = [request(i, commands=commands("put", kind)) for i, kind in enumerate(KINDS)]
            answers = await served.exchange(*asked)
            for kind, answer in zip(KINDS, answers, strict=True):
                assert answer.HasField("failure") == (kind not in CLIENT_KINDS), kind
                if kind not in CLIENT_KINDS:
                    assert answer.failure.reason == shard_pb2.Failure.REASON_INVALID
                    assert kind in answer.failure.message
                    assert "ask a router" in answer.failure.message
            assert len(served.backend.taken) == len(CLIENT_KINDS)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff",
        commands("put")[:-1],
        commands("put") + b"\x12\x00",  # a field that Commands does not have
        b"\x0a\x02\xf8\x01",  # a Command of an unknown kind
        b"\x0a\x04\x0a\x00\x22\x00",  # a put, and an Advance in the same Command: the last one counts
        b"\x0a\x00",  # a Command of no kind
    ],
)
def test_bytes_that_are_no_commands_of_clients_are_refused(raw: bytes) -> None:
    async def scenario() -> None:
        async with Served() as served:
            (answer,) = await served.exchange(request(1, commands=raw))
            if raw == b"\x0a\x00":  # applied, it is answered as unreadable: it does nothing
                return
            assert answer.failure.reason == shard_pb2.Failure.REASON_INVALID
            assert not served.backend.taken

    asyncio.run(scenario())


def test_reads_of_keys_are_taken_and_reads_of_sets_and_ids_are_not() -> None:
    async def scenario() -> None:
        async with Served() as served:
            key = shard_pb2.Read(key=b"a")
            lookup = shard_pb2.Read(lookup=kv_pb2.RequestId(request_number=1))
            whole = shard_pb2.Read(set=shard_pb2.ReadSet(keys=[b"a"]))
            answers = await served.exchange(
                request(1, reads=shard_pb2.Reads(reads=[key, key])),
                request(2, reads=shard_pb2.Reads(reads=[key, lookup])),
                request(3, reads=shard_pb2.Reads(reads=[whole])),
                request(4, reads=shard_pb2.Reads(reads=[key] * 20_000)),
            )
            assert [one.HasField("failure") for one in answers] == [False, True, True, True]
            assert "the limit is" in answers[3].failure.message
            assert len(served.backend.taken) == 1

    asyncio.run(scenario())


def test_too_many_commands_in_one_message_are_refused() -> None:
    async def scenario() -> None:
        async with Served() as served:
            many = commands(*["put"] * 20_000)
            (answer,) = await served.exchange(request(1, commands=many))
            assert "20000 commands, the limit is" in answer.failure.message

    asyncio.run(scenario())


async def _one_packet() -> AsyncIterator[raft_pb2.Packet]:
    yield raft_pb2.Packet(cluster="overdb")


def test_every_other_call_ends_with_permission_denied() -> None:
    async def refused(call: Any, method: str) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert method in (caught.value.details() or "")
        assert "ask a router" in (caught.value.details() or "")

    async def scenario() -> None:
        async with Served() as served:
            service = shard_pb2.DESCRIPTOR.services_by_name["Shard"]
            for method in service.methods:
                if method.name in {"Exchange", "Describe"}:
                    continue
                empty = getattr(shard_pb2, method.input_type.name)()
                await refused(getattr(served.stub, method.name)(empty), method.name)
            raft: Any = raft_pb2_grpc.RaftStub(served.channel)
            await refused(raft.Deliver(_one_packet()).read(), "Deliver")

    asyncio.run(scenario())


def test_describe_names_the_leader_and_the_slots_and_no_number_that_members_are_known_by() -> None:
    async def scenario() -> None:
        async with Served() as served:
            told = await served.stub.Describe(shard_pb2.DescribeRequest(group=3, linearizable=True))
            assert (told.cluster, told.group, told.role, told.slots) == ("c", 3, "leader", b"s")
            assert not told.incarnation
            assert not told.founders
            assert not told.members

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("listen", "own", "told"),
    [
        ("", "node:7410", ""),
        ("0.0.0.0:7420", "node:7410", "node:7420"),
        ("[::]:7420", "[::1]:7410", "[::1]:7420"),
        ("0.0.0.0:7420", "", ""),  # one that joins, before it knows where it is reached
        ("10.0.0.1:7420", "node:7410", "10.0.0.1:7420"),
    ],
)
def test_the_address_that_clients_are_told(listen: str, own: str, told: str) -> None:
    assert direct.address_told(listen, own) == told
