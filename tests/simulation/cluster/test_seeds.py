"""Whole clusters under seeded faults. A failure prints the line that replays it, and its timeline."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.cluster.campaign import UNDECIDED_MAX, Campaign, report, run_seeds
from tests.simulation.cluster.run import Run
from tests.simulation.cluster.workloads.bank import Bank

SEEDS = 300
SECONDS = 10.0  # with faults; before it a cluster comes up, and after it everything heals


@pytest.mark.timeout(900)
def test_seeds_keep_every_promise() -> None:
    done = Campaign()
    for outcome in run_seeds(range(SEEDS), SECONDS, os.cpu_count() or 1):
        done.add(outcome)
        if outcome.problem:
            report(outcome)
    print(done)
    assert not done.failed, "see above for the timelines, and for how to replay them"
    assert done.undecided <= UNDECIDED_MAX, f"{done.undecided:.1%} of the registers were not judged"
    assert not done.missing, f"never reached: {done.missing}"
    assert done.counts["appended"] + done.counts["write"] > 20 * SEEDS, "too little load"


def test_what_a_client_sees_in_the_middle_of_a_run_fails_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check at the end is of another kind: this one is of scans alone."""

    def refuse(self: Bank, values: list[bytes], how: str) -> None:
        assert how != "scan", "a scan saw too little"

    monkeypatch.setattr(Bank, "_check_total", refuse)
    problems = [Run(seed, 5.0, faulty=False).run().problem for seed in range(6)]
    assert any("a scan saw too little" in problem for problem in problems), problems


def test_a_seed_gives_the_same_trace_under_another_hash_seed() -> None:
    """Byte for byte: every packet, every event, every count."""
    command = [sys.executable, "-m", "tests.simulation.cluster", "--seed", "5", "--trace"]
    traces = [
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert len(traces[0]) > 100_000
    assert traces[0] == traces[1]


def test_a_run_without_faults_is_quiet() -> None:
    outcome = Run(1, 5.0, faulty=False).run()
    assert not outcome.problem
    assert outcome.counts["event: elected"] == 2
    assert not outcome.counts["event: stepped_down"]
    assert outcome.simulated_seconds / outcome.real_seconds > 5, "far slower than it should be"
