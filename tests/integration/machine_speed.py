"""How fast the machine is at the moment: reports of measurements say it.

The same machine may take three times as long for the same work an hour later, when it is a guest and its
host is busy.
"""

from __future__ import annotations

import time


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
