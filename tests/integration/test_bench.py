"""The benchmark runs, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sizes import Sizes

pytestmark = [pytest.mark.processes]

ROWS = "get:16,scan-1000:2,put:16,txn-two-groups:4,batch-100:4"
OVER_GROUPS = {"scan-1000", "txn-two-groups"}  # always through the router


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_short_run_measures_every_row_without_errors(tmp_path: Path, sizes: Sizes) -> None:
    seconds = sizes.pick(quick="0.3", full="1.5")
    outputs = ["--json", str(tmp_path / "x.json"), "--markdown", str(tmp_path / "x.md")]
    done = _bench(
        "--quick",
        "--seconds",
        seconds,
        "--overdb-alone",
        "--keys",
        "1000",
        "--rows",
        ROWS,
        *outputs,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this takes about 1 min" in done.stdout
    all_samples = json.loads((tmp_path / "x.json").read_text())
    samples = [s for s in all_samples if s["system"] in {"overdb", "overdb-direct"}]
    assert [(s["system"], f"{s['workload']}:{s['callers']}") for s in samples] == [
        (system, row) for system in ("overdb", "overdb-direct") for row in ROWS.split(",")
    ]
    for sample in all_samples:
        assert sample["calls"] > 0, sample
        assert sample["errors"] == {}, sample
        assert sample["cpu_seconds"].keys() == sample["resident_bytes"].keys()
        assert len(sample["cpu_seconds"]) == 8  # six replicas, a router, the client
    _took_their_way(all_samples)
    page = (tmp_path / "x.md").read_text()
    assert "fsynced by a majority" in page
    _, _, puts = page.partition("\n### put\n")
    assert "| 16 | overdb |" in puts
    assert "| 16 | overdb-direct |" in puts


def _took_their_way(samples: list[dict[str, Any]]) -> None:
    """By the router's own count. Of direct calls it has those whose leader is slow: in a busy hour, many."""
    for sample in samples:
        if sample["system"] == "overdb" or sample["workload"] in OVER_GROUPS:
            # What each caller has begun last may never have been sent.
            assert sample["routed"] >= sample["begun"] - sample["callers"], sample
        else:
            assert sample["routed"] < sample["begun"], sample


def test_a_run_that_is_not_the_whole_leaves_the_page_alone(tmp_path: Path) -> None:
    pages = [Path("bench/RESULTS.md"), Path("bench/results")]
    before = [(page, page.stat().st_mtime_ns) for page in pages]
    done = _bench(
        "--overdb-alone", "--keys", "1000", "--rows", "get:1", "--quick", "--seconds", "0.2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "### get" in done.stdout
    assert "| 1 | overdb |" in done.stdout
    assert before == [(page, page.stat().st_mtime_ns) for page in pages]


def test_a_wrong_row_is_told_in_words() -> None:
    done = _bench("--rows", "putt:1")
    assert done.returncode == 2
    assert "'putt:1': rows are WORKLOAD:CALLERS of get, scan-1000" in done.stderr
