"""Small JSON files that operators may read, with a checksum among their fields: a flipped bit is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import google_crc32c

_CHECKSUM = "checksum"


def encode(content: Mapping[str, Any]) -> bytes:
    """``content`` and its checksum as indented JSON."""
    return (json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1) + "\n").encode()


def decode(raw: str, newest: int, *, checked_if: str = "") -> dict[str, Any]:
    """The content of a file. Raises ValueError when it is damaged or no JSON object.

    A ``format`` beyond ``newest`` is returned unchecked, for the caller to refuse. ``checked_if`` names
    a field that came with the checksum: a file without both is from before, and taken.
    """
    content = json.loads(raw)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if isinstance(found := content.get("format"), int) and found > newest:
        return content
    if checked_if and checked_if not in content and _CHECKSUM not in content:
        return content
    if content.pop(_CHECKSUM, None) != _checksum(content):
        raise ValueError("its checksum does not fit")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{google_crc32c.value(body.encode()):08x}"
