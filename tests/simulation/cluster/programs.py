"""Which nodes of a run begin with the program of the release before, to be upgraded under faults (FAULTS 90).

Drawn from the seed, apart from all else: a seed without older programs has the trace that it had before.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from overdb_simulation.cluster import Node

SHARE = 0.3  # of all seeds
OLDER_SHARE = 0.7  # of the nodes in such a run


def mix_programs(seed: int, nodes: Iterable[Node]) -> None:
    """Have some nodes start with a program that knows level 0 only."""
    random = Random(f"programs {seed}")
    if random.random() >= SHARE:
        return
    for node in nodes:
        if random.random() < OLDER_SHARE:
            node.level_known = 0
