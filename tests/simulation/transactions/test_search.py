"""PROTOCOL section 2, searched: seeded schedules of the production machines (see ``world``)."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.transactions.checks import check
from tests.simulation.transactions.world import World

# Each of them must have been seen, or the search did not search: rare branches are counted.
REACHED = (
    "committed over groups",
    "aborted",
    "waited",
    "lost",
    "duplicated",
    "router died",
    "finishing",
    "finished",
    "superseded",
    "parked",
    "restarted",
    "answered from the record",
    "strict read",
    "snapshot read",
    "read waited",
    "advanced",
    "collected again",
)
RARE = ("read with locks",)  # a few in 20,000 schedules


def run_seeds(first: int, count: int) -> Counter[str]:
    """Run schedules; raises AssertionError with the seed of the first that fails."""
    reached: Counter[str] = Counter()
    for seed in range(first, first + count):
        world = World(seed)
        try:
            world.run()
            check(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        reached.update(world.counts)
    return reached


@pytest.mark.timeout(1800)
def test_no_schedule_breaks_what_is_promised(pytestconfig: pytest.Config) -> None:
    """2.8, 2.9: whole, once, in an order; nothing stays open. More of them: --schedules N."""
    schedules = int(pytestconfig.getoption("--schedules"))
    first = int(pytestconfig.getoption("--first-seed"))
    workers = max(1, os.cpu_count() or 1)
    portion = 500
    reached: Counter[str] = Counter()
    starts = range(first, first + schedules, portion)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        sizes = [min(portion, first + schedules - start) for start in starts]
        for counts in pool.map(run_seeds, starts, sizes):
            reached.update(counts)
    print(f"\n  {schedules} schedules from seed {first}: {dict(reached)}")
    expected = REACHED + (RARE if schedules >= 50_000 else ())
    missing = [what for what in expected if not reached[what]]
    assert not missing, f"never reached: {missing}"


def test_the_same_seed_is_the_same_schedule() -> None:
    assert run_seeds(17, 30) == run_seeds(17, 30)
