"""The measurements of growth run, and say what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.growth.__main__ import SECTIONS
from tests.sizes import Sizes

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1800)]


def test_short_sections_are_measured(tmp_path: Path, sizes: Sizes) -> None:
    sections = sizes.pick(quick="keys,slow-follower,overload,catch-up", full=",".join(SECTIONS))
    command = [sys.executable, "-m", "bench.growth", "--quick", "--sections", sections]
    outputs = ["--json", str(tmp_path / "x.json"), "--markdown", str(tmp_path / "x.md")]
    done = subprocess.run(
        [*command, *outputs], capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads((tmp_path / "x.json").read_text())
    assert len(measured) == len(sections.split(","))
    keys, follower, overload, catch_up = (
        measured[sections.split(",").index(name)]
        for name in ("keys", "slow-follower", "overload", "catch-up")
    )
    for row in keys["rows"]:
        *_, errors, missing = row
        assert (errors, missing) == (0, 0), row
    assert [row[0] for row in follower["rows"]] == ["before", "stopped", "after"]
    for row in follower["rows"]:
        assert row[1] > 0, row
        assert row[4] == 0, row
    assert [row[-1] for row in overload["rows"]] == [0, 0, 0], overload["rows"]
    told = overload["verdict"]
    assert "RESOURCE_EXHAUSTED (stream)" in told, "the router takes no more than it has room for"
    assert " acknowledged 0 are missing" in told, told
    assert "the router refused 0 are there" in told, told
    loaded = catch_up["rows"][1:]
    for _, snapshot_mib, snapshots, *_ in catch_up["rows"]:
        assert snapshots >= 1
        assert snapshot_mib > 1
    for row in loaded:
        assert row[5] > 0, "nothing was written meanwhile"
        assert 0 < row[6] < 8, "MiB of log in memory"
    assert "MiB allowed: reached. Failed puts: 0." in catch_up["verdict"]
    assert "## A follower stopped" in (tmp_path / "x.md").read_text()
