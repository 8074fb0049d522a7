"""Which answer a message of commands gets: versions alone, or a result for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_node.applying import Applier, Deferred, Waiting
from overdb_node.machine.machine import Machine, MachineSettings
from overdb_node.metrics import NodeMetrics
from overdb_node.storage.data import DataStore
from tests.unit.node.test_comparing import entry, put
from tests.unit.node.test_disk_stall import Caught


def _delete(key: bytes, number: int) -> log_pb2.Command:
    identity = put(key, number).put.id
    return log_pb2.Command(delete=kv_pb2.DeleteRequest(key=key, id=identity))


def _answer(path: Path, compact: bool, *commands: log_pb2.Command) -> shard_pb2.ShardResponse:
    data = DataStore(path / "data")
    machine = Machine(data, MachineSettings())
    machine.load()
    waiting, answers = Waiting(), Caught()
    answers.compact = compact
    waiting.add(1, 1, 7, answers)
    metrics = NodeMetrics(CollectorRegistry(), 0, 1)
    applier = Applier(machine, data, waiting, Deferred(), metrics)
    applier.extend([entry(1, *commands)])
    applier.run_slice()
    data.close()
    (response,) = answers.caught
    assert response.sequence == 7
    return response


def test_puts_that_have_written_are_answered_by_their_versions(tmp_path: Path) -> None:
    response = _answer(tmp_path, True, put(b"a", 1), put(b"b", 2))
    assert not response.results
    first, second = response.versions
    assert second == first + 1


@pytest.mark.parametrize(
    ("compact", "second"),
    [(False, put(b"b", 2)), (True, _delete(b"b", 2)), (True, put(b"", 2))],
    ids=["an older router", "a delete", "a refusal"],
)
def test_anything_else_is_answered_one_by_one(
    tmp_path: Path, compact: bool, second: log_pb2.Command
) -> None:
    response = _answer(tmp_path, compact, put(b"a", 1), second)
    assert not response.versions
    assert len(response.results) == 2
