"""The replicas of a group have the same log, and do not take their snapshots in the same moments."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from overdb_node.snapshotting import first_share
from tests.unit.node.test_damaged_element import Leader, run


@pytest.mark.parametrize("first", [1, 4, 7, 1000])
@pytest.mark.parametrize("replicas", [3, 5, 7])
def test_neighbours_are_far_from_each_other(first: int, replicas: int) -> None:
    shares = sorted(first_share(number) for number in range(first, first + replicas))
    assert all(0 < share < 1 for share in shares)
    around = [*shares, shares[0] + 1]  # behind the first one each takes one a whole length later
    gaps = [later - earlier for earlier, later in itertools.pairwise(around)]
    assert min(gaps) > 0.5 / replicas


def test_only_the_first_one_comes_early(tmp_path: Path) -> None:
    shares = []

    async def scenario(leader: Leader) -> None:  # it has taken its first one by now
        shares.append(leader.replica.snapshotting.log_bytes_max / (1 << 30))

    class Watched(Leader):
        async def start(self) -> None:
            full = self._settings.snapshot_log_bytes
            shares.append(self.replica.snapshotting.log_bytes_max / full)
            await super().start()

    run(tmp_path, scenario, Watched)
    assert shares == [first_share(1), 1.0]
