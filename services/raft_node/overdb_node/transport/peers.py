"""Outgoing links: one stream to each other replica of the group, everything that waits in one packet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import grpc
import structlog

from overdb.internal.v1 import raft_pb2
from overdb_common import grpc_options
from overdb_common.level import LEVEL
from overdb_node.raft.messages import Append, Chunk, Message
from overdb_node.raft.types import Member
from overdb_node.storage.starts import NO_START, Start
from overdb_node.transport.wire import encode

_log = structlog.get_logger()

# Raft bounds what is under way to one follower (8 MiB); this leaves room for two leaders' worth. A
# full queue drops the newest message, which Raft takes as loss.
QUEUED_BYTES_MAX = 32 << 20
PACKET_BYTES_MAX = 4 << 20
RECONNECT_SECONDS_MIN = 0.05
RECONNECT_SECONDS_MAX = 0.5
LIVED_SECONDS = 2.0  # a stream that was there so long was a good one
_MESSAGE_OVERHEAD_BYTES = 64
STRANGERS_MAX = 8  # links to replicas that wrote first and are no members by the own log


@dataclass(frozen=True, slots=True)
class Address:
    """What every packet carries, so that a replica of another group or cluster is recognised."""

    cluster: str
    group: int
    replica_id: int
    incarnation: int = 0  # number of its directory; another one is another disk (PROTOCOL 3.5)
    level: int = LEVEL  # the newest that its program knows (PROTOCOL 4)
    groups: int = 0  # that the cluster was founded with
    start: Callable[[], Start] = Start  # the present one: its number grows (PROTOCOL 3.9)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a packet, as the packet says. ``address`` is only in the first packet of a stream."""

    replica_id: int
    incarnation: int
    address: str = ""
    start: Start = NO_START
    founding_groups: int = 0
    level: int = 0  # the newest that its program knows
    lives: Sequence[
        Start
    ] = ()  # of its directory, oldest first; only of one that introduces itself


class Peer:
    """The link to one replica. Sending never waits: what cannot be sent is lost, as in any network."""

    def __init__(self, own: Address, member: Member, own_address: Callable[[], str]) -> None:
        self._own = own
        self.member = member
        self._own_address = own_address
        self._introduced = False  # in this stream
        self._refusal = ""  # what the peer has said last against this replica
        self._queue: list[tuple[Message, int]] = []
        self.queued_bytes = 0
        self.dropped = 0
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"peer-{member.replica_id}")

    def send(self, message: Message) -> None:
        size = _size_of(message)
        if self.queued_bytes + size > QUEUED_BYTES_MAX and self._queue:
            self.dropped += 1
            return
        self._queue.append((message, size))
        self.queued_bytes += size
        self._wake.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Connect, deliver until the stream breaks, connect again."""
        channel = grpc.aio.insecure_channel(
            self.member.address, options=grpc_options.channel_options()
        )
        open_stream: grpc.aio.StreamStreamMultiCallable[raft_pb2.Packet, raft_pb2.PacketReply]
        open_stream = channel.stream_stream(
            "/overdb.internal.v1.Raft/Deliver",
            request_serializer=raft_pb2.Packet.SerializeToString,
            response_deserializer=raft_pb2.PacketReply.FromString,
        )
        backoff = RECONNECT_SECONDS_MIN
        connected = False
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while True:
                try:
                    call = open_stream()
                    await call.wait_for_connection()
                    _log.debug("peer_connected", peer=self.member.replica_id)
                    connected = True
                    began = loop.time()
                    self._drop_queue()  # what waited for the connection is older than a heartbeat
                    await self._deliver(call)
                except grpc.aio.AioRpcError as error:
                    self._report(error, connected)
                except Exception as error:  # a link must never end quietly: it is half of a quorum
                    _log.error("peer_link_failed", peer=self.member.replica_id, reason=repr(error))
                if connected and loop.time() - began > LIVED_SECONDS:
                    backoff = RECONNECT_SECONDS_MIN  # not one that takes the stream and refuses it
                connected = False
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, RECONNECT_SECONDS_MAX)
        finally:
            await channel.close(None)

    def _report(self, error: grpc.aio.AioRpcError, connected: bool) -> None:
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            if (
                error.details() != self._refusal
            ):  # told once: it goes on until somebody does something
                self._refusal = error.details() or ""
                _log.error("peer_refused_us", peer=self.member.replica_id, reason=self._refusal)
        elif connected:
            _log.info("peer_lost", peer=self.member.replica_id, reason=error.details())

    async def _deliver(
        self, call: grpc.aio.StreamStreamCall[raft_pb2.Packet, raft_pb2.PacketReply]
    ) -> None:
        call.add_done_callback(lambda _: self._wake.set())
        self._introduced = False
        try:
            while not call.done():
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                try:
                    await call.write(self._packet())
                except asyncio.InvalidStateError:
                    break  # the call has ended; its status says why
            raise grpc.aio.AioRpcError(
                await call.code(),
                grpc.aio.Metadata(),
                grpc.aio.Metadata(),
                details=await call.details(),
            )
        finally:
            call.cancel()

    def _packet(self) -> raft_pb2.Packet:
        own = self._own
        packet = raft_pb2.Packet(cluster=own.cluster, group=own.group, to=self.member.replica_id)
        setattr(packet, "from", own.replica_id)  # a keyword in Python
        packet.incarnation = own.incarnation
        packet.level = own.level
        packet.founding_groups = own.groups
        start = own.start()
        packet.start_number, packet.start_id = start.number, start.id
        if not self._introduced:
            packet.address = self._own_address()
            self._introduced = True
        taken = size = 0
        for message, message_bytes in self._queue:
            if taken and size + message_bytes > PACKET_BYTES_MAX:
                break
            encode(message, packet.messages.add())
            size += message_bytes
            taken += 1
        del self._queue[:taken]
        self.queued_bytes -= size
        return packet

    def _drop_queue(self) -> None:
        self._queue.clear()
        self.queued_bytes = 0


def _size_of(message: Message) -> int:
    if isinstance(message, Append):
        return _MESSAGE_OVERHEAD_BYTES + sum(
            len(entry.payload) + _MESSAGE_OVERHEAD_BYTES for entry in message.entries
        )
    if isinstance(message, Chunk):
        return _MESSAGE_OVERHEAD_BYTES + len(message.data)
    return _MESSAGE_OVERHEAD_BYTES


class Peers:
    """All other members of the group, and strangers who write first."""

    def __init__(
        self,
        own: Address,
        address_of: Callable[[Member], str],
        own_address: Callable[[], str] = str,
    ) -> None:
        """``address_of`` says where a member is reached: settings may know better than the log.
        ``own_address`` is where this replica is reached, as far as it knows."""
        self._own = own
        self._address_of = address_of
        self._own_address = own_address
        self._peers: dict[int, Peer] = {}
        self._members: frozenset[int] = frozenset()
        self._closing: set[asyncio.Task[None]] = set()

    def update(self, members: Iterable[Member], removed: Collection[int] = ()) -> None:
        """Have a link to every member where it is now; end those to replicas that are ``removed`` for good.

        Until its removal is committed a leader that removes itself needs answers, and a removal may be cut.
        """
        reached = {
            m.replica_id: Member(m.replica_id, self._address_of(m), m.voter)
            for m in members
            if m.replica_id != self._own.replica_id
        }
        for gone in [one for one in self._peers if one in removed and one not in reached]:
            self._close(gone)
        self._members = frozenset(reached)
        for replica_id, member in reached.items():
            known = self._peers.get(replica_id)
            if known is not None and known.member.address != member.address:
                self._close(replica_id)
                known = None
            if known is None:
                self._peers[replica_id] = Peer(self._own, member, self._own_address)

    def meet(self, replica_id: int, address: str) -> None:
        """Have a link back to one who wrote and is no member by the own log.

        It may be the first leader of a replica that joins, or a candidate that is ahead: votes are granted
        in any configuration (PROTOCOL 3.6), and an answer needs a way.
        """
        known = self._peers.get(replica_id)
        if replica_id in self._members or replica_id == self._own.replica_id or not address:
            return
        if known is not None and known.member.address == address:
            return
        strangers = [one for one in self._peers if one not in self._members]
        if known is not None or len(strangers) >= STRANGERS_MAX:
            self._close(replica_id if known is not None else strangers[0])
        member = Member(replica_id, address, voter=False)
        self._peers[replica_id] = Peer(self._own, member, self._own_address)

    def _close(self, replica_id: int) -> None:
        closing = asyncio.create_task(self._peers.pop(replica_id).close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def send(self, to: int, message: Message) -> None:
        peer = self._peers.get(to)
        if peer is not None:
            peer.send(message)

    @property
    def queued_bytes(self) -> int:
        return sum(peer.queued_bytes for peer in self._peers.values())

    @property
    def dropped(self) -> int:
        return sum(peer.dropped for peer in self._peers.values())

    async def close(self) -> None:
        await asyncio.gather(*(peer.close() for peer in self._peers.values()), *self._closing)
