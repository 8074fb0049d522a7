"""Leaders of a raised group hear no router of the release before on transactions (PROTOCOL 2.3, 4)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_node.backend import ReplicaBackend
from overdb_node.transport.shard_service import Answers

ID = kv_pb2.RequestId(client_id=bytes(16), request_number=1)
PREPARE = log_pb2.Command(prepare=log_pb2.Prepare(id=ID))
RESOLVE = log_pb2.Command(resolve=log_pb2.Resolve(id=ID, version=1))
PUT = log_pb2.Command(put=kv_pb2.PutRequest(key=b"k"))


@pytest.mark.parametrize(
    ("group_level", "router_level", "command", "taken"),
    [
        (1, 0, PREPARE, False),
        (1, 0, RESOLVE, False),
        (1, 0, PUT, True),  # of a direct client too, which decides nothing
        (1, 1, PREPARE, True),
        (0, 0, PREPARE, True),
        (0, 1, PREPARE, True),
    ],
)
def test_who_decides_transactions_in_a_raised_group(
    group_level: int, router_level: int, command: log_pb2.Command, taken: bool
) -> None:
    proposed: list[bytes] = []
    refused: list[tuple[Any, ...]] = []
    replica: Any = MagicMock()  # what the backend asks beside is not of this test
    replica.settings = SimpleNamespace(group=0, node_id=1)
    replica.machine = SimpleNamespace(level=group_level, clock=1)
    replica.refuse_for_disk.return_value = ""
    replica.propose = lambda commands, *_: proposed.append(commands)
    replica.refuse = lambda *what: refused.append(what)
    commands = log_pb2.Commands(commands=[command]).SerializeToString()
    request = shard_pb2.ShardRequest(sequence=5, commands=commands, count=1, level=router_level)

    ReplicaBackend(replica).exchange(request, Answers())

    assert proposed == ([commands] if taken else [])
    if not taken:
        ((sequence, _, reason, message),) = refused
        assert (sequence, reason) == (5, shard_pb2.Failure.REASON_INVALID)
        assert "this router is older than the cluster" in message
