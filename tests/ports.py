"""Ports for the processes that tests start.

Two workers of one run, two runs on one machine and ``overdb torture`` never get the same ones: a process
takes whole blocks and keeps the last port of each bound as long as it lives.
"""

from __future__ import annotations

import os
import socket

_FIRST, _END = 12_000, 31_920  # below the ports that the kernel gives to connections
_BLOCK = 120  # what a small cluster takes from its base port on, with the ports of its metrics
_LOOSE_BLOCKS = 3  # single ports are handed out in turn, so that one comes again late

_claims: list[socket.socket] = []
_bases: list[int] = []  # blocks for clusters that take them whole
_loose: list[int] = []  # single ports
_next = 0


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody listens on now, and that nobody else is given. Called by one thread."""
    global _next
    while len(_loose) < _LOOSE_BLOCKS * (_BLOCK - 1):
        base = _claim()
        _loose.extend(range(base, base + _BLOCK - 1))
    found: list[int] = []
    for _ in range(len(_loose)):
        port, _next = _loose[_next], (_next + 1) % len(_loose)
        if is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError(f"no {count} free ports")


def free_base_port() -> int:
    """Returns the first of 119 consecutive ports of the same kind."""
    for _ in range(len(_bases)):
        base = _bases.pop(0)
        _bases.append(base)
        if len(_bases) > 2 and all(map(is_free, range(base, base + _BLOCK - 1))):
            return base
    _bases.append(_claim())
    return _bases[-1]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _claim() -> int:
    """Takes a block for this process."""
    blocks = (_END - _FIRST) // _BLOCK
    for attempt in range(blocks):
        base = _FIRST + (os.getpid() * 7 + attempt) % blocks * _BLOCK
        if not all(map(is_free, range(base, base + _BLOCK - 1))):
            continue
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", base + _BLOCK - 1))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return base
    raise AssertionError("no free block of ports")
