"""Builds that are broken in one way each: the simulator goes red on every one, within its budget of seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.cluster import variants
from tests.simulation.cluster.run import Run
from tests.simulation.transactions import test_variants as of_transactions
from tests.unit.raft import variants as of_raft

Patch = pytest.MonkeyPatch
SEEDS_MAX = 80
SECONDS = 8.0
MORE_LOAD = {"answer_before_fsync", "own_copy_counted_early"}  # the moment that they need is short
# Each with the faults that bring it to light; none: all kinds.
CASES: list[tuple[Callable[[Patch], None], tuple[str, ...]]] = [
    (variants.fsync_off, ()),
    (variants.directories_not_fsynced, ()),
    (variants.failed_fsync_ignored, ("fail_fsync", "lose_power_everywhere")),
    (variants.middle_corruption_cut, ("damage_disk",)),
    (variants.applied_index_first, ("kill", "lose_power")),
    (variants.answers_before_the_quorum, ()),
    (variants.clock_of_the_wall, ()),
    (variants.results_not_kept, ()),
    (variants.commit_at_the_first_vote, ()),
    (variants.state_of_its_own, ()),
    (of_raft.no_no_op, ("restart_quickly", "kill")),
    (of_raft.heartbeat_moves_commit, ()),
    (of_raft.answer_before_fsync, ("lose_power_everywhere", "slow_disk")),
    (of_raft.own_copy_counted_early, ("lose_power_everywhere", "slow_disk")),
    (of_transactions.a_lock_freed_without_an_outcome, ("kill_router", "pause")),
    (of_transactions.writes_look_through_locks, ("kill_router",)),
]


def _pause_of(variant: Callable[[Patch], None]) -> float:
    return 0.06 if variant.__name__ in MORE_LOAD else 0.0


@pytest.mark.parametrize(("variant", "faults"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_broken_build_goes_red(
    variant: Callable[[Patch], None], faults: tuple[str, ...], monkeypatch: Patch
) -> None:
    variant(monkeypatch)
    pause = _pause_of(variant)
    for seed in range(SEEDS_MAX):
        outcome = Run(seed, SECONDS, only=faults, pause=pause).run()
        if outcome.problem:
            print(f"seed {seed}: {outcome.problem}")
            return
    raise AssertionError(f"{SEEDS_MAX} seeds did not notice")


CONTROL_SEEDS = 10
SETTINGS = sorted({(faults, _pause_of(variant)) for variant, faults in CASES})


@pytest.mark.parametrize(("faults", "pause"), SETTINGS)
def test_the_whole_build_is_green_under_the_same_faults(
    faults: tuple[str, ...], pause: float
) -> None:
    for seed in range(CONTROL_SEEDS):
        outcome = Run(seed, SECONDS, only=faults, pause=pause).run()
        assert not outcome.problem, f"seed {seed}: {outcome.problem}"
