"""Nested tuples of plain values as bytes and back: the form of a transaction's record on disk.

Tags are never used again. What is read is what was written: every part stands behind its tag and length.
"""

from __future__ import annotations

import struct
from typing import Any

_HEAD = struct.Struct(">cI")
_NONE, _FALSE, _TRUE = _HEAD.pack(b"n", 0), _HEAD.pack(b"b", 0), _HEAD.pack(b"b", 1)


def pack(value: Any) -> bytes:
    """None, bool, int of any size, bytes, str and tuples of them. IntEnums come back as int."""
    parts: list[bytes] = []
    _pack(value, parts)
    return b"".join(parts)


def _pack(value: Any, parts: list[bytes]) -> None:
    kind = type(value)
    if kind is bytes:
        parts += (_HEAD.pack(b"s", len(value)), value)
    elif kind is bool:
        parts.append(_TRUE if value else _FALSE)
    elif value is None:
        parts.append(_NONE)
    elif isinstance(value, int):
        digits = b"%d" % value
        parts += (_HEAD.pack(b"i", len(digits)), digits)
    elif kind is str:
        text = value.encode()
        parts += (_HEAD.pack(b"u", len(text)), text)
    else:
        assert isinstance(value, tuple), kind
        parts.append(_HEAD.pack(b"t", len(value)))
        for item in value:
            _pack(item, parts)


def unpack(packed: bytes) -> Any:
    """What ``pack`` was given."""
    return _unpack(packed, 0)[0]


def _unpack(packed: bytes, offset: int) -> tuple[Any, int]:
    tag, length = _HEAD.unpack_from(packed, offset)
    offset += _HEAD.size
    if tag == b"n":
        return None, offset
    if tag == b"b":
        return bool(length), offset
    if tag == b"t":
        items = []
        for _ in range(length):
            item, offset = _unpack(packed, offset)
            items.append(item)
        return tuple(items), offset
    content = packed[offset : offset + length]
    offset += length
    if tag == b"i":
        return int(content), offset
    if tag == b"u":
        return content.decode(), offset
    assert tag == b"s", tag
    return content, offset
