"""How slow the machine is at the moment: bounds in seconds are meant for a usual one.

The same machine may take three times as long for the same work an hour later, when it is a guest and its
host is busy. A bound with room for that would not notice what it is there for.
"""

from __future__ import annotations

import os
import time

_USUAL_SECONDS = 0.06  # for the work below, of the machines that the bounds were measured on


def slowness() -> float:
    """How many times longer than usual ordinary Python and small system calls take now; at least 1."""
    return max(1.0, min(_work_seconds() for _ in range(3)) / _USUAL_SECONDS)


def python_seconds(rounds: int) -> float:
    """Seconds of a loop of ordinary Python."""
    found: dict[int, tuple[int, int]] = {}
    began = time.perf_counter()
    for number in range(rounds):
        pair = (number, number + 1)
        found[number & 1023] = pair
        if (pair[0] + pair[1]) % 7 == 0:
            found.pop(number & 1023, None)
    return time.perf_counter() - began


def _work_seconds() -> float:
    reader, writer = os.pipe()
    try:
        began = time.perf_counter()
        python_seconds(200_000)
        for _ in range(5_000):
            os.write(writer, b"x")
            os.read(reader, 1)
        return time.perf_counter() - began
    finally:
        os.close(reader)
        os.close(writer)
