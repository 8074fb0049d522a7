"""Raft messages <-> protobuf: the one file that knows both (the core has no wire types)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import google_crc32c
from google.protobuf.message import DecodeError

from overdb.internal.v1 import log_pb2, raft_pb2
from overdb_node.raft import messages
from overdb_node.raft.membership import MEMBERS_MAX
from overdb_node.raft.messages import Message
from overdb_node.raft.types import Entry, EntryKind

REPLICA_ID_MAX = (1 << 63) - 1
_KINDS = {int(kind): kind for kind in EntryKind}


class MalformedMessage(ValueError):  # noqa: N818  # it names what came
    """A message that no replica of this program sends: it is dropped."""


def encode(message: Message, out: raft_pb2.RaftMessage) -> None:
    """Fill ``out``, which is empty, with a core message."""
    out.term = message.term
    if isinstance(message, messages.Append):
        append = out.append
        append.round = message.round
        append.first_index = message.first_index
        append.leader_commit = message.leader_commit
        append.group_time_us = message.group_time_us
        for entry in message.entries:
            append.entries.add(term=entry.term, kind=_wire_kind(entry.kind), payload=entry.payload)
    elif isinstance(message, messages.Answer):
        answer = out.answer
        answer.round = message.round
        answer.ok = message.ok
        answer.agreed = message.agreed
        answer.agreed_term = message.agreed_term
        answer.promise_us = message.promise_us
        answer.wall_us = message.wall_us
        answer.disk = message.disk
        answer.SetInParent()
    else:
        _ENCODERS[type(message)](message, out)


def _wire_kind(kind: EntryKind) -> log_pb2.Kind.ValueType:
    return cast("log_pb2.Kind.ValueType", int(kind))


def _encode_vote_request(message: messages.VoteRequest, out: raft_pb2.RaftMessage) -> None:
    out.vote_request.CopyFrom(
        raft_pb2.VoteRequest(
            last_index=message.last_index,
            last_term=message.last_term,
            pre=message.pre,
            transfer=message.transfer,
        )
    )


def _encode_vote_answer(message: messages.VoteAnswer, out: raft_pb2.RaftMessage) -> None:
    out.vote_answer.CopyFrom(raft_pb2.VoteAnswer(granted=message.granted, pre=message.pre))


def _encode_offer(message: messages.Offer, out: raft_pb2.RaftMessage) -> None:
    out.offer.CopyFrom(
        raft_pb2.Offer(
            round=message.round,
            index=message.index,
            element_term=message.element_term,
            size=message.size,
        )
    )


def _encode_offer_answer(message: messages.OfferAnswer, out: raft_pb2.RaftMessage) -> None:
    out.offer_answer.CopyFrom(
        raft_pb2.OfferAnswer(
            round=message.round,
            index=message.index,
            element_term=message.element_term,
            send_from=message.send_from,
            window_bytes=message.window_bytes,
        )
    )


def _encode_chunk(message: messages.Chunk, out: raft_pb2.RaftMessage) -> None:
    out.chunk.CopyFrom(
        raft_pb2.Chunk(
            round=message.round,
            index=message.index,
            element_term=message.element_term,
            offset=message.offset,
            size=message.size,
            data=message.data,
            crc32c=google_crc32c.value(message.data),
        )
    )


def _encode_chunk_answer(message: messages.ChunkAnswer, out: raft_pb2.RaftMessage) -> None:
    out.chunk_answer.CopyFrom(
        raft_pb2.ChunkAnswer(
            round=message.round,
            index=message.index,
            element_term=message.element_term,
            next_offset=message.next_offset,
            window_bytes=message.window_bytes,
            dropped=message.dropped,
        )
    )


def _encode_timeout_now(_: messages.TimeoutNow, out: raft_pb2.RaftMessage) -> None:
    out.timeout_now.SetInParent()


_ENCODERS: dict[type, Callable[..., None]] = {
    messages.VoteRequest: _encode_vote_request,
    messages.VoteAnswer: _encode_vote_answer,
    messages.Offer: _encode_offer,
    messages.OfferAnswer: _encode_offer_answer,
    messages.Chunk: _encode_chunk,
    messages.ChunkAnswer: _encode_chunk_answer,
    messages.TimeoutNow: _encode_timeout_now,
}


def decode(wire: raft_pb2.RaftMessage) -> Message:
    """Return the core message.

    Raises MalformedMessage for a body or an entry kind that this program does not know, and for a chunk
    whose checksum does not fit.
    """
    body = wire.WhichOneof("body")
    if body == "append":
        return _decode_append(wire.term, wire.append)
    if body == "answer":
        a = wire.answer
        return messages.Answer(
            wire.term, a.round, a.ok, a.agreed, a.agreed_term, a.promise_us, a.wall_us, a.disk
        )
    if body is None:
        raise MalformedMessage("a message without a known body")
    return _DECODERS[body](wire)


def _decode_append(term: int, append: raft_pb2.Append) -> messages.Append:
    first = append.first_index
    try:
        entries = tuple(
            Entry(first + i, record.term, _KINDS[record.kind], record.payload)
            for i, record in enumerate(append.entries)
        )
    except KeyError as error:
        raise MalformedMessage(f"an entry of unknown kind {error}") from error
    for entry in entries:
        if entry.kind is EntryKind.CONFIGURATION:
            _check_configuration(entry.payload)
    return messages.Append(
        term, append.round, first, entries, append.leader_commit, append.group_time_us
    )


def _check_configuration(payload: bytes) -> None:
    """It counts as soon as it is in the log (PROTOCOL 3.1): what no leader proposes must not come there."""
    try:
        wire = log_pb2.Configuration.FromString(payload)
    except DecodeError as error:
        raise MalformedMessage("a configuration that cannot be read") from error
    ids = [replica.id for replica in wire.replicas]
    retired = set(wire.retired)
    if (
        len(set(ids)) < len(ids)
        or not all(0 < one <= REPLICA_ID_MAX for one in (*ids, *retired))
        or not retired.isdisjoint(ids)
        or not any(replica.voter for replica in wire.replicas)
        or len(ids) > MEMBERS_MAX
    ):
        raise MalformedMessage(f"a configuration of the replicas {ids[: MEMBERS_MAX + 1]}")


def _decode_vote_request(wire: raft_pb2.RaftMessage) -> Message:
    v = wire.vote_request
    return messages.VoteRequest(wire.term, v.last_index, v.last_term, v.pre, v.transfer)


def _decode_vote_answer(wire: raft_pb2.RaftMessage) -> Message:
    return messages.VoteAnswer(wire.term, wire.vote_answer.granted, wire.vote_answer.pre)


def _decode_offer(wire: raft_pb2.RaftMessage) -> Message:
    o = wire.offer
    return messages.Offer(wire.term, o.round, o.index, o.element_term, o.size)


def _decode_offer_answer(wire: raft_pb2.RaftMessage) -> Message:
    o = wire.offer_answer
    return messages.OfferAnswer(
        wire.term, o.round, o.index, o.element_term, o.send_from, o.window_bytes
    )


def _decode_chunk(wire: raft_pb2.RaftMessage) -> Message:
    c = wire.chunk
    if google_crc32c.value(c.data) != c.crc32c:
        raise MalformedMessage(f"chunk at {c.offset}: its checksum does not fit")
    return messages.Chunk(wire.term, c.round, c.index, c.element_term, c.offset, c.size, c.data)


def _decode_chunk_answer(wire: raft_pb2.RaftMessage) -> Message:
    c = wire.chunk_answer
    return messages.ChunkAnswer(
        wire.term, c.round, c.index, c.element_term, c.next_offset, c.window_bytes, c.dropped
    )


def _decode_timeout_now(wire: raft_pb2.RaftMessage) -> Message:
    return messages.TimeoutNow(wire.term)


_DECODERS: dict[str, Callable[[raft_pb2.RaftMessage], Message]] = {
    "vote_request": _decode_vote_request,
    "vote_answer": _decode_vote_answer,
    "offer": _decode_offer,
    "offer_answer": _decode_offer_answer,
    "chunk": _decode_chunk,
    "chunk_answer": _decode_chunk_answer,
    "timeout_now": _decode_timeout_now,
}
