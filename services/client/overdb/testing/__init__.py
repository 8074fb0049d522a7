"""A whole cluster inside your test's process, started in a fraction of a second.

    from overdb.testing import Cluster

    with Cluster() as cluster, cluster.client() as client:
        client.put(b"greeting", b"hello")
        cluster.kill_leader(group=0)
        assert client.get(b"greeting").value == b"hello"

With pytest installed there is a fixture, ``overdb_cluster``, and a marker for its shape:
``@pytest.mark.overdb(groups=1, replicas=3)``.

Routers and replicas run their production code, over a simulated network and simulated disks: so what
clients see when leaders die, links are cut and processes are paused is what they would see. What is *not*
tested by it is a real disk, RocksDB, and speed.

Needs ``pip install 'overdb[testing]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overdb.testing.cluster import Cluster as Cluster
    from overdb.testing.cluster import NotHealed as NotHealed

__all__ = ["Cluster", "NotHealed"]


def __getattr__(name: str) -> Any:
    """Import the cluster at its first use: a test suite that has none pays nothing for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from overdb.testing import cluster  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"overdb.testing needs more: pip install 'overdb[testing]' ({missing})",
            name=missing.name,
        ) from missing
    return getattr(cluster, name)
