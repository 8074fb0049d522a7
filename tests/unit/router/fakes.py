"""Shard groups in this process, without Raft: one shared state per group, replicas that misbehave on
request, and a router in front of them."""

from __future__ import annotations

import asyncio
import contextlib
from bisect import insort
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import grpc

from overdb.internal.v1 import log_pb2, shard_pb2, shard_pb2_grpc
from overdb.sharding import founding_slots, slot_of
from overdb.v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from overdb_common import grpc_options
from overdb_router.router import Router
from overdb_router.settings import RouterSettings

Failure = shard_pb2.Failure


@dataclass
class State:
    """What a group has agreed on."""

    clock: int = 1000
    oldest: int = 0  # versions below are not kept
    versions: dict[bytes, list[tuple[int, bytes | None]]] = field(default_factory=dict)
    results: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    runs: int = 0  # commands that ran, without those that were answered from `results`
    order: list[bytes] = field(default_factory=list)  # keys in the order of their writes

    def newest(self, key: bytes, at: int) -> tuple[int, bytes] | None:
        for version, value in reversed(self.versions.get(key, [])):
            if version <= at:
                return None if value is None else (version, value)
        return None

    def write(self, key: bytes, value: bytes | None) -> int:
        self.clock += 1
        insort(self.versions.setdefault(key, []), (self.clock, value), key=lambda one: one[0])
        self.order.append(key)
        return self.clock


class FakeGroup:
    """One group: who leads, in which term, with which slots."""

    def __init__(self, number: int, groups: int) -> None:
        self.number = number
        self.groups = groups
        self.state = State()
        self.term = 1
        self.leader = 0  # position of the leader; -1: none
        self.epoch = 1
        self.slots = founding_slots(number, groups)
        self.replicas: list[FakeReplica] = []
        self.participate: Callable[[log_pb2.Command], shard_pb2.Result] | None = None
        # What is kept under an id beside the results of what ran; client id, number.
        self.found: dict[tuple[bytes, int], shard_pb2.Found] = {}
        self.open_transactions: list[cluster_pb2.OpenTransaction] = []

    def elect(self, position: int) -> None:
        self.term += 1
        self.leader = position

    def owns(self, key: bytes) -> bool:
        slot = slot_of(key)
        return bool(self.slots[slot // 8] >> (slot % 8) & 1)

    def apply(self, command: log_pb2.Command) -> shard_pb2.Result:
        kind = command.WhichOneof("command")
        assert kind is not None
        if kind == "advance":
            self.state.clock = max(self.state.clock, command.advance.version)
            return shard_pb2.Result(clock=self.state.clock)
        if kind in ("prepare", "resolve", "inquire", "forget"):
            assert self.participate is not None, "this group takes part in no transactions"
            return self.participate(command)
        request = getattr(command, kind)
        keys = _keys(request)
        if not all(self.owns(key) for key in keys):
            return shard_pb2.Result(wrong_group=shard_pb2.WrongGroup(epoch=self.epoch))
        identity = (request.id.client_id, request.id.request_number)
        assert len(identity[0]) == 16, "a command without id"
        known = self.state.results.get(identity)
        if known is not None:
            return shard_pb2.Result.FromString(known)
        self.state.runs += 1
        result = self._run(kind, request)
        self.state.results[identity] = result.SerializeToString()
        return result

    def _run(self, kind: str, request: Any) -> shard_pb2.Result:
        state = self.state
        if kind == "put":
            version = state.write(request.key, request.value)
            return shard_pb2.Result(put=kv_pb2.PutResponse(version=version))
        if kind == "delete":
            existed = state.newest(request.key, state.clock) is not None
            version = state.write(request.key, None)
            return shard_pb2.Result(delete=kv_pb2.DeleteResponse(version=version, existed=existed))
        response = kv_pb2.TransactResponse(succeeded=True)
        for operation in request.then:
            if operation.HasField("put"):
                state.write(operation.put.key, operation.put.value)
            response.results.add()
        response.version = state.clock
        return shard_pb2.Result(transact=response)


def _is_plain(value: shard_pb2.Value) -> bool:
    return value.found or not value.ByteSize()


def _not_kept(version: int, oldest: int) -> kv_pb2.Error:
    return kv_pb2.Error(
        code=grpc.StatusCode.FAILED_PRECONDITION.value[0],
        message=f"version {version} is not kept any more, the oldest is {oldest}",
    )


def _keys(request: Any) -> list[bytes]:
    if isinstance(request, kv_pb2.TransactRequest):
        return [one.put.key or one.get.key for one in request.then] + [
            c.key for c in request.compares
        ]
    return [request.key]


class FakeReplica(shard_pb2_grpc.ShardServicer):
    """One replica. Its switches are public; all are off at first."""

    def __init__(self, group: FakeGroup, position: int) -> None:
        self.group = group
        self.position = position
        self.replica_id = group.number * 10 + position + 1
        self.address = ""
        self.awake = asyncio.Event()  # cleared: answers nothing, as when stopped by SIGSTOP
        self.awake.set()
        self.delay_seconds = 0.0
        self.hints = True  # whether a refusal names the leader
        self.claims_leadership = False  # a deposed leader that does not know it
        self.drops: int = 0  # streams to break at their next message, after it was applied
        self.failure: shard_pb2.Failure | None = None  # answer to each message
        self.shortens = True  # answers plain reads by contents; an older program does not
        self.tamper: Callable[[shard_pb2.ShardResponse], None] | None = None
        self.messages: list[shard_pb2.ShardRequest] = []
        self.arrived = asyncio.Event()
        self.describes = 0
        self.pages: list[shard_pb2.ScanPageRequest] = []
        self.page_failures = 0  # scan pages to refuse as not leader
        self.before_page: Callable[[], None] | None = None
        self.before_read: Callable[[shard_pb2.Read], None] | None = None
        self.changes: list[shard_pb2.ChangeMembersRequest] = []
        self.change_answers: list[shard_pb2.ChangeMembersResponse] = []
        self.repairs: list[shard_pb2.RepairTimeRequest] = []
        self.repair_answer = shard_pb2.RepairTimeResponse(before_us=2, after_us=1)
        self.group_time_us = 0  # as it says when it is asked; 0: it says no clock
        self.clock_offset_us = 0
        self.streams: list[Any] = []  # contexts of Exchange, to send what is late on
        self._writing = asyncio.Lock()  # a stream fails at a second write while one is under way
        self._server: grpc.aio.Server | None = None

    @property
    def leads(self) -> bool:
        return self.claims_leadership or self.group.leader == self.position

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        server = grpc.aio.server(options=grpc_options.server_options())
        shard_pb2_grpc.add_ShardServicer_to_server(self, server)
        port = server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def kill(self) -> None:
        """Break all connections; what is under way gets no answer."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def ChangeMembers(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.changes.append(request)
        if self.change_answers:
            return self.change_answers.pop(0)
        return shard_pb2.ChangeMembersResponse(index=1)

    async def RepairTime(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.repairs.append(request)
        if not self.leads:
            return shard_pb2.RepairTimeResponse(failure=self._not_leader())
        return self.repair_answer

    # --- RPCs -----------------------------------------------------------------------------------

    async def Exchange(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[shard_pb2.ShardRequest], context: Any
    ) -> None:
        answering: set[asyncio.Task[None]] = set()
        self.streams.append(context)
        async for request in request_iterator:
            self.messages.append(request)
            self.arrived.set()
            await self.awake.wait()
            response = self._answer(request)
            if self.drops:
                self.drops -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")
            if not self.delay_seconds:
                await self._write(context, response)
                continue
            task = asyncio.create_task(self._write_later(context, response))
            answering.add(task)
            task.add_done_callback(answering.discard)
        await asyncio.gather(*answering)

    async def _write_later(self, context: Any, response: shard_pb2.ShardResponse) -> None:
        await asyncio.sleep(self.delay_seconds)
        await self._write(context, response)

    async def _write(self, context: Any, response: shard_pb2.ShardResponse) -> None:
        async with self._writing:
            await context.write(response)

    async def send_late(self, response: shard_pb2.ShardResponse) -> None:
        """Write to the newest stream what answers no message on it.

        That the router has read the answer before does not say that its write has returned here.
        """
        await self._write(self.streams[-1], response)

    def _answer(self, request: shard_pb2.ShardRequest) -> shard_pb2.ShardResponse:
        assert request.group == self.group.number
        response = shard_pb2.ShardResponse(sequence=request.sequence)
        if self.failure is not None:
            response.failure.CopyFrom(self.failure)
        elif not self.leads and not request.reads.stale:
            response.failure.CopyFrom(self._not_leader())
        elif request.commands:
            commands = log_pb2.Commands.FromString(request.commands).commands
            assert len(commands) == request.count
            response.results.extend(self.group.apply(command) for command in commands)
        else:
            values = [self._read(read) for read in request.reads.reads]
            if request.reads.plain and self.shortens and all(map(_is_plain, values)):
                response.contents.extend(value.value for value in values)
                response.content_versions.extend(value.version for value in values)
            else:
                response.values.extend(values)
        if self.tamper is not None:
            self.tamper(response)
        return response

    def _not_leader(self) -> shard_pb2.Failure:
        failure = shard_pb2.Failure(reason=Failure.REASON_NOT_LEADER, nothing_done=True)
        if self.hints and self.group.leader >= 0:
            leader = self.group.replicas[self.group.leader]
            failure.leader_id = leader.replica_id
            failure.leader_address = leader.address
        return failure

    def _read(self, read: shard_pb2.Read) -> shard_pb2.Value:
        if self.before_read is not None:
            self.before_read(read)
        state = self.group.state
        if read.HasField("set"):
            return self._read_set(read.set)
        if read.HasField("lookup"):
            return shard_pb2.Value(lookup=self._look_up(read.lookup))
        if not self.group.owns(read.key):
            return shard_pb2.Value(wrong_group=shard_pb2.WrongGroup(epoch=self.group.epoch))
        if read.version > state.clock:
            return shard_pb2.Value(behind=shard_pb2.Behind(clock=state.clock))
        if read.version and read.version < state.oldest:
            return shard_pb2.Value(error=_not_kept(read.version, state.oldest))
        found = state.newest(read.key, read.version or state.clock)
        if found is None:
            return shard_pb2.Value()
        return shard_pb2.Value(found=True, version=found[0], value=found[1])

    def _read_set(self, read: shard_pb2.ReadSet) -> shard_pb2.Value:
        """PROTOCOL 2.7: values and newest versions, or whether these still are the newest."""
        group, state = self.group, self.group.state
        if not all(group.owns(key) for key in read.keys):
            return shard_pb2.Value(wrong_group=shard_pb2.WrongGroup(epoch=group.epoch))
        if read.clock > state.clock:
            return shard_pb2.Value(behind=shard_pb2.Behind(clock=state.clock))
        newest = [state.versions.get(key, [(0, None)])[-1] for key in read.keys]
        answer = shard_pb2.ReadSetValues()
        if read.versions:
            answer.unchanged = list(read.versions) == [version for version, _ in newest]
            return shard_pb2.Value(set=answer)
        for version, value in newest:
            answer.versions.append(version)
            if value is None:
                answer.values.add()
            else:
                answer.values.add(found=True, value=value, version=version)
        return shard_pb2.Value(set=answer)

    def _look_up(self, request_id: kv_pb2.RequestId) -> shard_pb2.Found:
        identity = (request_id.client_id, request_id.request_number)
        known = self.group.state.results.get(identity)
        if known is not None:
            return shard_pb2.Found(result=shard_pb2.Result.FromString(known))
        return self.group.found.get(identity, shard_pb2.Found())

    async def Submit(  # noqa: N802
        self,
        request: shard_pb2.ShardRequest,
        context: Any,
    ) -> shard_pb2.ShardResponse:
        return self._answer(request)

    async def OpenTransactions(  # noqa: N802
        self,
        request: shard_pb2.OpenTransactionsRequest,
        context: Any,
    ) -> shard_pb2.OpenTransactionsResponse:
        await self.awake.wait()
        if not self.leads:
            return shard_pb2.OpenTransactionsResponse(failure=self._not_leader())
        transactions = self.group.open_transactions
        return shard_pb2.OpenTransactionsResponse(
            transactions=transactions, count=len(transactions)
        )

    async def ScanPage(  # noqa: N802
        self,
        request: shard_pb2.ScanPageRequest,
        context: Any,
    ) -> shard_pb2.ScanPageResponse:
        await self.awake.wait()
        self.pages.append(request)
        if self.before_page is not None:
            self.before_page()
        state = self.group.state
        if self.page_failures:
            self.page_failures -= 1
            return shard_pb2.ScanPageResponse(failure=self._not_leader())
        if not self.leads and not request.stale:
            return shard_pb2.ScanPageResponse(failure=self._not_leader())
        version = request.version or state.clock
        if version > state.clock:
            return shard_pb2.ScanPageResponse(behind=shard_pb2.Behind(clock=state.clock))
        if version < state.oldest:
            return shard_pb2.ScanPageResponse(error=_not_kept(version, state.oldest))
        return self._page(request, version)

    def _page(self, request: shard_pb2.ScanPageRequest, version: int) -> shard_pb2.ScanPageResponse:
        page = shard_pb2.ScanPageResponse(version=version)
        size = 0
        for key in self._range(request):
            if len(page.items) >= request.max_items or (page.items and size >= request.max_bytes):
                page.more = True
                # `end` is exclusive, `start` inclusive: reversed, the page goes on below the last key.
                page.resume = page.items[-1].key if request.reverse else key
                break
            found = self.group.state.newest(key, version)
            if found is not None:
                value = b"" if request.keys_only else found[1]
                page.items.add(key=key, value=value, version=found[0])
                size += len(key) + len(value)
        return page

    def _range(self, request: shard_pb2.ScanPageRequest) -> Iterator[bytes]:
        for key in sorted(self.group.state.versions, reverse=request.reverse):
            if key >= request.start and (not request.end or key < request.end):
                yield key

    async def Describe(  # noqa: N802
        self,
        request: shard_pb2.DescribeRequest,
        context: Any,
    ) -> shard_pb2.DescribeResponse:
        self.describes += 1
        await self.awake.wait()
        group = self.group
        answer = shard_pb2.DescribeResponse(
            cluster="overdb",
            group=group.number,
            groups=group.groups,
            replica_id=self.replica_id,
            leader_id=0 if group.leader < 0 else group.replicas[group.leader].replica_id,
            term=group.term - (1 if self.claims_leadership else 0),
            role="leader" if self.leads else "follower",
            clock=group.state.clock,
            epoch=group.epoch,
            slots=group.slots,
            version="fake",
            wall_us=self.group_time_us + self.clock_offset_us if self.group_time_us else 0,
            clock_offset_us=self.clock_offset_us,
        )
        for replica in group.replicas:
            answer.members.add(id=replica.replica_id, address=replica.address, voter=True)
        if request.linearizable and not self.leads:
            answer.failure.CopyFrom(self._not_leader())
        return answer

    async def Transfer(  # noqa: N802
        self,
        request: shard_pb2.TransferRequest,
        context: Any,
    ) -> shard_pb2.TransferResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake hands nothing over")
        raise AssertionError

    async def Checksums(  # noqa: N802
        self,
        request: shard_pb2.ChecksumsRequest,
        context: Any,
    ) -> shard_pb2.ChecksumsResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake is compared with nobody")
        raise AssertionError


class FakeCluster:
    """Groups, a router in front of them, and stubs of that router."""

    def __init__(self, groups: int, replicas: int, **settings: Any) -> None:
        self.groups = [FakeGroup(number, groups) for number in range(groups)]
        for group in self.groups:
            group.replicas = [FakeReplica(group, position) for position in range(replicas)]
        self._settings = settings
        self.stop = asyncio.Event()

    @property
    def replicas(self) -> list[FakeReplica]:
        return [replica for group in self.groups for replica in group.replicas]

    def leader(self, group: int = 0) -> FakeReplica:
        return self.groups[group].replicas[self.groups[group].leader]

    def seeds(self) -> str:
        return ",".join(group.replicas[0].address for group in self.groups)

    async def start(self) -> None:
        for replica in self.replicas:
            await replica.start()
        self.router = Router(self.settings(), self.stop)
        port = await self.router.start()
        self.address = f"127.0.0.1:{port}"
        self.channel = grpc.aio.insecure_channel(
            self.address, options=grpc_options.channel_options()
        )
        self.kv = cast("kv_pb2_grpc.KVAsyncStub", kv_pb2_grpc.KVStub(self.channel))
        self.admin = cast(
            "cluster_pb2_grpc.ClusterAsyncStub", cluster_pb2_grpc.ClusterStub(self.channel)
        )

    def settings(self) -> RouterSettings:
        values: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "seeds": self.seeds(),
            "poll_seconds": 0.2,
            "stall_seconds": 0.1,
            "describe_seconds_max": 0.3,
            "request_seconds_max": 5.0,
            "stop_seconds_max": 2.0,
        }
        return RouterSettings(**(values | self._settings))

    async def close(self) -> None:
        for replica in self.replicas:
            replica.awake.set()
        await self.channel.close()
        await self.router.stop()
        for replica in self.replicas:
            await replica.kill()
        assert self.router.failure is None, self.router.failure

    async def serving(self) -> None:
        await until(lambda: self.router.core.topology.serving)

    async def stop_polling(self) -> None:
        """Leave the router with what its requests make it find out."""
        polling = self.router.core.topology._polling
        assert polling is not None
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        await until(lambda: not self.router.core.topology._asking)

    def key_of(self, group: int, number: int = 0) -> bytes:
        """Return a key that lives in a group."""
        wanted = self.groups[group]
        return next(key for n in range(100_000) if wanted.owns(key := b"k%d-%d" % (number, n)))


@contextlib.asynccontextmanager
async def running(
    groups: int = 2, replicas: int = 3, **settings: Any
) -> AsyncIterator[FakeCluster]:
    """A cluster whose router serves."""
    cluster = FakeCluster(groups, replicas, **settings)
    await cluster.start()
    try:
        await cluster.serving()
        yield cluster
    finally:
        await cluster.close()


async def until(condition: Callable[[], bool], seconds_max: float = 30.0) -> None:
    """Wait for a condition; TimeoutError when it does not come about."""
    async with asyncio.timeout(seconds_max):
        while not condition():
            await asyncio.sleep(0.005)


class BatchClient:
    """One Batch stream, answers by tag."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._call = cluster.kv.Batch()
        self.answers: dict[int, kv_pb2.BatchResponse.Entry] = {}
        self.messages = 0

    async def send(self, *entries: kv_pb2.BatchRequest.Entry) -> None:
        await self._call.write(kv_pb2.BatchRequest(entries=entries))

    async def done(self) -> None:
        await self._call.done_writing()

    async def receive(self, count: int, seconds_max: float = 5.0) -> None:
        """Read until ``count`` answers are there."""
        async with asyncio.timeout(seconds_max):
            while len(self.answers) < count:
                assert await self.receive_one(), "the stream ended"

    async def receive_one(self) -> bool:
        response = await self._call.read()
        if not isinstance(response, kv_pb2.BatchResponse):
            return False
        self.messages += 1
        for entry in response.entries:
            assert entry.tag not in self.answers, "answered twice"
            self.answers[entry.tag] = entry
        return True

    def cancel(self) -> None:
        self._call.cancel()


def put(tag: int, key: bytes, value: bytes = b"v", **options: Any) -> kv_pb2.BatchRequest.Entry:
    return kv_pb2.BatchRequest.Entry(
        tag=tag, put=kv_pb2.PutRequest(key=key, value=value), **options
    )


def get(tag: int, key: bytes, **options: Any) -> kv_pb2.BatchRequest.Entry:
    return kv_pb2.BatchRequest.Entry(tag=tag, get=kv_pb2.GetRequest(key=key), **options)
