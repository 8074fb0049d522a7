"""Clusters for the integration tests. Data lies in pytest's directory, which must not be on tmpfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import LocalCluster
from tests.integration.workload import PAUSE_SECONDS, QUICK_PAUSE_SECONDS
from tests.sizes import Sizes


@pytest.fixture(scope="session")
def writer_pause_seconds(sizes: Sizes) -> float:
    """Of writers, between two writes: longer in the quick size."""
    return sizes.pick(quick=QUICK_PAUSE_SECONDS, full=PAUSE_SECONDS)


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
