"""Real processes with wrong clocks: all goes on, the machine is named, a time is repaired (FAULTS 81)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import overdb
from overdb.sync import Client
from overdb_torture import control
from overdb_torture.control import NodeFaults
from tests.ports import free_base_port
from tests.unit.local.supervised import Supervised, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("clocks")]
_OVERDB = ["-c", "from overdb.cli import main; main()"]
DAY = 86_400.0
YEARS = 3650 * DAY


class Clocks:
    """A local cluster, and its machines' clocks."""

    def __init__(self, directory: Path) -> None:
        self._faults = directory / "faults"
        self.endpoint = ""

    def set(self, replica: int, seconds: float) -> None:
        revision = control.ask_node(self._faults, replica, NodeFaults(clock_offset_seconds=seconds))
        name = control.node_file(replica)
        wait_until(lambda: control.is_taken(self._faults, name, revision), "the clock is set")

    def overdb(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *_OVERDB, "--endpoints", self.endpoint, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocks]:
    """Two groups; ids may be ahead by 3 s alone, so that a repair costs no minute."""
    directory = tmp_path_factory.mktemp("clocks")
    port = free_base_port()
    arguments = ["local", "--faults", "--data", str(directory / "data"), "--base-port", str(port)]
    settings = {"OVERDB_AHEAD_SECONDS_MAX": "3"}
    running = Supervised([*_OVERDB, *arguments], directory / "data", **settings)
    running.wait_for("Ready after", 90)
    made = Clocks(directory / "data")
    made.endpoint = f"127.0.0.1:{port}"
    yield made
    running.end()


def key_of(client: Client, group: int) -> bytes:
    names = (b"clocks/%d" % number for number in range(1000))
    return next(name for name in names if client.locate(name).group == group)


def leader_and_follower(client: Client, group: int) -> tuple[int, int]:
    status = client.status().groups[group]
    return status.leader_id, next(r.id for r in status.replicas if r.id != status.leader_id)


def use_everything(client: Client, keys: tuple[bytes, bytes]) -> None:
    """Each raises what it meets. A new id each time, as new programs come with."""
    for key in keys:
        client.put(key, b"%d" % time.time_ns())
    assert [item.key for item in client.scan(prefix=b"clocks/")] == sorted(keys)
    client.transact(then=[overdb.Put(key, b"x") for key in keys])

    def change(transaction: overdb.sync.Transaction) -> None:
        found = transaction.get(keys[1])
        assert found is not None
        transaction.put(keys[0], found.value)

    client.run(change)


def problems(client: Client) -> dict[int, str]:
    replicas = [one for group in client.status().groups for one in group.replicas]
    return {one.id: one.problem for one in replicas if one.problem}


def test_one_wrong_clock_stops_nothing_and_is_named(clocks: Clocks) -> None:
    with Client(clocks.endpoint, timeout=20) as client:
        keys = key_of(client, 0), key_of(client, 1)
        use_everything(client, keys)
        leader, follower = leader_and_follower(client, 0)
        for replica, seconds in ((leader, DAY), (follower, -YEARS), (leader, -DAY)):
            clocks.set(replica, seconds)
            with Client(clocks.endpoint, timeout=20) as new:
                use_everything(new, keys)
            wait_until(lambda r=replica: r in problems(client), f"{replica} is named")  # type: ignore[misc]
            assert set(problems(client)) == {replica}
            told = problems(client)[replica]
            assert f"{abs(seconds):.0f}"[:4] in told
            assert ("ahead of" if seconds > 0 else "behind") in told
            clocks.set(replica, 0)
            wait_until(lambda: not problems(client), "it is right again")
        version = client.put(keys[0], b"at last")
        assert abs(version / 1e6 - time.time()) < 60, "no group's time has moved"


def test_a_group_whose_time_is_wrong_is_told_and_repaired(clocks: Clocks) -> None:
    with Client(clocks.endpoint, timeout=20) as client:
        keys = key_of(client, 0), key_of(client, 1)
        use_everything(client, keys)
        wrong = [replica.id for replica in client.status().groups[0].replicas][:2]
        before = client.put(keys[0], b"before")
        for replica in wrong:
            clocks.set(replica, DAY)
        _until_ahead(client, lambda: client.get(keys[0]))
        for replica in wrong:
            clocks.set(replica, 0)
        wait_until(lambda: "overdb time repair --group 0" in str(problems(client)), "it is told")
        with Client(clocks.endpoint, timeout=20) as new:
            with pytest.raises(overdb.FailedPrecondition):
                new.put(keys[0], b"refused")
            found = new.get(keys[0])
            assert found is not None
            assert found.value == b"before"
            assert len(list(new.scan(prefix=b"clocks/"))) == 2, "of both groups, at one version"
        assert clocks.overdb("time", "repair", "--group", "0").returncode == 2, "it asks first"
        done = clocks.overdb("time", "repair", "--group", "0", "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("group 0: its time was ")
        wait_until(lambda: not problems(client), "it is right again")

        def takes_fresh_ids() -> bool:
            try:
                with Client(clocks.endpoint, timeout=20) as new:
                    use_everything(new, keys)
            except overdb.FailedPrecondition:
                return False
            return True

        wait_until(takes_fresh_ids, "fresh ids are taken")
        with Client(clocks.endpoint, timeout=20) as new:
            assert new.put(keys[0], b"after") > before
        again = clocks.overdb("time", "repair", "--group", "0", "--yes")
        assert again.returncode != 0
        assert "is left as it is" in again.stderr


def _until_ahead(client: Client, read: Callable[[], object]) -> None:
    """Reads move nothing; the group's time is ahead once its clock is: the leader was asked for it."""

    def is_ahead() -> bool:
        read()
        list(client.scan(prefix=b"clocks/"))
        return client.status().groups[0].version / 1e6 > time.time() + DAY / 2

    wait_until(is_ahead, "the group's time is ahead")
