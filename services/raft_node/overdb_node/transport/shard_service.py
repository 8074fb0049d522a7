"""What routers and direct clients ask of a replica: a stream of data, pages of scans, questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc

from overdb.internal.v1 import shard_pb2, shard_pb2_grpc

# Answers of one stream that wait because the other end does not read them. Behind it the stream is not read
# any further, so that one that is stuck stops its own requests only.
WAITING_ANSWERS_MAX = 4096


class Answers:
    """The answering side of one Exchange stream. ``send`` may be called at any time, from the loop."""

    def __init__(self) -> None:
        # A response, or what makes one when its turn has come.
        self._waiting: list[shard_pb2.ShardResponse | Callable[[], shard_pb2.ShardResponse]] = []
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self.closed = False
        self.compact = False  # whether who asks understands ShardResponse.versions

    def send(self, response: shard_pb2.ShardResponse) -> None:
        if not self.closed:
            self._waiting.append(response)
            self._wake.set()

    def send_when_written(self, make: Callable[[], shard_pb2.ShardResponse]) -> None:
        """Send a large response that is made when all before it are written."""
        if not self.closed:
            self._waiting.append(make)
            self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._wake.set()
        self._taken.set()

    async def wait_until_read(self) -> None:
        """Return when no more than WAITING_ANSWERS_MAX wait, or the stream has ended."""
        while len(self._waiting) > WAITING_ANSWERS_MAX and not self.closed:
            self._taken.clear()
            await self._taken.wait()

    async def write_all(
        self, context: grpc.aio.ServicerContext[shard_pb2.ShardRequest, shard_pb2.ShardResponse]
    ) -> None:
        while not self.closed:
            await self._wake.wait()
            self._wake.clear()
            taken, self._waiting = self._waiting, []
            self._taken.set()
            for response in taken:
                await context.write(response() if callable(response) else response)


class OneAnswer(Answers):
    """The answering side of a single request: waits for the response and for all that it left pending."""

    def __init__(self) -> None:
        super().__init__()
        self._response: shard_pb2.ShardResponse | None = None
        self._pending = 0
        self._future: asyncio.Future[shard_pb2.ShardResponse] = (
            asyncio.get_running_loop().create_future()
        )

    def send(self, response: shard_pb2.ShardResponse) -> None:
        whole = self._response
        if whole is None or response.HasField("failure"):
            self._response = whole = response
            # None of `versions` is pending: they stand for puts that have written.
            self._pending = sum(one.HasField("pending") for one in response.results)
            self._pending += sum(one.HasField("pending") for one in response.values)
        else:
            for late in response.late:
                self._pending -= 1
                if late.HasField("result"):
                    whole.results[late.position].CopyFrom(late.result)
                else:
                    whole.values[late.position].CopyFrom(late.value)
        if not self._pending and not self._future.done():
            self._future.set_result(whole)

    def send_when_written(self, make: Callable[[], shard_pb2.ShardResponse]) -> None:
        self.send(make())

    async def response(self) -> shard_pb2.ShardResponse:
        return await self._future


class Backend(Protocol):
    """What the replica offers to this service."""

    def exchange(self, request: shard_pb2.ShardRequest, answers: Answers) -> None: ...

    async def scan_page(self, request: shard_pb2.ScanPageRequest) -> shard_pb2.ScanPageResponse: ...

    async def describe(self, request: shard_pb2.DescribeRequest) -> shard_pb2.DescribeResponse: ...

    async def open_transactions(
        self, request: shard_pb2.OpenTransactionsRequest
    ) -> shard_pb2.OpenTransactionsResponse: ...

    async def transfer(self, request: shard_pb2.TransferRequest) -> shard_pb2.TransferResponse: ...

    async def change_members(
        self, request: shard_pb2.ChangeMembersRequest
    ) -> shard_pb2.ChangeMembersResponse: ...

    async def repair_time(
        self, request: shard_pb2.RepairTimeRequest
    ) -> shard_pb2.RepairTimeResponse: ...

    async def checksums(
        self, request: shard_pb2.ChecksumsRequest
    ) -> shard_pb2.ChecksumsResponse: ...


class ShardService(shard_pb2_grpc.ShardServicer):
    """Hands requests to the replica as they arrive; answers leave in the order in which they are ready."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._streams: set[Answers] = set()

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        for answers in self._streams:
            answers.close()

    async def Exchange(  # type: ignore[override]  # noqa: N802  # answers by write(), yields nothing
        self,
        request_iterator: AsyncIterator[shard_pb2.ShardRequest],
        context: grpc.aio.ServicerContext[shard_pb2.ShardRequest, shard_pb2.ShardResponse],
    ) -> None:
        answers = Answers()
        self._streams.add(answers)
        reading = asyncio.create_task(self._read(request_iterator, answers))
        try:
            await answers.write_all(context)
        finally:
            self._streams.discard(answers)
            answers.close()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(
        self, requests: AsyncIterator[shard_pb2.ShardRequest], answers: Answers
    ) -> None:
        try:
            async for request in requests:
                self._backend.exchange(request, answers)
                await answers.wait_until_read()
        finally:
            answers.close()

    async def Submit(  # noqa: N802
        self,
        request: shard_pb2.ShardRequest,
        context: grpc.aio.ServicerContext[shard_pb2.ShardRequest, shard_pb2.ShardResponse],  # noqa: ARG002
    ) -> shard_pb2.ShardResponse:
        answer = OneAnswer()
        try:
            self._backend.exchange(request, answer)
            return await answer.response()
        finally:
            answer.closed = True

    async def OpenTransactions(  # noqa: N802
        self,
        request: shard_pb2.OpenTransactionsRequest,
        context: grpc.aio.ServicerContext[  # noqa: ARG002
            shard_pb2.OpenTransactionsRequest, shard_pb2.OpenTransactionsResponse
        ],
    ) -> shard_pb2.OpenTransactionsResponse:
        return await self._backend.open_transactions(request)

    async def ScanPage(  # noqa: N802
        self,
        request: shard_pb2.ScanPageRequest,
        context: grpc.aio.ServicerContext[shard_pb2.ScanPageRequest, shard_pb2.ScanPageResponse],  # noqa: ARG002
    ) -> shard_pb2.ScanPageResponse:
        return await self._backend.scan_page(request)

    async def Describe(  # noqa: N802
        self,
        request: shard_pb2.DescribeRequest,
        context: grpc.aio.ServicerContext[shard_pb2.DescribeRequest, shard_pb2.DescribeResponse],  # noqa: ARG002
    ) -> shard_pb2.DescribeResponse:
        return await self._backend.describe(request)

    async def Transfer(  # noqa: N802
        self,
        request: shard_pb2.TransferRequest,
        context: grpc.aio.ServicerContext[shard_pb2.TransferRequest, shard_pb2.TransferResponse],  # noqa: ARG002
    ) -> shard_pb2.TransferResponse:
        return await self._backend.transfer(request)

    async def ChangeMembers(  # noqa: N802
        self,
        request: shard_pb2.ChangeMembersRequest,
        context: grpc.aio.ServicerContext[  # noqa: ARG002
            shard_pb2.ChangeMembersRequest, shard_pb2.ChangeMembersResponse
        ],
    ) -> shard_pb2.ChangeMembersResponse:
        return await self._backend.change_members(request)

    async def RepairTime(  # noqa: N802
        self,
        request: shard_pb2.RepairTimeRequest,
        context: grpc.aio.ServicerContext[  # noqa: ARG002
            shard_pb2.RepairTimeRequest, shard_pb2.RepairTimeResponse
        ],
    ) -> shard_pb2.RepairTimeResponse:
        return await self._backend.repair_time(request)

    async def Checksums(  # noqa: N802
        self,
        request: shard_pb2.ChecksumsRequest,
        context: grpc.aio.ServicerContext[shard_pb2.ChecksumsRequest, shard_pb2.ChecksumsResponse],  # noqa: ARG002
    ) -> shard_pb2.ChecksumsResponse:
        return await self._backend.checksums(request)
