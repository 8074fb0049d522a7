"""The default of the heartbeat interval."""

from __future__ import annotations

import pytest

from overdb_node.settings import NodeSettings


def raft_ticks(**settings: int) -> int:
    """Ticks from one heartbeat to the next."""
    whole = NodeSettings.model_validate({"node_id": 1, "members": "1=localhost:7410", **settings})
    return whole.raft_settings().heartbeat_ticks


@pytest.mark.parametrize(
    ("settings", "ticks"),
    [
        ({}, 2),
        ({"election_ms_min": 300}, 1),
        ({"election_ms_min": 200, "election_ms_max": 400}, 1),
        ({"election_ms_min": 500, "tick_ms": 20}, 5),
        ({"election_ms_min": 5_000, "election_ms_max": 9_000}, 2),
        ({"election_ms_min": 500, "heartbeat_ms": 400}, 4),
    ],
)
def test_shorter_elections_mean_shorter_heartbeats_unless_they_are_set(
    settings: dict[str, int], ticks: int
) -> None:
    assert raft_ticks(**settings) == ticks
