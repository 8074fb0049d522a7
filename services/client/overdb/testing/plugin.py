"""The pytest plugin: fixture ``overdb_cluster``, marker ``overdb``. pytest finds it by itself."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from overdb.testing.cluster import Cluster

_EVENTS_MAX = 40
_key: pytest.StashKey[Cluster] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "overdb(groups=2, replicas=3, routers=1, seed=None): the shape of the fixture overdb_cluster",
    )


@pytest.fixture
def overdb_cluster(request: pytest.FixtureRequest) -> Generator[Cluster, None, None]:
    """An OverDB cluster of its own for this test, in this process; see overdb.testing."""
    from overdb.testing import Cluster  # noqa: PLC0415  # only who uses it pays for it

    marker = request.node.get_closest_marker("overdb")
    with Cluster(**(marker.kwargs if marker is not None else {})) as cluster:
        request.node.stash[_key] = cluster
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed tells what its cluster went through."""
    report = yield
    cluster = item.stash.get(_key, None)
    if call.when == "call" and report.failed and cluster is not None:
        events = "\n".join(cluster.timeline(_EVENTS_MAX))
        report.sections.append((f"OverDB: last events, seed {cluster.seed}", events))
    return report
