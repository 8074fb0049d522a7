"""Ports for clusters of tests, away from those that a user's own cluster has."""

from __future__ import annotations

import os
import socket

_SPAN = 120  # what one small cluster takes, with the ports of its metrics


def free_base_port(span: int = _SPAN) -> int:
    """A port with ``span`` free ones from it on, below the range that connections are given."""
    blocks = 9_900 // span
    start = os.getpid() * 7
    for attempt in range(blocks):
        base = 10_000 + (start + attempt) % blocks * span
        if all(_is_free(base + offset) for offset in range(span)):
            return base
    raise AssertionError("no free block of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
