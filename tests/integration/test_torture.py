"""``overdb torture`` as a user runs it: on a cluster of its own, and on those of ``overdb local``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.ports import free_base_port
from tests.sizes import Sizes
from tests.unit.local.supervised import Supervised, is_alive, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("torture")]
_OVERDB = ["-c", "from overdb.cli import main; main()"]
_KINDS = "kill,partition,slow-fsync,clock-jump"
_QUICK_RATE = ["--rate", "8"]  # steps a second of each client; the default takes the whole machine


def torture(report: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *_OVERDB, "torture", "--report", str(report), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def is_stopped(pid: int) -> bool:
    """Return true if SIGSTOP has stopped a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    except FileNotFoundError:
        return False


Tortured = tuple[Path, "subprocess.CompletedProcess[str]"]  # what it left, and how it ended


def tortured(
    directory: Path, seconds: str, faults: str, seed: str, rate: Sequence[str] = ()
) -> Tortured:
    """Torture a cluster of its own; the report lies beside what is left of it."""
    kept = directory / "kept"
    options = ["--seconds", seconds, "--faults", faults, "--seed", seed, "--directory", str(kept)]
    return kept, torture(directory / "report", *options, *rate)


@pytest.fixture(scope="module")
def one_for_both(tmp_path_factory: pytest.TempPathFactory, sizes: Sizes) -> Tortured | None:
    """Run torture once for two tests, in the quick size; None in the full size, where each has its own run.

    A stranger writes to the leader of group 0, the leader of group 1 sleeps, the next one has other settings,
    and then a follower of group 0 lags.
    """
    if sizes.full:
        return None
    directory = tmp_path_factory.mktemp("strangers")
    return tortured(directory, "15", "hostile,suspend,lag,settings", "2", _QUICK_RATE)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Supervised]:
    """A cluster of one group with ``overdb local``, without faults."""
    arguments = ["local", "--data", str(tmp_path / "data"), "--base-port", str(free_base_port())]
    running = Supervised([*_OVERDB, *arguments, "--groups", "1"], tmp_path / "data")
    running.wait_for("Ready after", 60)
    yield running
    running.end()


def test_a_cluster_of_its_own_stands_four_kinds_of_faults(tmp_path: Path, sizes: Sizes) -> None:
    report, kept = tmp_path / "report", tmp_path / "kept"
    # Both leaders are killed, then one disk takes a second, both leaders are cut off, a clock is late.
    options = ["--seconds", "16", "--faults", _KINDS, "--seed", "8"]
    options += sizes.pick(quick=_QUICK_RATE, full=[])
    done = torture(report, *options, "--directory", str(kept))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ALL RIGHT" in done.stdout
    assert done.stdout.endswith(f"Report: {report / 'index.html'}\n")
    page = (report / "index.html").read_text()
    assert "<svg" in page
    for kind in _KINDS.split(","):
        assert f"{kind} node-" in page
    # The faults were felt, and everything is over.
    logs = "".join(log.read_text() for log in (kept / "data" / "logs").glob("node-*.log"))
    assert "slow_fsync" in logs
    assert "killed by SIGKILL" in (kept / "supervisor.log").read_text()
    cluster = json.loads((kept / "data" / "cluster.json").read_text())
    assert all(node["pid"] is None for node in cluster["nodes"])
    # Whether the load was enough is the verdict's matter. All that was judged must be in the history.
    history = [json.loads(line) for line in (report / "history.jsonl").read_text().splitlines()]
    lines = Counter(line["workload"] for line in history)
    assert lines.keys() == {"registers", "lists", "bank", "counters"}
    assert f"lists: ok. {lines['lists']} transactions" in done.stdout
    assert f"counters: ok. {lines['counters']} adds and reads" in done.stdout


def test_a_cluster_of_its_own_stands_a_stranger_at_its_ports(
    tmp_path: Path, one_for_both: Tortured | None
) -> None:
    kept, done = one_for_both or tortured(tmp_path, "9", "hostile", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ALL RIGHT" in done.stdout
    logs = "".join(log.read_text() for log in (kept / "data" / "logs").glob("*.log"))
    # What each stranger sends first (``Stranger.opening``): a forged packet has come as far as Raft, and an
    # outcome as far as the state machine.
    assert re.search(r"\bterm \d+ is beyond the last one", logs)
    assert "outcomes_refused" in logs
    assert "Traceback" not in logs


def test_a_cluster_of_its_own_stands_sleep_lag_and_other_settings(
    tmp_path: Path, one_for_both: Tortured | None
) -> None:
    # The leader of group 0 has other settings, the next one sleeps, then a follower of group 1 lags.
    kept, done = one_for_both or tortured(tmp_path, "12", "suspend,lag,settings", "11")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ALL RIGHT" in done.stdout
    assert "not carried out" not in done.stdout
    page = (kept.parent / "report" / "index.html").read_text()
    files = sorted((kept / "data" / "logs").glob("node-*.log"))
    logs = {log.stem: log.read_text() for log in files}
    assert "Traceback" not in "".join(logs.values())

    def victims(kind: str) -> list[str]:
        named = re.findall(rf"<title>{kind} (node-\d(?:, node-\d)*)\b", page)
        assert len(named) == 1, (kind, named)
        return sorted(named[0].split(", "))

    slept = [name for name, log in logs.items() if '"seconds": -93600.0' in log]
    assert victims("suspend") == slept
    assert all("snapshot_installed" in logs[name] for name in victims("lag"))
    restarted = [name for name, log in logs.items() if log.count('"event": "started"') == 2]
    assert victims("settings") == restarted


def test_a_plain_cluster_is_hurt_by_signals_only_and_says_what_it_takes(
    local: Supervised, tmp_path: Path, sizes: Sizes
) -> None:
    data = ["--data", str(local.directory)]
    refused = torture(tmp_path / "refused", *data, "--faults", "kill,slow-fsync")
    assert refused.returncode == 2
    assert "slow-fsync: not possible" in refused.stderr
    assert "make run FAULTS=1" in refused.stderr

    before = local.pids()
    faults = ["--faults", "kill,pause,restart-all", "--seed", "8"]
    seconds = sizes.pick(quick="15", full="24")
    faults += sizes.pick(quick=_QUICK_RATE, full=[])
    done = torture(tmp_path / "report", *data, "--seconds", seconds, *faults)
    assert done.returncode == 0, done.stdout + done.stderr
    after = local.pids()
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before)

    # Nobody serves: that is no cluster to torture, and nothing is "all right".
    pids = list(local.pids().values())
    local.end()
    wait_until(lambda: not any(map(is_alive, pids)), "it is down", 20)
    assert torture(tmp_path / "dead", *data).returncode == 2


def test_ctrl_c_heals_judges_what_there_is_and_leaves_nothing_running(
    tmp_path: Path, sizes: Sizes
) -> None:
    report, kept = tmp_path / "report", tmp_path / "kept"
    arguments = ["torture", "--report", str(report), "--directory", str(kept), "--seconds", "300"]
    arguments += ["--faults", "pause", "--seed", "3", *sizes.pick(quick=_QUICK_RATE, full=[])]
    running = Supervised([*_OVERDB, *arguments], kept / "data")
    try:
        running.wait_for("Faults: pause", 90)
        pids = running.pids()
        if sizes.full:
            running.wait_for("10 s:", 90)
        # A fault is under way, so that there is something to heal.
        wait_until(lambda: any(map(is_stopped, pids.values())), "a replica is paused", 30)
        running.send(signal.SIGINT)
        assert running.wait(90) in (0, 3)
    finally:
        running.end()
    assert "cut short of 300 s" in running.text
    assert "whole again after" in running.text
    assert "cut short" in (report / "index.html").read_text().lower()
    assert not any(map(is_alive, pids.values()))


def test_killed_outright_it_takes_its_cluster_along(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    arguments = ["torture", "--report", str(tmp_path / "report"), "--directory", str(kept)]
    running = Supervised([*_OVERDB, *arguments, "--faults", "none"], kept / "data")
    try:
        running.wait_for("Faults: no faults", 90)
        pids = list(running.pids().values())
        running.popen.kill()
        wait_until(lambda: not any(map(is_alive, pids)), "all of it has ended", 30)
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)
