"""The pytest plugin, in a pytest of its own, as a user's project runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
import overdb

def test_it_works(overdb_cluster):
    with overdb_cluster.client() as client:
        client.put(b"a", b"1")
        overdb_cluster.kill_leader(0)
        client.transact(then=[overdb.Add(b"n")])
        overdb_cluster.heal()

@pytest.mark.overdb(groups=1, replicas=1, seed=7)
def test_the_marker_shapes_it(overdb_cluster):
    assert overdb_cluster.nodes == ("s0r0",)
    assert overdb_cluster.seed == 7

@pytest.mark.overdb(groups=1)
def test_one_that_fails_tells_what_happened(overdb_cluster):
    overdb_cluster.kill_leader(0)
    assert False
"""


def run(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_user_s_suite(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    said = run(tmp_path, "--strict-markers", "-W", "error")
    assert "2 passed" in said, said
    assert "1 failed" in said
    assert "OverDB: last events, seed" in said
    assert "kill" in said.partition("OverDB: last events")[2]


def test_a_suite_without_a_cluster_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n\ndef test():\n    assert not {'grpc', 'overdb_simulation'} & set(sys.modules)\n"
    )
    assert "1 passed" in run(tmp_path)
