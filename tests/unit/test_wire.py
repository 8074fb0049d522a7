"""Raft messages on the wire: nothing is lost, and what is damaged or unknown is dropped (raft.proto)."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import get_args

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb.internal.v1 import log_pb2, raft_pb2
from overdb_node import codec
from overdb_node.raft import messages
from overdb_node.raft.messages import Append, Chunk, Message, TimeoutNow
from overdb_node.raft.types import Configuration, Entry, EntryKind, Member
from overdb_node.transport import wire

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
OF_32_BITS = ("disk", "window_bytes")
BYTES = st.binary(max_size=40)
MEMBERS = codec.encode_configuration(Configuration((Member(1, "a:1"),)))
PAYLOADS = st.one_of(
    st.tuples(st.sampled_from([EntryKind.NOOP, EntryKind.COMMANDS]), BYTES),
    st.just((EntryKind.CONFIGURATION, MEMBERS)),
)
ENTRY_PARTS = st.lists(st.tuples(U64, PAYLOADS).map(lambda one: (one[0], *one[1])), max_size=4)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    first = draw(st.integers(0, 2**63))
    entries = tuple(Entry(first + i, *parts) for i, parts in enumerate(draw(ENTRY_PARTS)))
    return Append(draw(U64), draw(U64), first, entries, draw(U64))


def strategy(kind: type) -> st.SearchStrategy[Message]:
    if kind is Append:
        return appends()
    of_type = {"int": U64, "bool": st.booleans(), "bytes": BYTES}
    fields = {
        f.name: U32 if f.name in OF_32_BITS else of_type[str(f.type)]
        for f in dataclasses.fields(kind)
    }
    return st.builds(kind, **fields)


def encoded(message: Message) -> raft_pb2.RaftMessage:
    out = raft_pb2.RaftMessage()
    wire.encode(message, out)
    return out


def travelled(message: raft_pb2.RaftMessage) -> raft_pb2.RaftMessage:
    return raft_pb2.RaftMessage.FromString(message.SerializeToString())


@pytest.mark.parametrize("kind", get_args(Message), ids=lambda kind: kind.__name__)
def test_every_message_comes_back_as_it_was(kind: type) -> None:
    @settings(max_examples=50, deadline=None)
    @given(strategy(kind))
    def check(message: Message) -> None:
        assert wire.decode(travelled(encoded(message))) == message

    check()


@pytest.mark.parametrize("kind", get_args(Message), ids=lambda kind: kind.__name__)
def test_a_message_of_zeros_is_still_of_its_kind(kind: type) -> None:
    """proto3 leaves zeros out; an empty heartbeat must not get lost with them."""
    zeros = {"int": 0, "bool": False, "bytes": b"", "tuple[Entry, ...]": ()}
    message = kind(**{f.name: zeros[str(f.type)] for f in dataclasses.fields(kind)})
    assert wire.decode(travelled(encoded(message))) == message


def test_every_message_has_a_place_on_the_wire() -> None:
    """One message of the core, one body of the contract."""
    bodies = raft_pb2.RaftMessage.DESCRIPTOR.oneofs_by_name["body"].fields
    names = {field.message_type.name for field in bodies if field.message_type is not None}
    assert len(names) == len(bodies)
    assert names == {kind.__name__ for kind in get_args(Message)}


def test_the_cores_kinds_of_entries_are_the_contracts() -> None:
    """log.proto: their numbers are on disk and on the wire."""
    wanted = {name.removeprefix("KIND_"): number for name, number in log_pb2.Kind.items() if number}
    assert wanted == {kind.name: int(kind) for kind in EntryKind}


# --- damaged and unknown ---------------------------------------------------------------------------------

CHUNK = Chunk(3, 1, 9, 2, 0, 64, bytes(range(64)))


@given(st.integers(0, 64 * 8 - 1))
def test_a_chunk_with_a_flipped_bit_is_refused(bit: int) -> None:
    message = encoded(CHUNK)
    data = bytearray(message.chunk.data)
    data[bit // 8] ^= 1 << bit % 8
    message.chunk.data = bytes(data)
    with pytest.raises(wire.MalformedMessage, match=r"chunk at 0.*checksum"):
        wire.decode(travelled(message))


@pytest.mark.parametrize("length", [0, 1, 63])
def test_a_chunk_that_lost_its_end_is_refused(length: int) -> None:
    message = encoded(CHUNK)
    message.chunk.data = message.chunk.data[:length]
    with pytest.raises(wire.MalformedMessage):
        wire.decode(message)


def test_a_chunk_without_a_checksum_is_refused() -> None:
    message = encoded(CHUNK)
    message.chunk.ClearField("crc32c")
    with pytest.raises(wire.MalformedMessage):
        wire.decode(message)


@pytest.mark.parametrize("kind", [0, 4, 99])
def test_an_entry_of_an_unknown_kind_is_refused_with_its_whole_message(kind: int) -> None:
    """Not appended half: what is behind an entry that is left out would get its index."""
    entries = (Entry(5, 1, EntryKind.NOOP, b""), Entry(6, 1, EntryKind.COMMANDS, b"x"))
    message = encoded(Append(1, 1, 5, entries, 4))
    message.append.entries[1].kind = kind  # type: ignore[assignment]
    with pytest.raises(wire.MalformedMessage, match=f"unknown kind {kind}"):
        wire.decode(travelled(message))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"",
        codec.encode_configuration(Configuration((Member(1, "a:1", voter=False),))),
        codec.encode_configuration(Configuration((Member(1, "a:1"), Member(1, "b:1")))),
        codec.encode_configuration(Configuration((Member(0, "a:1"),))),
        codec.encode_configuration(Configuration(((Member((1 << 64) - 1, "a:1")),))),
        codec.encode_configuration(Configuration((Member(1, "a:1"),), (1,))),
        codec.encode_configuration(Configuration(tuple(Member(i, "a:1") for i in range(1, 18)))),
    ],
)
def test_members_that_no_leader_proposes_are_refused(payload: bytes) -> None:
    """They count as soon as they are in the log, and one that cannot be read would end the replica."""
    entry = Entry(5, 1, EntryKind.CONFIGURATION, payload)
    with pytest.raises(wire.MalformedMessage, match="a configuration"):
        wire.decode(travelled(encoded(Append(1, 1, 5, (entry,), 4))))


def test_a_message_of_a_later_release_is_refused() -> None:
    """Its body is a field that this program does not know."""
    with pytest.raises(wire.MalformedMessage, match="without a known body"):
        wire.decode(raft_pb2.RaftMessage.FromString(b"\x08\x07\xfa\x01\x00"))


def test_fields_of_a_later_release_are_passed_over() -> None:
    content = encoded(TimeoutNow(7)).SerializeToString() + b"\xfa\x07\x01x"
    assert wire.decode(raft_pb2.RaftMessage.FromString(content)) == TimeoutNow(7)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_no_message_that_can_be_parsed_raises_anything_else(noise: bytes) -> None:
    """An error of another kind would stop the replica."""
    message = raft_pb2.RaftMessage(term=1)
    try:
        message.MergeFromString(noise)
    except DecodeError:
        return
    with contextlib.suppress(wire.MalformedMessage):
        assert isinstance(wire.decode(message), messages.Message)
