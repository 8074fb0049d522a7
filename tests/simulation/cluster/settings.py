"""Settings that differ between nodes and change while the cluster runs (FAULTS 85)."""

from __future__ import annotations

from random import Random
from typing import Any


def draw(random: Random) -> dict[str, Any]:
    """Settings of one node. Whichever node leads next puts them into the log of its group."""
    return {
        "client_id_seconds": random.choice((60, 600, 3600)),
        "retention_seconds": random.choice((10, 60, 3600)),  # clients give up within 5 s
        "operations_max": random.choice((512, 1024)),
        "unacknowledged_max": random.choice((1024, 65_536)),
        "result_bytes_per_client_max": random.choice((1 << 16, 8 << 20)),
        "result_bytes_max": random.choice((4 << 20, 256 << 20)),
    }
