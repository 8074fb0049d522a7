"""What the supervisor of ``overdb local`` does when processes die, refuse, hang, and when it dies itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.unit.local.conftest import Start
from tests.unit.local.supervised import Supervised, is_alive, wait_until

pytestmark = pytest.mark.processes
NAMES = {"node-1", "node-2", "router-0"}


def set_mode(directory: Path, name: str, mode: str) -> None:
    (directory / f"mode-{name}").write_text(mode)


def ready(supervised: Supervised) -> dict[str, int]:
    """Wait until it is ready and each process is in its mode; returns the pids by name."""
    supervised.wait_for("Ready after")
    pids = supervised.pids()
    assert set(pids) == NAMES
    for name in pids:
        log = supervised.directory / "logs" / f"{name}.log"
        wait_until(lambda log=log: "runs" in log.read_text(), f"{name} runs")  # type: ignore[misc]
    return pids


def assert_gone(pids: dict[str, int], seconds_max: float = 20.0) -> None:
    wait_until(lambda: not any(map(is_alive, pids.values())), f"{pids} end", seconds_max)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_says_when_it_is_ready_and_ends_all_when_told(
    start: Start, base_port: int, number: signal.Signals
) -> None:
    supervised = start()
    pids = ready(supervised)
    assert f"127.0.0.1:{base_port}" in supervised.text
    assert supervised.cluster()["supervisor_pid"] == supervised.popen.pid
    supervised.send(number)
    assert supervised.wait() == 0
    assert supervised.lines[-1] == "Stopped"
    assert_gone(pids, 0.5)
    assert supervised.pids() == {}


def test_a_process_that_dies_is_started_again_after_a_second(start: Start) -> None:
    supervised = start()
    before = ready(supervised)
    os.kill(before["node-2"], signal.SIGKILL)
    killed = time.monotonic()
    supervised.wait_for("node-2 ended (killed by SIGKILL); starting it again in 1 s")
    wait_until(lambda: len(supervised.pids()) == 3, "node-2 is back in cluster.json")
    assert time.monotonic() - killed >= 1.0
    after = supervised.pids()
    assert after["node-2"] != before["node-2"]
    assert is_alive(after["node-2"])
    assert {**after, "node-2": 0} == {**before, "node-2": 0}
    log = supervised.directory / "logs" / "node-2.log"
    wait_until(lambda: log.read_text().count("node-2 runs") == 2, "its log is continued")


def test_a_process_that_fails_again_and_again_stays_supervised(
    start: Start, tmp_path: Path
) -> None:
    set_mode(tmp_path, "node-1", "fail")
    supervised = start()
    supervised.wait_for("Ready after")
    wait_until(
        lambda: supervised.text.count("node-1 ended (exit code 1)") >= 2, "it is tried again"
    )
    set_mode(tmp_path, "node-1", "")
    wait_until(lambda: len(supervised.pids()) == 3, "it runs")


def test_a_process_that_cannot_work_ends_everything_at_once(start: Start, tmp_path: Path) -> None:
    set_mode(tmp_path, "node-2", "refuse")
    supervised = start()
    assert supervised.wait() == 1
    said = "overdb local: node-2 cannot run: overdb-fake: node-2 dislikes its setting: change it"
    assert said in supervised.lines
    assert "starting it again" not in supervised.text
    assert supervised.pids() == {}


def test_one_that_ran_before_may_refuse_twice(start: Start, tmp_path: Path) -> None:
    supervised = start()
    pids = ready(supervised)
    set_mode(tmp_path, "node-1", "refuse")
    os.kill(pids["node-1"], signal.SIGKILL)
    assert supervised.wait() == 1
    assert supervised.text.count("node-1 ended (exit code 78)") == 2
    assert "node-1 cannot run: overdb-fake" in supervised.text
    assert_gone(pids, 0.5)


def test_a_second_ctrl_c_kills_what_does_not_end(start: Start, tmp_path: Path) -> None:
    set_mode(tmp_path, "node-1", "stubborn")
    supervised = start(OVERDB_TEST_STOP_SECONDS="600")  # so it was not the patience that ended
    pids = ready(supervised)
    supervised.send(signal.SIGINT)
    supervised.wait_for("Stopping (Ctrl-C again kills)")
    wait_until(lambda: not is_alive(pids["node-2"]), "node-2 ends as it was told")
    assert is_alive(pids["node-1"])
    supervised.send(signal.SIGINT)
    assert supervised.wait() == 0
    assert_gone(pids, 0.5)


def test_what_does_not_end_in_time_is_killed_and_named(start: Start, tmp_path: Path) -> None:
    set_mode(tmp_path, "node-1", "stubborn")
    supervised = start(OVERDB_TEST_STOP_SECONDS="1")
    pids = ready(supervised)
    supervised.send(signal.SIGTERM)
    assert supervised.wait() == 0
    assert "node-1 did not stop within 1 s: killed" in supervised.text
    assert_gone(pids, 0.5)


def test_no_process_outlives_a_supervisor_that_is_killed(start: Start) -> None:
    supervised = start()
    pids = ready(supervised)
    supervised.send(signal.SIGKILL)
    supervised.wait()
    assert_gone(pids)


def test_the_next_start_waits_for_what_a_killed_one_left(start: Start, tmp_path: Path) -> None:
    set_mode(tmp_path, "node-2", "slow")
    first = start()
    pids = ready(first)
    first.send(signal.SIGKILL)
    first.wait()
    second = start()
    second.wait_for("Ready after")
    assert "Waiting for node-2 of an earlier start to end" in second.text
    assert set(second.pids()) == NAMES
    assert not set(second.pids().values()) & set(pids.values())


def test_a_second_one_on_the_same_directory_is_refused(start: Start, base_port: int) -> None:
    first = start()
    ready(first)
    second = start(port=base_port + 50)
    assert second.wait() == 5
    assert second.lines == [
        f"overdb local: {first.directory} is in use by the cluster of process {first.popen.pid}; "
        "stop it, or choose another --data"
    ]
    assert set(first.pids()) == NAMES


def test_another_base_port_over_the_same_data_is_fine(start: Start, base_port: int) -> None:
    first = start()
    ready(first)
    first.send(signal.SIGINT)
    assert first.wait() == 0
    second = start(port=base_port + 1)
    ready(second)
    assert second.cluster()["routers"][0]["address"] == f"127.0.0.1:{base_port + 1}"
