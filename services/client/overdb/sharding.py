"""Where a key lives: key -> tag -> slot. Groups own slots; which ones is data in the groups."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import xxhash

SLOTS = 4096


def tag_of(key: bytes) -> bytes:
    """Return the part of the key that is hashed: what stands in the first ``{...}``, else all of it.

    An empty ``{}`` or a brace that is never closed is no tag.
    """
    opening = key.find(b"{")
    if opening < 0:
        return key
    closing = key.find(b"}", opening + 1)
    if closing <= opening + 1:
        return key
    return key[opening + 1 : closing]


def slot_of(key: bytes) -> int:
    """Return the slot of a key, ``[0, SLOTS)``: xxh3_64 of its tag."""
    if b"{" in key:
        key = tag_of(key)
    return xxhash.xxh3_64_intdigest(key) % SLOTS


def slots_of(keys: Iterable[bytes]) -> list[int]:
    """Return the slot of each key."""
    digest = xxhash.xxh3_64_intdigest
    return [digest(tag_of(key) if b"{" in key else key) % SLOTS for key in keys]


@lru_cache(maxsize=64)
def founding_slots(group: int, groups: int) -> bytes:
    """Return the bitmap of the slots that a group owns at first: those with ``slot % groups == group``.

    512 bytes; bit ``slot % 8`` of byte ``slot // 8`` is set when the slot is owned.
    """
    bitmap = bytearray(SLOTS // 8)
    for slot in range(group, SLOTS, groups):
        bitmap[slot // 8] |= 1 << (slot % 8)
    return bytes(bitmap)


_BITS = [bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256)]


@lru_cache(maxsize=64)
def expand(bitmap: bytes) -> bytes:
    """Return one byte for each slot of such a bitmap: 1 where its bit is set, else 0."""
    return b"".join(map(_BITS.__getitem__, bitmap))
