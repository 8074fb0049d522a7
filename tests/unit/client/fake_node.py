"""A leader in this process, over the store of a fake router: it can refuse, hang, drop its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from overdb.internal.v1 import log_pb2, shard_pb2, shard_pb2_grpc
from overdb.sharding import founding_slots
from overdb.v1 import cluster_pb2
from tests.unit.client.fake_router import DropStreamError, FakeRouter
from tests.unit.client.store import Entry, Store

Rule = Callable[[shard_pb2.ShardRequest], shard_pb2.ShardResponse | None]


class FakeNode(shard_pb2_grpc.ShardServicer):
    """Leads one group. ``rule`` decides what becomes of each message; None: no answer."""

    def __init__(self, store: Store, group: int = 0, groups: int = 1) -> None:
        self.store = store
        self.group = group
        self.cluster = "fake"
        self.role = "leader"
        self.slots = founding_slots(group, groups)
        self.rule: Rule = self.serve
        self.shortens = True  # answers plain reads by contents; an older program does not
        self.commands: list[log_pb2.Command] = []
        self.reads: list[bytes] = []
        self.messages: list[int] = []  # requests in each
        self.descriptions = 0
        self.awake = asyncio.Event()  # cleared: takes messages in and answers none
        self.awake.set()
        self.arrived = asyncio.Condition()
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeNode:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        shard_pb2_grpc.add_ShardServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._server = server
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self._server.stop(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on what arrived holds."""
        async with self.arrived:
            await self.arrived.wait_for(condition)

    async def Describe(  # noqa: N802
        self, request: shard_pb2.DescribeRequest, _context: Any
    ) -> shard_pb2.DescribeResponse:
        self.descriptions += 1
        async with self.arrived:
            self.arrived.notify_all()
        return shard_pb2.DescribeResponse(
            cluster=self.cluster, group=self.group, role=self.role, slots=self.slots
        )

    async def Exchange(  # noqa: N802
        self, request_iterator: AsyncIterator[shard_pb2.ShardRequest], context: Any
    ) -> AsyncIterator[shard_pb2.ShardResponse]:
        async for request in request_iterator:
            commands = log_pb2.Commands.FromString(request.commands).commands
            self.commands.extend(commands)
            self.reads.extend(read.key for read in request.reads.reads)
            self.messages.append(len(commands) + len(request.reads.reads))
            async with self.arrived:
                self.arrived.notify_all()
            await self.awake.wait()
            try:
                response = self.rule(request)
            except DropStreamError:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped by the test")
            if response is not None:
                yield response

    async def _refuse(self, _request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the client library uses Exchange")

    Submit = OpenTransactions = ScanPage = Transfer = _refuse  # type: ignore[assignment]
    ChangeMembers = Checksums = RepairTime = _refuse  # type: ignore[assignment]

    def serve(self, request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse:
        """Answer as a leader does where nothing is in the way."""
        response = shard_pb2.ShardResponse(sequence=request.sequence)
        for read in request.reads.reads:
            found = self.store.values.get(read.key)
            value = response.values.add(found=found is not None)
            if found is not None:
                value.value, value.version = found
        if request.reads.plain and self.shortens:
            response.contents.extend(value.value for value in response.values)
            response.content_versions.extend(value.version for value in response.values)
            del response.values[:]
        commands = log_pb2.Commands.FromString(request.commands).commands
        results = [self.run(command) for command in commands]
        if results and request.compact and all(result.HasField("put") for result in results):
            response.versions.extend(result.put.version for result in results)
        else:
            response.results.extend(results)
        return response

    def run(self, command: log_pb2.Command) -> shard_pb2.Result:
        """Run one command of a message, or find what was stored under its id."""
        kind = command.WhichOneof("command")
        assert kind is not None
        entry = Entry()
        getattr(entry, kind).CopyFrom(getattr(command, kind))
        answer = self.store.answer(entry)
        result = shard_pb2.Result()
        answered = answer.WhichOneof("response")
        assert answered is not None
        getattr(result, answered).CopyFrom(getattr(answer, answered))
        return result

    def fail(self, reason: shard_pb2.Failure.Reason.ValueType) -> Rule:
        """A rule that refuses each message."""

        def rule(request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse:
            failure = shard_pb2.Failure(reason=reason, message="by the test")
            return shard_pb2.ShardResponse(sequence=request.sequence, failure=failure)

        return rule

    def each(self, result: Callable[[log_pb2.Command], shard_pb2.Result]) -> Rule:
        """A rule that answers command by command."""

        def rule(request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse:
            commands = log_pb2.Commands.FromString(request.commands).commands
            results = [result(command) for command in commands]
            return shard_pb2.ShardResponse(sequence=request.sequence, results=results)

        return rule


def lead(router: FakeRouter, *nodes: FakeNode) -> None:
    """Have the router say that these lead their groups."""
    status = cluster_pb2.StatusResponse(cluster="fake", router_version="9", serving=True)
    for node in nodes:
        group = status.groups.add(group=node.group, leader_id=node.group + 1)
        replica = group.replicas.add(id=node.group + 1, reachable=True)
        replica.address, replica.direct_address = "127.0.0.1:1", node.address
    router.status = status
