"""``overdb local`` with the real processes: ready, a replica dies, everything dies, the data is there."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import overdb.sync
from tests.ports import free_base_port
from tests.unit.local.supervised import Supervised, is_alive, wait_until

pytestmark = pytest.mark.processes
_OVERDB = ["-c", "from overdb.cli import main; main()"]


class Local:
    """Starts ``overdb local`` on one directory, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Supervised] = []

    def start(self, port: int, *options: str) -> Supervised:
        arguments = ["local", "--data", str(self.directory), "--base-port", str(port), *options]
        supervised = Supervised([*_OVERDB, *arguments], self.directory)
        self.started.append(supervised)
        return supervised


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    running = Local(tmp_path / "data")
    yield running
    for supervised in running.started:
        supervised.end()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def activity(pid: int) -> tuple[list[int], int]:
    """Return the CPU ticks and context switches of a process: they change when a thread of it wakes up."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = "".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/status"))
    switches = re.findall(r"voluntary_ctxt_switches:\s+(\d+)", status)  # and nonvoluntary ones
    assert switches
    return [int(ticks) for ticks in fields[11:13]], sum(map(int, switches))


def sleeps(pid: int, windows: int = 3, seconds: float = 1.0) -> bool:
    """Return true if a process does nothing for so many seconds: it neither polls nor is busy.

    For several in a row: who wakes up every two seconds is quiet in every other one.
    """
    before = activity(pid)
    for _ in range(windows):
        time.sleep(seconds)  # the thing measured is time passing
        if activity(pid) != before:
            return False
    return True


def test_a_cluster_by_one_command_survives_a_replica_a_crash_and_a_move(local: Local) -> None:
    port = free_base_port()
    first = local.start(port)
    first.wait_for("Ready after", 60)
    content = first.cluster()
    assert [(node["group"], node["replica"]) for node in content["nodes"]] == [
        (group, replica) for group in range(2) for replica in range(3)
    ]
    keys = [b"key-%d" % i for i in range(200)]
    with overdb.sync.Client(f"127.0.0.1:{port}", timeout=20.0) as client:
        for key in keys[:100]:
            client.put(key, b"of " + key)
        # Each replica once; whichever leads, the next write goes on.
        for name in ("node-1", "node-4", "node-2"):
            pid = first.pids()[name]
            os.kill(pid, signal.SIGKILL)
            client.put(b"after " + name.encode(), b"written")
            first.wait_for(f"{name} ended (killed by SIGKILL)")
            wait_until(lambda: len(first.pids()) == 7, f"{name} is started again")
            assert first.pids()[name] != pid
        for key in keys[100:]:
            client.put(key, b"of " + key)

    # The supervisor itself is killed: nothing of it stays, and the next start finds everything.
    pids = first.pids()
    first.send(signal.SIGKILL)
    first.wait()
    wait_until(lambda: not any(map(is_alive, pids.values())), "no orphans", 20)

    moved = free_base_port()
    second = local.start(moved, "--routers", "2")
    second.wait_for("Ready after", 60)
    assert f"127.0.0.1:{moved},127.0.0.1:{moved + 1}" in second.text
    with overdb.sync.Client(f"127.0.0.1:{moved + 1}", timeout=20.0) as client:
        for key in keys:
            value = client.get(key)
            assert value is not None, key
            assert value.value == b"of " + key
    supervisor = second.popen.pid
    assert resident_bytes(supervisor) < 60 << 20
    wait_until(lambda: sleeps(supervisor), "the supervisor sleeps until something happens")

    pids = second.pids()
    second.send(signal.SIGINT)
    assert second.wait(20) == 0
    assert second.lines[-1] == "Stopped"
    assert "killed" not in second.text
    assert not any(map(is_alive, pids.values()))
    for log in (local.directory / "logs").iterdir():
        assert "Traceback" not in log.read_text(), log

    refused = local.start(moved, "--groups", "3")
    assert refused.wait(20) == 5
    assert "--groups 2 --replicas 3" in refused.text
