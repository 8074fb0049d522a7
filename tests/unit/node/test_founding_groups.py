"""A replica that joins takes the number of groups from the cluster (PROTOCOL 3.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from overdb.internal.v1 import shard_pb2
from overdb_common.errors import StartupError
from overdb_node import founding_groups
from overdb_node.founding_groups import with_founding_groups
from overdb_node.settings import NodeSettings
from overdb_node.storage import identity
from overdb_node.storage.identity import Identity

Answer = shard_pb2.DescribeResponse
ROUNDS_MAX = 20


class Cluster:
    """Stands for ``Describer``: each question gets the next answers, the last ones again and again."""

    def __init__(self, *rounds: Sequence[Answer]) -> None:
        self.rounds: list[Sequence[Answer]] = list(rounds) or [[]]
        self.asked: list[list[str]] = []
        self.closed = False
        self.stop = asyncio.Event()

    async def ask(self, addresses: Sequence[str], _group: int) -> Sequence[Answer]:
        self.asked.append(list(addresses))
        if len(self.asked) == ROUNDS_MAX:
            self.stop.set()
        return self.rounds[min(len(self.asked), len(self.rounds)) - 1]

    async def close(self) -> None:
        self.closed = True


def answer(groups: int = 5, *, established: bool = True, cluster: str = "overdb") -> Answer:
    return Answer(cluster=cluster, group=1, groups=groups, established=established, replica_id=2)


def settings_of(directory: Path, **told: Any) -> NodeSettings:
    joins: dict[str, Any] = {
        "node_id": 9,
        "join": True,
        "members": "1=a:1,2=b:2",
        "seeds": "b:2,c:3",
        "group": 1,
        "data": directory,
    }
    return NodeSettings(**{**joins, **told})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(founding_groups, "ASKING_SECONDS", 0)


def run(
    monkeypatch: pytest.MonkeyPatch, settings: NodeSettings, *rounds: Sequence[Answer]
) -> tuple[NodeSettings, Cluster]:
    async def inside() -> tuple[NodeSettings, Cluster]:
        cluster = Cluster(*rounds)
        monkeypatch.setattr(founding_groups, "Describer", lambda _: cluster)
        return await with_founding_groups(settings, cluster.stop), cluster

    return asyncio.run(inside())


def test_it_asks_until_somebody_who_takes_part_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: tuple[list[Answer], ...] = ([], [answer(established=False)], [answer(7)])
    settings, cluster = run(monkeypatch, settings_of(tmp_path), *rounds)
    assert settings.groups == 7
    assert cluster.asked == [["a:1", "b:2", "c:3"]] * 3
    assert cluster.closed


def test_it_waits_no_longer_than_until_the_process_is_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cluster = run(monkeypatch, settings_of(tmp_path), [])
    assert len(cluster.asked) == ROUNDS_MAX


def test_a_founder_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    founder = settings_of(tmp_path, node_id=1, join=False)
    settings, cluster = run(monkeypatch, founder, [answer(7)])
    assert settings is founder
    assert not cluster.asked


def test_one_that_has_joined_before_knows_it_from_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity.claim(tmp_path, Identity("overdb", 1, 6, 9))
    settings, cluster = run(monkeypatch, settings_of(tmp_path), [answer(7)])
    assert settings.groups == 6
    assert not cluster.asked
    told = settings_of(tmp_path, groups=7)  # what is set is compared when the directory is opened
    assert run(monkeypatch, told)[0].groups == 7


def test_what_is_set_is_kept_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cluster = run(monkeypatch, settings_of(tmp_path, groups=4), [])
    assert settings.groups == 4
    assert len(cluster.asked) == 1


@pytest.mark.parametrize(
    ("told", "answered", "problem"),
    [
        ({"groups": 4}, answer(5), "the cluster has 5 groups, OVERDB_GROUPS is 4"),
        ({"group": 5}, answer(5), "the cluster has 5 groups, OVERDB_GROUP is 5"),
        ({}, answer(cluster="other"), "replica 2 of group 1 belongs to cluster 'other'"),
    ],
)
def test_a_contradiction_ends_the_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, Any],
    answered: Answer,
    problem: str,
) -> None:
    with pytest.raises(StartupError, match=problem):
        run(monkeypatch, settings_of(tmp_path, **told), [answered])


def test_one_that_takes_no_part_itself_contradicts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = ([answer(9, established=False, cluster="other")], [answer(5)])
    settings, cluster = run(monkeypatch, settings_of(tmp_path), *rounds)
    assert settings.groups == 5
    assert len(cluster.asked) == 2
