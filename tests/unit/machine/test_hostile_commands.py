"""No command makes ``apply`` fail, whatever is in it, at any level: seeded, over all commands (FAULTS 87).

``OVERDB_TEST_HOSTILE_SEEDS=FIRST:COUNT`` runs other seeds, and as many as are wanted.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from overdb.internal.v1 import shard_pb2
from overdb_node import codec, transaction_codec
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import Configure, Refused
from tests.sizes import Sizes
from tests.unit.machine.helpers import Group
from tests.unit.machine.hostile_commands import Hostile

ENTRIES = 30
U64_MAX = (1 << 64) - 1


def run(seed: int, level: int) -> None:
    """Two groups with three replicas each: one goes on, one restarts, one takes over the other's disk."""
    random = Random(seed)
    hostile = Hostile(random)
    groups = [_replicas(group, level) for group in (0, 1)]
    for _ in range(ENTRIES):
        payload = hostile.payload()
        for replicas in groups:
            _apply(replicas, payload)


def _replicas(group: int, level: int) -> list[Group]:
    small = {"operations_max": 30, "unacknowledged_per_client_max": 8, "parked_keys_max": 6}
    settings = MachineSettings(group=group, groups=2, level=0, **small)  # type: ignore[arg-type]
    replicas = [Group(settings) for _ in range(3)]
    for replica in replicas:  # as a leader does before anything else
        replica.one(Configure(settings.limits, level))
    return replicas


def _apply(replicas: list[Group], payload: bytes) -> None:
    answers, digests, written = [], [], []
    for replica in replicas:
        # A forged commit below its vote is done at level 0, as the release before does it.
        replica.store.versions_grow = replica.machine.level >= 1
        stamp, commands = codec.decode_envelope(payload)
        results = replica.entry(*commands, stamp=stamp)
        assert len(results) == len(commands)
        answers.append([_encoded(result) for result in results])
        answers[-1] += [_encoded(result) for _, result in replica.machine.take_released()]
        assert 0 <= replica.machine.physical <= replica.machine.clock <= U64_MAX
        for of_key in replica.store.versions.values():
            assert max(of_key) <= replica.machine.clock
        transaction_codec.open_transactions(replica.machine).SerializeToString()
        replica.machine.participant.alarms.clear()
        digests.append(replica.machine.digest())
        written.append(replica.store.names)
    assert answers[0] == answers[1] == answers[2]
    assert digests[0] == digests[1] == digests[2]
    assert written[0] == written[1] == written[2]
    replicas[1].restart()
    assert replicas[1].machine.digest() == digests[0]
    replicas[2].store = replicas[0].store.copy()  # as an installed snapshot
    replicas[2].restart()


def _encoded(result: object) -> bytes:
    out = shard_pb2.Result()
    codec.fill_result(out, result)  # type: ignore[arg-type]
    if isinstance(result, Refused):
        assert "\n" not in result.message
        assert len(result.message) < 1000
    return out.SerializeToString(deterministic=True)


@pytest.mark.parametrize("level", [0, 1])
def test_apply_takes_everything(level: int, sizes: Sizes) -> None:
    seeds = sizes.seeds(quick=12, full=40)
    if asked := os.environ.get("OVERDB_TEST_HOSTILE_SEEDS"):
        first, count = map(int, asked.split(":"))
        seeds = range(first, first + count)
    for seed in seeds:
        try:
            run(seed, level)
        except Exception as error:
            raise AssertionError(f"seed {seed}, level {level}: {error!r}") from error
