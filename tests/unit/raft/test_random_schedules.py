"""Seeded random schedules over the core. A failure names its seed; the same seed gives the same trace.

More seeds: ``python -m tests.unit.raft.simulator FIRST END [STEPS]``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.sizes import Sizes
from tests.unit.raft.simulator import Simulation, run_seed

pytestmark = pytest.mark.xdist_group("random_schedules")  # the runs are made once for two tests
ROOT = Path(__file__).resolve().parents[3]
BLOCKS = range(10)
SEEDS_PER_BLOCK = 20
STEPS = 4500


@cache
def run_block(first: int) -> Counter[str]:
    """What happened under ``SEEDS_PER_BLOCK`` seeds from ``first`` on."""
    happened: Counter[str] = Counter()
    for seed in range(first, first + SEEDS_PER_BLOCK):
        simulation = run_seed(seed, STEPS)
        happened += simulation.happened
        happened["applied"] += len(simulation.checks.chosen)
        happened["terms"] += len(simulation.checks.leaders)
    return happened


@pytest.mark.parametrize("block", BLOCKS)
def test_no_schedule_breaks_safety_and_every_one_heals(block: int, sizes: Sizes) -> None:
    """The paper's figure 3, PROTOCOL 1.0-1.3; FAULTS 6, 11-17, 20-23, 28, 39-42 under one roof."""
    run_block(sizes.first_seed + block * SEEDS_PER_BLOCK)
    if sizes.full:
        run_block(block * SEEDS_PER_BLOCK)


def test_the_schedules_do_what_they_are_for(sizes: Sizes) -> None:
    """A dead cluster must not pass: the rare branches ran, and often."""
    happened: Counter[str] = Counter()
    for block in BLOCKS:
        happened += run_block(sizes.first_seed + block * SEEDS_PER_BLOCK)
    for what, least in {
        "applied": 10_000,
        "read": 10_000,
        "terms": 800,
        "crash": 1_000,
        "partition": 500,
        "compaction": 1_500,
        "transfer": 500,
        "snapshot_installed": 150,
        "stepped_down": 200,
    }.items():
        assert happened[what] >= least, f"{what}: {happened[what]}"


def digest_of(seed: int) -> str:
    simulation = Simulation(seed, traced=True)
    simulation.run(1500)
    assert simulation.trace
    return hashlib.sha256("\n".join(simulation.trace).encode()).hexdigest()


def test_the_same_seed_gives_the_same_trace() -> None:
    """FAULTS, tests of the tests; another seed gives another one."""
    assert digest_of(3) == digest_of(3)
    assert digest_of(3) != digest_of(4)


def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    """FAULTS, tests of the tests: "also under another PYTHONHASHSEED"."""
    program = "from tests.unit.raft.test_random_schedules import digest_of; print(digest_of(5))"
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        digests.add(done.stdout.strip())
    assert digests == {digest_of(5)}
