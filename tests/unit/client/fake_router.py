"""A router in this process that can hang, drop streams, refuse, and that counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from grpc_status import rpc_status

from overdb.v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from tests.unit.client.store import Answer, Entry, Store

SERVING = b"\x08\x01"
NOT_SERVING = b"\x08\x02"
REPAIRED_US = 1_790_000_000_000_000  # 2026-09-21 14:13:20
REPAIRED_BEFORE_US = REPAIRED_US + 86_400_000_000

HOLD = None  # what a rule returns for "no answer"
Rule = Callable[[Entry], Answer | None]


class DropStreamError(Exception):
    """Raised by a rule: the stream breaks here."""


class FakeRouter(kv_pb2_grpc.KVServicer, cluster_pb2_grpc.ClusterServicer):
    """Serves a :class:`Store`. ``rule`` decides what becomes of each entry of a batch."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.rule: Rule = self.store.answer
        self.health = SERVING
        self.health_questions = 0
        self.awake = asyncio.Event()  # cleared: answers nothing at all
        self.awake.set()
        self.messages = 0
        self.entries: list[Entry] = []
        self.arrived = asyncio.Condition()  # notified at each message
        self.streams = 0
        self.scans: list[kv_pb2.ScanRequest] = []
        self.scan_page_items = 3
        self.scans_may_go_on = asyncio.Event()
        self.scans_may_go_on.set()
        self.scan_break_after_pages = 0  # breaks the next scan once
        self.members_calls = 0
        self.status = cluster_pb2.StatusResponse(cluster="fake", router_version="9", serving=True)
        self.transactions = cluster_pb2.TransactionsResponse()
        self.states: dict[tuple[bytes, int], Any] = {}  # what TransactionStatus says, by id
        self.status_questions = 0
        self.administered: list[Any] = []  # requests that change members
        self.refusals: list[Any] = []  # google.rpc.Status: answers to the next of them
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0") -> FakeRouter:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        kv_pb2_grpc.add_KVServicer_to_server(self, server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, server)
        check: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self._check
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),)
        )
        port = server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self.awake.set()
            await self._server.stop(None)
            self._server = None

    async def __aenter__(self) -> FakeRouter:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on what arrived holds."""
        async with self.arrived:
            await self.arrived.wait_for(condition)

    def numbers(self) -> list[int]:
        """Return the request numbers of the puts that arrived."""
        return [entry.put.id.request_number for entry in self.entries if entry.HasField("put")]

    async def _check(self, _request: bytes, _context: Any) -> bytes:
        async with self.arrived:
            self.health_questions += 1
            self.arrived.notify_all()
        await self.awake.wait()
        return self.health

    async def Batch(  # noqa: N802
        self, request_iterator: AsyncIterator[kv_pb2.BatchRequest], context: Any
    ) -> AsyncIterator[kv_pb2.BatchResponse]:
        self.streams += 1
        async for message in request_iterator:
            await self.awake.wait()
            self.messages += 1
            self.entries.extend(message.entries)
            async with self.arrived:
                self.arrived.notify_all()
            try:
                answers = [self.rule(entry) for entry in message.entries]
            except DropStreamError:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped by the test")
            ready = [answer for answer in answers if answer is not HOLD]
            if ready:
                yield kv_pb2.BatchResponse(entries=ready)

    async def Scan(  # noqa: N802
        self, request: kv_pb2.ScanRequest, context: Any
    ) -> AsyncIterator[kv_pb2.ScanResponse]:
        self.scans.append(request)
        await self.scans_may_go_on.wait()
        await self.awake.wait()
        if request.end and request.end <= request.start:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "scan: end is not behind start")
        for number, page in enumerate(self.store.pages(request, self.scan_page_items), 1):
            yield page
            if number == self.scan_break_after_pages:
                self.scan_break_after_pages = 0
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken by the test")

    async def Status(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        await self.awake.wait()
        return self.status

    async def Locate(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return cluster_pb2.LocateResponse(
            slot=7, group=1, leader_id=4, leader_address="127.0.0.1:7413", tag=request.key
        )

    async def Members(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.members_calls += 1
        if request.HasField("group") and request.group > 1:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no group {request.group}")
        response = cluster_pb2.MembersResponse()
        group = response.groups.add(group=0)
        group.members.add(id=1, address="127.0.0.1:7410", voter=True, leader=True)
        return response

    async def TransactionStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.status_questions += 1
        await self.awake.wait()
        name = (request.id.client_id, request.id.request_number)
        if name in self.states:
            return kv_pb2.TransactionStatusResponse(status=self.states[name])
        if name not in self.store.results:
            return kv_pb2.TransactionStatusResponse(
                status=kv_pb2.TransactionStatusResponse.STATUS_UNKNOWN
            )
        answer = Answer.FromString(self.store.results[name])
        committed = kv_pb2.TransactionStatusResponse.STATUS_COMMITTED
        return kv_pb2.TransactionStatusResponse(status=committed, response=answer.transact)

    async def Transactions(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.HasField("group") and request.group > 1:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no group {request.group}")
        told = cluster_pb2.TransactionsResponse()
        told.groups.extend(
            group
            for group in self.transactions.groups
            if not request.HasField("group") or group.group == request.group
        )
        return told

    async def _administer(self, request: Any, context: Any) -> Any:
        """Answer as told, one answer a call; then with the group as it is."""
        self.administered.append(request)
        if self.refusals:
            refused = self.refusals.pop(0)
            await context.abort_with_status(rpc_status.to_status(refused))
        kind = type(request).__name__.removesuffix("Request")
        if kind == "TransferLeadership":
            return cluster_pb2.TransferLeadershipResponse(leader_id=request.to or 2)
        if kind == "RepairTime":
            return cluster_pb2.RepairTimeResponse(
                before_us=REPAIRED_BEFORE_US, after_us=REPAIRED_US
            )
        response = getattr(cluster_pb2, f"{kind}Response")()
        response.members.group = request.group
        response.members.members.add(id=1, address="127.0.0.1:7410", voter=True, leader=True)
        return response

    AddMember = PromoteMember = RemoveMember = TransferLeadership = RepairTime = _administer

    async def _refuse(self, _request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the client library uses Batch")

    Get = Put = Delete = Transact = _refuse  # type: ignore[assignment]


def refusal(entry: Entry, code: int, message: str) -> Answer:
    """Return an error for an entry."""
    return Answer(tag=entry.tag, error=kv_pb2.Error(code=code, message=message))


class RouterThread:
    """A fake router on a thread of its own, for tests that block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_quiet)
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.router = self.call(self._start())

    async def _start(self) -> FakeRouter:
        return await FakeRouter().start()

    def call(self, coroutine: Any) -> Any:
        """Run something on the router's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def do(self, function: Callable[[], object]) -> None:
        """Run a plain function on the router's loop."""

        async def call() -> None:
            function()

        self.call(call())

    def __enter__(self) -> RouterThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.router.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """gRPC wakes every loop of a process for one event; those that find nothing report it."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
