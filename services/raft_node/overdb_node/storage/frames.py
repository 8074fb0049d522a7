"""How log records lie on disk: frames, one for each group commit, with one checksum each.

    frame   = magic (4) | length of body (4) | crc32c of sequence and body (4) | sequence (8) | body
    body    = records and, since format 2, the byte 3
    record  = 1 | term (8) | vote (8) | commit index (8)                      the hard state
            | 2 | kind (1) | term (8) | index (8) | length (4) | payload      an entry

All numbers are big-endian. Sequences grow by one from frame to frame, over segments. A frame is only
written when the fdatasync of the one before has returned. So a frame that is not whole is the torn end
of the log if nothing valid follows it, and corruption if something does. A torn frame has a sector, or
its end, still zero: sectors are written whole, and the file was zero before. A whole one never ends in zero,
so that a flipped bit in the last frame of all is not taken for the end of the log (unless a value in it has a
whole sector of zeros).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import google_crc32c

from overdb_node.raft.types import Entry, EntryKind, HardState

MAGIC = b"oDbF"
SECTOR_BYTES = 512  # what every disk writes whole
SEQUENCES_MAX = 1 << 32  # more frames than a log ever has at once
_FRAME = struct.Struct(">4sIIQ")
_SEQUENCE = struct.Struct(">Q")
_HARD_STATE = struct.Struct(">BQQQ")
_ENTRY = struct.Struct(">BBQQI")
_IS_HARD_STATE, _IS_ENTRY, _IS_END = 1, 2, 3
_KINDS = {int(kind): kind for kind in EntryKind}


class UnknownRecord(ValueError):  # noqa: N818  # it names what was found
    """A record in a whole frame that this program does not know: a newer one wrote it."""


class Frame(NamedTuple):
    sequence: int
    body: bytes
    end: int  # offset behind it


def encode(sequence: int, hard_state: HardState | None, entries: Sequence[Entry]) -> bytes:
    """One frame. An entry at an index that the log already has replaces it and all behind it."""
    parts: list[bytes] = []
    if hard_state is not None:
        parts.append(
            _HARD_STATE.pack(
                _IS_HARD_STATE, hard_state.term, hard_state.vote, hard_state.commit_index
            )
        )
    for entry in entries:
        payload = entry.payload
        parts.append(_ENTRY.pack(_IS_ENTRY, entry.kind, entry.term, entry.index, len(payload)))
        parts.append(payload)
    parts.append(bytes((_IS_END,)))
    body = b"".join(parts)
    crc = google_crc32c.extend(google_crc32c.value(_SEQUENCE.pack(sequence)), body)
    return _FRAME.pack(MAGIC, len(body), crc, sequence) + body


def read(content: bytes, offset: int) -> Frame | None:
    """The frame at ``offset``; None if there is no whole one."""
    if offset + _FRAME.size > len(content):
        return None
    magic, length, crc, sequence = _FRAME.unpack_from(content, offset)
    start = offset + _FRAME.size
    if magic != MAGIC or start + length > len(content):
        return None
    body = content[start : start + length]
    if google_crc32c.extend(google_crc32c.value(_SEQUENCE.pack(sequence)), body) != crc:
        return None
    return Frame(sequence, body, start + length)


def length_at(content: bytes, offset: int) -> int | None:
    """Bytes of the frame whose head is at ``offset``, by what the head says; None if there is none."""
    if offset + _FRAME.size > len(content):
        return None
    magic, length, _, _ = _FRAME.unpack_from(content, offset)
    return _FRAME.size + int(length) if magic == MAGIC else None


def find_after(content: bytes, offset: int, sequence: int) -> int | None:
    """Offset of a whole frame behind ``offset`` with a sequence above ``sequence``; None: none.

    Sequences begin at a random number, so that a frame in a user's value is not within reach.
    """
    last = sequence + SEQUENCES_MAX if sequence else 2**64
    while (offset := content.find(MAGIC, offset)) >= 0:
        frame = read(content, offset)
        if frame is not None and sequence < frame.sequence <= last:
            return offset
        offset += 1
    return None


def is_torn(content: bytes, offset: int) -> bool:
    """Whether what stands at ``offset``, and is no whole frame, may be one that a crash interrupted."""
    end = len(content.rstrip(b"\0"))
    if end - offset < _FRAME.size:
        return True
    magic, length, _, _ = _FRAME.unpack_from(content, offset)
    whole = offset + _FRAME.size + length
    if magic == MAGIC and whole <= len(content):
        if end < whole:
            return True
        end = whole
    while offset < end:
        stop = min(end, (offset // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if not any(content[offset:stop]):
            return True
        offset = stop
    return False


def is_cut_short(content: bytes, offset: int) -> bool:
    """Whether the head of a frame stands at ``offset``, and the content ends before the frame does."""
    if offset + _FRAME.size > len(content):
        return True
    magic, length, _, _ = _FRAME.unpack_from(content, offset)
    return bool(magic == MAGIC and offset + _FRAME.size + length > len(content))


def is_whole_but_for_its_length(content: bytes, offset: int) -> bool:
    """Whether one bit of its length is all that is wrong with the frame at ``offset``.

    The checksum does not tell where the body ends: a length that grew looks like an end that is missing.
    """
    if offset + _FRAME.size > len(content):
        return False
    magic, length, crc, sequence = _FRAME.unpack_from(content, offset)
    start = offset + _FRAME.size
    before = google_crc32c.value(_SEQUENCE.pack(sequence))
    ends = (start + (length ^ 1 << bit) for bit in range(32))
    return magic == MAGIC and any(
        google_crc32c.extend(before, content[start:end]) == crc
        for end in ends
        if end <= len(content)
    )


def records(body: bytes) -> Iterator[HardState | Entry]:
    """The records of a frame whose checksum was right, in order. Raises UnknownRecord."""
    offset = 0
    while offset < len(body):
        if body[offset] == _IS_HARD_STATE:
            _, term, vote, commit_index = _HARD_STATE.unpack_from(body, offset)
            offset += _HARD_STATE.size
            yield HardState(term, vote, commit_index)
        elif body[offset] == _IS_END:
            offset += 1
        else:
            if body[offset] != _IS_ENTRY:
                raise UnknownRecord(f"a record of kind {body[offset]}")
            _, kind, term, index, length = _ENTRY.unpack_from(body, offset)
            if kind not in _KINDS:
                raise UnknownRecord(f"entry {index} of kind {kind}")
            offset += _ENTRY.size
            yield Entry(index, term, _KINDS[kind], body[offset : offset + length])
            offset += length
