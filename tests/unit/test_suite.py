"""The suite's own tools: sizes, drawn seeds, ports."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

from hypothesis import core, settings

from tests.ports import free_base_port, free_ports, is_free
from tests.scheduling import group_of
from tests.sizes import DRAWN_FROM, Sizes, draw_first_seed

ROOT = Path(__file__).parents[2]
QUICK, FULL = Sizes(full=False, first_seed=7_000_000), Sizes(full=True, first_seed=7_000_000)


def test_a_quick_search_has_the_drawn_seeds_and_a_full_one_the_fixed_ones_too() -> None:
    assert list(QUICK.seeds(quick=2, full=3)) == [7_000_000, 7_000_001]
    assert list(FULL.seeds(quick=2, full=3)) == [0, 1, 2, 7_000_000, 7_000_001]
    assert (QUICK.pick(quick=1, full=9), FULL.pick(quick=1, full=9)) == (1, 9)


def test_a_quick_search_for_something_rare_begins_with_the_known_seed_and_misses_none() -> None:
    assert list(QUICK.from_known(2, 5)) == [2, 0, 1, 3, 4]
    assert list(islice(QUICK.from_known(99, 5), 3)) == [99, 0, 1]
    assert list(FULL.from_known(2, 5)) == [0, 1, 2, 3, 4]


def test_seeds_are_drawn_from_the_day_and_the_commit(tmp_path: Path) -> None:
    first, origin = draw_first_seed(ROOT)
    assert (first, origin) == draw_first_seed(ROOT)
    assert first >= DRAWN_FROM
    other, told = draw_first_seed(tmp_path)  # no checkout
    assert told.endswith("no commit")
    assert other >= DRAWN_FROM


def test_hypothesis_draws_its_examples_from_the_first_seed(sizes: Sizes) -> None:
    """Also where CI is set in the environment: there its own profile has the same examples for ever."""
    assert not settings().derandomize
    assert core.global_force_seed == sizes.first_seed


def test_two_processes_are_never_given_the_same_port() -> None:
    code = "from tests.ports import *; print(free_ports(300), free_base_port()); input()"
    mine = {*free_ports(300), *range(base := free_base_port(), base + 119)}
    command = [sys.executable, "-c", code]
    others = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout is not None
            ports, _, first = other.stdout.readline().rpartition(" ")
            theirs = {
                *map(int, ports.strip("[]").split(", ")),
                *range(int(first), int(first) + 119),
            }
            assert not mine & theirs
            mine |= theirs
    finally:
        for other in others:
            other.communicate("\n", timeout=30)
    assert all(map(is_free, free_ports(20)))


def test_ports_come_again_late() -> None:
    first = free_ports(8)
    for _ in range(20):
        assert not set(free_ports(8)) & set(first)


def test_tests_that_share_a_cluster_or_the_engine_are_one_group() -> None:
    shared = "tests/integration/test_examples.py"
    assert group_of(f"{shared}::test_a") == group_of(f"{shared}::test_b")
    assert group_of("tests/containers/test_faults.py::test_a") == group_of(
        "tests/containers/test_hardening.py::test_b"
    )
    assert group_of("tests/containers/test_upgrade.py::test_a") != group_of(
        "tests/containers/test_hardening.py::test_b"
    )
    alone = "tests/integration/test_kills.py"
    assert group_of(f"{alone}::test_a") != group_of(f"{alone}::test_b")
