"""Clusters for the integration tests. Data lies in pytest's directory, which must not be on tmpfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import workload
from tests.integration.cluster import LocalCluster
from tests.sizes import Sizes


@pytest.fixture(scope="session", autouse=True)
def _load(sizes: Sizes) -> Iterator[None]:
    """Writers pause for longer in the quick size."""
    with pytest.MonkeyPatch.context() as patch:
        if not sizes.full:
            patch.setattr(workload, "PAUSE_SECONDS", workload.QUICK_PAUSE_SECONDS)
        yield


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """2 groups x 3 replicas and two routers, for tests that do no harm."""
    with LocalCluster(tmp_path_factory.mktemp("cluster"), routers=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """2 groups x 3 replicas and a router, for one test to break."""
    with LocalCluster(tmp_path) as running:
        yield running
