"""Routers of two releases, groups of two levels: a transaction is whole or nothing (PROTOCOL 2.3, 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from overdb_common import outcome
from overdb_node.machine import decision, participant
from tests.simulation.transactions import upgrade
from tests.simulation.transactions.checks import check
from tests.sizes import Sizes

Patch = pytest.MonkeyPatch
REACHED = (
    "too large over groups",
    "too large, committed by the rules before",
    "old router refused by a leader",
    "old router refused by the log",
    "committed over groups",
    "finished",
)
SCHEDULES_MAX = 3000


@pytest.fixture(autouse=True)
def _small_answers(monkeypatch: Patch) -> None:
    monkeypatch.setattr(outcome, "ANSWER_BYTES_MAX", upgrade.ANSWER_BYTES_MAX)


def run(seed: int) -> dict[str, int]:
    world = upgrade.UpgradingWorld(seed)
    try:
        world.run()
        check(world)
        upgrade.outcomes_agree(world)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    return world.counts


def test_no_schedule_of_an_upgrade_tears_a_transaction(sizes: Sizes) -> None:
    reached: Counter[str] = Counter()
    for seed in sizes.seeds(quick=600, full=20_000):
        reached.update(run(seed))
    print(dict(reached))
    missing = [what for what in REACHED if not reached[what]]
    assert not missing, f"never reached: {missing}"


# --- each rule switched off --------------------------------------------------------------------------------


def an_older_router_sees_sized_votes(patch: Patch) -> None:
    """The Prepare of an older router is answered by the vote that a newer one asked for."""
    whole = participant.Participant.prepare
    patch.setattr(
        participant.Participant,
        "prepare",
        lambda self, command: whole(self, command._replace(bounded=True)),
    )


def a_finisher_decides_without_the_bound(patch: Patch) -> None:
    whole = outcome.outcome_of
    patch.setattr(
        decision,
        "outcome_of",
        lambda ballots: whole([one._replace(sized=False) for one in ballots]),
    )


@pytest.mark.parametrize(
    "variant",
    [
        an_older_router_sees_sized_votes,
        a_finisher_decides_without_the_bound,
    ],
    ids=lambda one: one.__name__,
)
def test_a_broken_build_goes_red(variant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    variant(monkeypatch)
    for seed in range(SCHEDULES_MAX):
        try:
            run(seed)
        except AssertionError as error:
            print(error)
            return
    raise AssertionError(f"{SCHEDULES_MAX} schedules did not notice")
