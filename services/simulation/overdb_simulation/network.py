"""The network between simulated processes, under production's gRPC calls.

Two kinds of traffic. gRPC between clients, routers and replicas is what TCP makes of it: messages of a
stream arrive in order and once, late where the link is bad, and a link that stays cut breaks the stream.
Raft packets between replicas are datagrams: lost, doubled, reordered and delayed one by one, which is more
than TCP does to them and no more than PROTOCOL 1 allows.

Links are directed: (from, to) may be cut while (to, from) carries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc

from overdb_node.transport.peers import Sender
from overdb_simulation.loop import Process, VirtualLoop, current_process

BREAK_SECONDS = 3.0  # how long a link may be cut before TCP and keepalive give a stream up
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass(slots=True)
class Weather:
    """How bad it is at the moment. Probabilities of a Raft packet; seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0  # a packet that is held back for up to ``slowness``
    latency: float = 0.0003
    jitter: float = 0.0003
    slowness: float = 0.05


Receive = Callable[[Sender, list[Any]], None]


class Network:
    """Who can reach whom, and what is on the way."""

    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        self.weather = Weather()
        self.cut: set[tuple[str, str]] = set()  # names of processes, directed
        self.servers: dict[str, Server] = {}  # by address, while the process lives
        self.hosts: dict[str, Process] = {}  # by address: who is or was there
        self.raft: dict[str, tuple[Process, int, Receive]] = {}
        self.counts = {"packets": 0, "lost": 0, "doubled": 0, "reordered": 0, "broken": 0}
        # Called with sender, receiver and messages of every packet that leaves.
        self.on_packet: Callable[[int, int, list[Any]], None] = lambda *_: None
        self._streams: dict[Stream, None] = {}

    # --- links ------------------------------------------------------------------------------------

    def carries(self, sender: Process, receiver: Process) -> bool:
        return (sender.name, receiver.name) not in self.cut

    def set_cut(self, links: Iterable[tuple[str, str]]) -> None:
        """Cut exactly these links; what waited in streams over the others goes on."""
        self.cut = set(links)
        for stream in list(self._streams):
            stream.link_changed()

    def process_died(self, process: Process) -> None:
        """The kernel resets its connections: the other ends learn of it, where the link carries."""
        for address in [a for a, server in self.servers.items() if server.process is process]:
            del self.servers[address]
        for address in [a for a, (owner, _, _) in self.raft.items() if owner is process]:
            del self.raft[address]
        for stream in list(self._streams):
            stream.process_died(process)

    def latency(self) -> float:
        weather = self.weather
        return weather.latency + self.random.random() * weather.jitter

    # --- datagrams --------------------------------------------------------------------------------

    def send_packet(self, who: Sender, address: str, replica_id: int, messages: list[Any]) -> None:
        """Raft messages of one turn to one replica."""
        sender, target = current_process(), self.raft.get(address)
        if sender is None or target is None:
            return
        random, weather, counts = self.random, self.weather, self.counts
        counts["packets"] += 1
        self.on_packet(who.replica_id, replica_id, messages)
        process, own_id, receive = target
        if (sender.name, process.name) in self.cut or own_id != replica_id:
            return
        delay = weather.latency + random.random() * weather.jitter
        if weather.loss or weather.duplication or weather.reordering:
            draw = random.random()
            if draw < weather.loss:
                counts["lost"] += 1
                return
            if draw < weather.loss + weather.duplication:
                counts["doubled"] += 1
                late = delay + random.random() * weather.slowness
                self._deliver(sender, process, late, receive, who, messages)
            if random.random() < weather.reordering:
                counts["reordered"] += 1
                delay += random.random() * weather.slowness
        self._deliver(sender, process, delay, receive, who, messages)

    def _deliver(
        self,
        sender: Process,
        process: Process,
        delay: float,
        receive: Receive,
        who: Sender,
        messages: list[Any],
    ) -> None:
        context = process.context
        self.loop.call_later(
            delay, self._arrive, sender, process, receive, who, messages, context=context
        )

    def _arrive(
        self,
        sender: Process,
        process: Process,
        receive: Receive,
        who: Sender,
        messages: list[Any],
    ) -> None:
        if (sender.name, process.name) not in self.cut:
            receive(who, messages)

    # --- gRPC -------------------------------------------------------------------------------------

    def channel(self, address: str, **_: object) -> Channel:
        """Stands for ``grpc.aio.insecure_channel``."""
        process = current_process()
        assert process is not None, "a channel needs a process"
        return Channel(self, process, address)

    def server(self, **_: object) -> Server:
        """Stands for ``grpc.aio.server``."""
        process = current_process()
        assert process is not None, "a server needs a process"
        return Server(self, process)

    def opened(self, stream: Stream) -> None:
        self._streams[stream] = None

    def closed(self, stream: Stream) -> None:
        self._streams.pop(stream, None)


class Server:
    """What of ``grpc.aio.Server`` is used."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self.process = process
        self.handlers: dict[str, Any] = {}
        self._address = ""

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """The registered ones are used."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        for name, handler in handlers.items():
            self.handlers[f"/{service}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        self._address = address
        return int(address.rpartition(":")[2])

    async def start(self) -> None:
        self._network.servers[self._address] = self
        self._network.hosts[self._address] = self.process

    async def stop(self, grace: float | None) -> None:
        del grace
        if self._network.servers.get(self._address) is self:
            del self._network.servers[self._address]
        self._network.process_died(self.process)


class Channel:
    """What of ``grpc.aio.Channel`` is used."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        self.network = network
        self.process = process
        self.address = address
        self.open: dict[Stream, None] = {}

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        del try_to_connect
        if self.reaches():
            return grpc.ChannelConnectivity.READY
        return grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last: object) -> None:
        del last
        await asyncio.sleep(0.05)

    def reaches(self) -> bool:
        """Whether a connection can be made now."""
        server = self.network.servers.get(self.address)
        if server is None or server.process.paused:
            return False
        carries = self.network.carries
        return carries(self.process, server.process) and carries(server.process, self.process)

    def unary_unary(
        self,
        path: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **_: object,
    ) -> Callable[..., Any]:
        async def call(request: Any, *, timeout: float | None = None) -> Any:
            stream = Stream(self, path, request_serializer, response_deserializer, timeout)
            try:
                await stream.write(request)
                stream.half_close()
                response = await stream.read()
                if response is grpc.aio.EOF:
                    raise stream.error()
                await stream.read()  # the status
                return response
            finally:
                stream.cancel()

        return call

    def unary_stream(
        self,
        path: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **_: object,
    ) -> Callable[..., Any]:
        def call(request: Any, *, timeout: float | None = None) -> Stream:
            stream = Stream(self, path, request_serializer, response_deserializer, timeout)
            stream.send(request)
            stream.half_close()
            return stream

        return call

    def stream_stream(
        self,
        path: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **_: object,
    ) -> Callable[..., Any]:
        def call(*, timeout: float | None = None) -> Stream:
            return Stream(self, path, request_serializer, response_deserializer, timeout)

        return call

    async def close(self, grace: float | None = None) -> None:
        del grace
        for stream in list(self.open):
            stream.cancel()


class Inbox:
    """Messages that arrived at one end, and how it ended."""

    __slots__ = ("_loop", "_waiter", "ended", "messages")

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.messages: deque[Any] = deque()
        self.ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, message: Any) -> None:
        self.messages.append(message)
        self.wake()

    def end(self) -> None:
        self.ended = True
        self.wake()

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Return when there is a message or the end."""
        while not self.messages and not self.ended:
            self._waiter = self._loop.create_future()
            await self._waiter


class Stream:
    """The client's end of a call; ``Context`` is the server's. One object of either kind each call."""

    def __init__(
        self, channel: Channel, path: str, serialize: Any, deserialize: Any, timeout: float | None
    ) -> None:
        self.network = network = channel.network
        self.loop = network.loop
        self.channel = channel
        self.path = path
        self.client = channel.process
        self.server: Process | None = None
        self.inbox = Inbox(self.loop)
        self._serialize = serialize
        self._deserialize = deserialize
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Any = ()
        self._cancelled = False
        self._callbacks: list[Callable[[Any], object]] = []
        self._last = {
            True: 0.0,
            False: 0.0,
        }  # when the newest message arrives, to the server and back
        # On the way, in order: to the server and back; and how many of them wait at a cut link.
        self._way: dict[bool, deque[tuple[Callable[..., object], tuple[Any, ...]]]]
        self._way = {True: deque(), False: deque()}
        self._stalled = {True: 0, False: 0}
        self._break: Any = None
        self.deadline = None if timeout is None else self.loop.time() + timeout
        self.context: Context | None = None
        network.opened(self)
        channel.open[self] = None
        if timeout is not None:
            self.loop.call_later(timeout, self._expire, context=self.client.context)
        self._connect()

    # --- the client's end: what of grpc.aio's calls is used ----------------------------------------

    def send(self, message: Any) -> None:
        if self._code is None and not self._cancelled:
            assert self.context is not None
            data = message if self._serialize is None else self._serialize(message)
            self._carry(True, self.context.take, data)

    async def write(self, message: Any) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
        if self._code is not None:
            raise self.error()
        self.send(message)

    def half_close(self) -> None:
        if self._code is None:
            assert self.context is not None
            self._carry(True, self.context.inbox.end)

    async def read(self) -> Any:
        inbox = self.inbox
        await inbox.wait()
        if self._cancelled:
            raise asyncio.CancelledError
        if inbox.messages:
            data = inbox.messages.popleft()
            return data if self._deserialize is None else self._deserialize(data)
        if self._code is not grpc.StatusCode.OK:
            raise self.error()
        return grpc.aio.EOF

    def error(self) -> grpc.aio.AioRpcError:
        trailing = grpc.aio.Metadata(*self._trailing)
        return grpc.aio.AioRpcError(
            self._code or _UNAVAILABLE, grpc.aio.Metadata(), trailing, details=self._details
        )

    def cancel(self) -> bool:
        if self._code is not None or self._cancelled:
            return False
        self._cancelled = True
        self._code = grpc.StatusCode.CANCELLED
        if self.context is not None:
            self._carry(True, self.context.cancelled_by_client)
        self._ended()
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self._code is not None

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    # --- inside -----------------------------------------------------------------------------------

    def _connect(self) -> None:
        network, channel = self.network, self.channel
        server = network.servers.get(channel.address)
        handler = None if server is None else server.handlers.get(self.path)
        if server is None:
            host = network.hosts.get(channel.address)
            reachable = host is None or (
                network.carries(self.client, host) and network.carries(host, self.client)
            )
            delay = network.latency() * 2 if reachable else BREAK_SECONDS
            self.context = Context(self, None)
            self.loop.call_later(
                delay, self.fail, "connection refused", context=self.client.context
            )
            return
        self.server = server.process
        self.context = Context(self, handler)
        self._carry(True, self.context.start)

    def _carry(self, to_server: bool, deliver: Callable[..., object], *args: Any) -> None:
        """Have the other end called, behind everything that was carried before."""
        receiver = self.server if to_server else self.client
        if receiver is None:
            return
        self._way[to_server].append((deliver, args))
        at = max(self._last[to_server], self.loop.time() + self.network.latency())
        self._last[to_server] = at
        self.loop.call_at(at, self._arrive, to_server, context=receiver.context)

    def _arrive(self, to_server: bool) -> None:
        """The oldest on the way arrives, if the link carries it."""
        sender, receiver = self._ends(to_server)
        if not self.network.carries(sender, receiver):
            self._stalled[to_server] += 1
            self._expect_break()
            return
        deliver, args = self._way[to_server].popleft()
        deliver(*args)

    def _ends(self, to_server: bool) -> tuple[Process, Process]:
        assert self.server is not None
        return (self.client, self.server) if to_server else (self.server, self.client)

    def _expect_break(self) -> None:
        if self._break is None:
            context = self.client.context
            self._break = self.loop.call_later(BREAK_SECONDS, self._break_now, context=context)

    def link_changed(self) -> None:
        if self.server is None:
            return
        for to_server in (True, False):
            sender, receiver = self._ends(to_server)
            if self._stalled[to_server] and self.network.carries(sender, receiver):
                stalled, self._stalled[to_server] = self._stalled[to_server], 0
                at = self.loop.time() + self.network.latency()
                for _ in range(stalled):
                    self.loop.call_at(at, self._arrive, to_server, context=receiver.context)
        if self._break is not None and not any(self._stalled.values()):
            self._break.cancel()
            self._break = None

    def _break_now(self) -> None:
        """Both ends give up: what is on the way is lost."""
        self._break = None
        if any(self._stalled.values()):
            self.network.counts["broken"] += 1
            assert self.context is not None
            assert self.server is not None
            cancelled = self.context.cancelled_by_client
            self.loop.call_soon(cancelled, context=self.server.context)
            self.fail("connection timed out")

    def process_died(self, process: Process) -> None:
        if process is self.server:
            delay = self.network.latency()
            if not self.network.carries(process, self.client):
                delay = BREAK_SECONDS
            self.loop.call_later(delay, self.fail, "connection reset", context=self.client.context)
        elif process is self.client and self.server is not None and self.context is not None:
            server = self.server.context
            delay = self.network.latency()
            if not self.network.carries(process, self.server):
                delay = BREAK_SECONDS
            self.loop.call_later(delay, self.context.cancelled_by_client, context=server)
            self._release()

    def _expire(self) -> None:
        if self._code is None:
            self._code, self._details = grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded"
            assert self.context is not None
            self._carry(True, self.context.cancelled_by_client)
            self._ended()

    def fail(self, details: str) -> None:
        self.finish(_UNAVAILABLE, details, ())

    def finish(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        """The status arrived."""
        if self._code is None:
            self._code, self._details, self._trailing = code, details, trailing
            self._ended()

    def _ended(self) -> None:
        self._release()
        self.inbox.end()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _release(self) -> None:
        self.network.closed(self)
        self.channel.open.pop(self, None)


class Aborted(Exception):  # noqa: N818  # as grpc.aio's AbortError
    """Raised by ``Context.abort``."""


class Context:
    """The server's end: what of ``grpc.aio.ServicerContext`` is used."""

    def __init__(self, stream: Stream, handler: Any) -> None:
        self._stream = stream
        self._handler = handler
        self.inbox = Inbox(stream.loop)
        self._task: asyncio.Task[None] | None = None
        self._status: tuple[grpc.StatusCode, str, Any] | None = None
        self._gone = False

    # --- what servicers call ------------------------------------------------------------------------

    async def read(self) -> Any:
        inbox = self.inbox
        await inbox.wait()
        if inbox.messages:
            return self._handler.request_deserializer(inbox.messages.popleft())
        return grpc.aio.EOF

    async def write(self, response: Any) -> None:
        if not self._gone:
            stream = self._stream
            stream._carry(False, stream.inbox.put, self._handler.response_serializer(response))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> None:
        self._status = (code, details, trailing)
        raise Aborted

    def time_remaining(self) -> float | None:
        deadline = self._stream.deadline
        return None if deadline is None else max(0.0, deadline - self._stream.loop.time())

    def peer(self) -> str:
        return self._stream.client.name

    # --- what arrives -------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def take(self, data: Any) -> None:
        self.inbox.put(data)

    def cancelled_by_client(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._serve()
        except Aborted:
            pass
        except asyncio.CancelledError:
            self._status = (grpc.StatusCode.CANCELLED, "", ())
        except Exception as error:  # gRPC answers so too
            self._status = (grpc.StatusCode.UNKNOWN, repr(error), ())
            self._stream.loop.failures.append(f"{self._stream.path}: {error!r}")
        code, details, trailing = self._status or (grpc.StatusCode.OK, "", ())
        stream = self._stream
        if not self._gone:
            stream._carry(False, stream.finish, code, details, trailing)

    async def _serve(self) -> None:
        handler = self._handler
        if handler is None:
            await self.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        if handler.request_streaming:
            answers = handler.stream_stream(self._requests(), self)
        else:
            request = await self.read()
            method = handler.unary_stream if handler.response_streaming else handler.unary_unary
            answers = method(request, self)
        if hasattr(answers, "__aiter__"):
            async for response in answers:
                await self.write(response)
            return
        response = await answers
        if not handler.response_streaming:
            await self.write(response)

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request


class SimulatedPeer:
    """Stands for ``transport.peers.Peer``: what a turn sends to a replica is one packet."""

    queued_bytes = 0
    dropped = 0

    def __init__(
        self, network: Network, own: Any, member: Any, own_address: Callable[[], str]
    ) -> None:
        self._network = network
        self._own = own
        self.member = member
        self._own_address = own_address
        self._waiting: list[Any] = []
        self._closed = False

    def send(self, message: Any) -> None:
        if not self._waiting:
            self._network.loop.call_soon(self._flush)
        self._waiting.append(message)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not self._closed:
            own = self._own
            sender = Sender(
                own.replica_id,
                own.incarnation,
                self._own_address(),
                own.start(),
                own.groups,
                own.level,
            )
            self._network.send_packet(sender, self.member.address, self.member.replica_id, waiting)

    async def close(self) -> None:
        self._closed = True
