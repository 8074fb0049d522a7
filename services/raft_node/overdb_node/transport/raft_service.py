"""Incoming links: packets of other replicas, checked for identity and handed to the replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc
import structlog

from overdb.internal.v1 import raft_pb2, raft_pb2_grpc
from overdb_node.raft.messages import Message
from overdb_node.storage.starts import Start
from overdb_node.transport.peers import Address, Sender
from overdb_node.transport.wire import MalformedMessage, decode

_log = structlog.get_logger()

Receive = Callable[[int, list[Message]], None]


class Gate(Protocol):
    """Decides whose packets count (``peer_admission.PeerAdmission``)."""

    def admit(self, sender: Sender) -> str:
        """Returns why nothing that ``sender`` says counts here, UNHEARD for now, or ""."""
        ...

    def may_count(self, sender: Sender) -> bool:
        """Returns whether the sender's start is noted durably."""
        ...

    async def note(self, sender: Sender) -> bool:
        """Notes it; returns ``may_count``."""
        ...


UNHEARD = "not known yet"  # the packet counts as lost; the stream goes on
MESSAGES_MAX = 65_536  # a packet of 4 MiB (``peers.PACKET_BYTES_MAX``) has no more
REFUSALS_NOTED_MAX = 64
REFUSALS_SECONDS = 60.0


class RaftService(raft_pb2_grpc.RaftServicer):
    """Receives what other replicas send. Packets for another cluster, group or replica end the stream, and so
    do those of removed replicas and of disks that took another one's place."""

    def __init__(self, own: Address, receive: Receive, gate: Gate) -> None:
        self._own = own
        self._receive = receive
        self._gate = gate
        self._refused: set[tuple[int, str]] = set()  # logged once: the sender tries again for ever
        self._refused_since = 0.0

    async def Deliver(  # type: ignore[override]  # noqa: N802  # answers by write(), yields nothing
        self,
        request_iterator: AsyncIterator[raft_pb2.Packet],
        context: grpc.aio.ServicerContext[raft_pb2.Packet, raft_pb2.PacketReply],
    ) -> None:
        async for packet in request_iterator:
            sender = _sender_of(packet)
            difference = self._difference(packet, sender)
            if difference == UNHEARD:
                continue
            if difference:
                self._report(context.peer(), sender.replica_id, difference)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, difference)
            if len(packet.messages) > MESSAGES_MAX:
                self._report(context.peer(), sender.replica_id, "too many messages in a packet")
                continue
            try:
                decoded = [decode(message) for message in packet.messages]
            except MalformedMessage as error:
                self._report(context.peer(), sender.replica_id, f"a packet with {error}")
                continue
            # The first packet of a life waits for the note of it, and so do those behind it (PROTOCOL 3.9).
            if self._gate.may_count(sender) or await self._gate.note(sender):
                self._receive(sender.replica_id, decoded)

    def _report(self, peer: str, sender: int, reason: str) -> None:
        """Log a refusal once; of more than a few kinds only some each minute."""
        if (sender, reason) in self._refused:
            return
        if len(self._refused) >= REFUSALS_NOTED_MAX:
            now = asyncio.get_running_loop().time()
            if now - self._refused_since < REFUSALS_SECONDS:
                return
            self._refused.clear()
            self._refused_since = now
        self._refused.add((sender, reason))
        _log.warning("refused_peer", peer=peer, reason=reason)

    def _difference(self, packet: raft_pb2.Packet, sender: Sender) -> str:
        """Why a packet is not for this replica (PROTOCOL 3.5); empty when it is."""
        own = self._own
        if packet.cluster != own.cluster:
            return f"this is cluster '{own.cluster}', the packet is for {packet.cluster[:63]!r}"
        if packet.group != own.group:
            return f"this is group {own.group}, the packet is for group {packet.group}"
        if packet.to != own.replica_id:
            return f"this is replica {own.replica_id}, the packet is for replica {packet.to}"
        if sender.replica_id == own.replica_id:
            return f"replica {own.replica_id} is this one: two processes have the same id"
        return self._gate.admit(sender)


def _sender_of(packet: raft_pb2.Packet) -> Sender:
    return Sender(
        getattr(packet, "from"),  # a keyword in Python
        packet.incarnation,
        packet.address,
        Start(packet.start_number, packet.start_id),
        packet.founding_groups,
        packet.level,
    )
