"""Which replicas of a run use leases, and how fast their clocks run.

Drawn from the seed, apart from all else: a seed without leases gives the trace that it gave before there
were any.
"""

from __future__ import annotations

from random import Random
from typing import Any

from overdb_simulation.cluster import Node

SHARE = 0.4  # of all seeds
MIXED_SHARE = (
    0.3  # of those with leases: some replicas have none, and turn them on and off as they start
)
RATES = (1.0, 0.93, 1.05)  # of clocks; leases allow for a tenth


class Leases:
    def __init__(self, seed: int, wanted: bool | None = None) -> None:
        self._random = random = Random(f"leases {seed}")
        drawn = random.random() < SHARE
        self.on = drawn if wanted is None else wanted
        self._mixed = random.random() < MIXED_SHARE

    def settings(self, _: Node) -> dict[str, Any]:
        """Of a replica that starts."""
        if not self.on:
            return {}
        return {"read_leases": not self._mixed or self._random.random() < 0.7}

    def clock_rate(self, _: Node) -> float:
        return self._random.choice(RATES) if self.on else 1.0
