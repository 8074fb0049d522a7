"""The measurements of growth run, and say what they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench.growth.__main__ import SECTIONS
from tests.sizes import Sizes

Measured = dict[str, Any]  # one section, as the benchmark writes it
pytestmark = [pytest.mark.processes, pytest.mark.timeout(1800)]


def _check_keys(section: Measured) -> None:
    for row in section["rows"]:
        *_, errors, missing = row
        assert (errors, missing) == (0, 0), row


def _check_follower(section: Measured) -> None:
    assert [row[0] for row in section["rows"]] == ["before", "stopped", "after"]
    for row in section["rows"]:
        assert row[1] > 0, row
        assert row[4] == 0, row


def _check_overload(section: Measured) -> None:
    assert [row[-1] for row in section["rows"]] == [0, 0, 0], section["rows"]
    told = section["verdict"]
    assert "RESOURCE_EXHAUSTED (stream)" in told, "the router takes no more than it has room for"
    assert " acknowledged 0 are missing" in told, told
    assert "the router refused 0 are there" in told, told


def _check_catch_up(section: Measured) -> None:
    for _, snapshot_mib, snapshots, *_ in section["rows"]:
        assert snapshots >= 1
        assert snapshot_mib > 1
    for row in section["rows"][1:]:
        assert row[5] > 0, "nothing was written meanwhile"
        assert 0 < row[6] < 8, "MiB of log in memory"
    assert "MiB allowed: reached. Failed puts: 0." in section["verdict"]


CHECKS: dict[str, Callable[[Measured], None]] = {
    "keys": _check_keys,
    "slow-follower": _check_follower,
    "overload": _check_overload,
    "catch-up": _check_catch_up,
}


def test_short_sections_are_measured(tmp_path: Path, sizes: Sizes) -> None:
    """In the full size all sections; else one of those that have more to check, another one each day."""
    drawn = Random(sizes.first_seed).choice(sorted(CHECKS))
    sections = sizes.pick(quick=[drawn], full=list(SECTIONS))
    command = [sys.executable, "-m", "bench.growth", "--quick", "--sections", ",".join(sections)]
    outputs = ["--json", str(tmp_path / "x.json"), "--markdown", str(tmp_path / "x.md")]
    done = subprocess.run(
        [*command, *outputs], capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads((tmp_path / "x.json").read_text())
    assert len(measured) == len(sections)
    for name, section in zip(sections, measured, strict=True):
        if name in CHECKS:
            CHECKS[name](section)
    page = (tmp_path / "x.md").read_text()
    assert all(f"## {section['title']}" in page for section in measured)
