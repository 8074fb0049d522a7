"""Whatever fails inside a replica ends it: a replica that is half alive is worse than none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from overdb_node.metrics import NodeMetrics
from overdb_node.node import open_storage
from overdb_node.raft.core import Raft
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings


@pytest.mark.parametrize("broken", ["persisted", "tick", "take_output"])
def test_a_failure_in_any_turn_of_the_core_is_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("an invariant does not hold")

    monkeypatch.setattr(Raft, broken, fail)

    async def run() -> list[str]:
        settings = NodeSettings.model_validate(
            {
                "node_id": 1,
                "groups": 1,
                "members": "1=127.0.0.1:1",
                "data": tmp_path / "node",
                "tick_ms": 10,
                "heartbeat_ms": 20,
                "election_ms_min": 200,
                "election_ms_max": 300,
            }
        )
        failed = asyncio.Event()
        reasons: list[str] = []

        def on_fatal(reason: str) -> None:
            reasons.append(reason)
            failed.set()

        metrics = NodeMetrics(CollectorRegistry(), 0, 1)
        replica = Replica(settings, open_storage(settings), metrics, on_fatal)
        replica.start()
        async with asyncio.timeout(20):
            await failed.wait()
        await replica.stop()
        return reasons

    assert asyncio.run(run()) == ["AssertionError: an invariant does not hold"]
