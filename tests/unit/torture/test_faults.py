"""The plan of faults: drawn from the seed alone, and never more than a cluster must survive."""

from __future__ import annotations

import itertools

import pytest

from overdb_node.settings import NodeSettings
from overdb_torture.clusters.base import Process
from overdb_torture.faults import (
    DRIFT,
    FOR_GOOD,
    JUMP,
    Kind,
    Planned,
    Role,
    plan_faults,
    settings_of,
)
from overdb_torture.injector import in_words, victims_of

SEEDS = range(200)


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    assert plan_faults(tuple(Kind), 60, 2, 5) == plan_faults(tuple(reversed(Kind)), 60, 2, 5)
    assert len({plan_faults(tuple(Kind), 60, 2, seed) for seed in range(20)}) == 20


@pytest.mark.parametrize("seconds", [10.0, 12.0, 60.0, 600.0])
def test_each_kind_that_is_asked_for_is_in_every_plan(seconds: float) -> None:
    kinds = (Kind.KILL, Kind.PARTITION, Kind.SLOW_FSYNC, Kind.CLOCK_JUMP)
    for seed in SEEDS:
        plan = plan_faults(kinds, seconds, 2, seed)
        assert {fault.kind for fault in plan} == set(kinds)
        assert {fault.kind for fault in plan[: len(kinds)]} == set(kinds)
        assert all(fault.role is Role.LEADER for fault in plan[: len(kinds)])


def test_one_after_the_other_with_time_to_recover_between() -> None:
    for seed in SEEDS:
        plan = plan_faults(tuple(Kind), 120, 2, seed)
        assert plan[0].begins >= 1.0
        assert plan[-1].ends <= 120
        for fault, following in itertools.pairwise(plan):
            assert fault.begins < fault.ends
            assert following.begins - fault.ends >= 1.0


def test_nothing_to_do_without_kinds_or_time() -> None:
    assert plan_faults((), 60, 2, 1) == ()
    assert plan_faults((Kind.KILL,), 1.0, 2, 1) == ()


def test_clocks_are_off_by_seconds_and_by_years_both_ways_for_a_while_and_for_good() -> None:
    drawn = [fault for seed in SEEDS for fault in plan_faults((Kind.CLOCK_JUMP,), 100, 2, seed)]
    jumps = [fault for fault in drawn if fault.way != DRIFT]
    assert all(abs(fault.amount) == 0.5 for fault in drawn if fault.way == DRIFT)
    for least, most in ((0.5, 45), (60, 120), (43_200, 86_400), (1e8, 3650 * 86_400)):
        for sign in (-1, 1):
            assert any(least <= sign * fault.amount <= most for fault in jumps), (least, most, sign)
    assert {fault.way for fault in jumps} == {JUMP, FOR_GOOD}


def test_who_lags_is_a_follower_of_one_group_and_has_the_time_for_it() -> None:
    for seed in SEEDS:
        plan = plan_faults((Kind.LAG, Kind.KILL), 60, 2, seed)
        lagging = [fault for fault in plan if fault.kind is Kind.LAG]
        assert all(fault.role is Role.FOLLOWER and len(fault.groups) == 1 for fault in lagging)
        for fault, following in itertools.pairwise(plan):
            if fault.kind is Kind.LAG:
                assert following.begins - fault.begins == pytest.approx(9.0)


@pytest.mark.parametrize("seconds", [12.0, 30.0, 60.0, 600.0])
def test_all_kinds_are_in_a_plan_once_before_any_is_twice(seconds: float) -> None:
    for seed in SEEDS:
        plan = plan_faults(tuple(Kind), seconds, 2, seed)
        first = [fault.kind for fault in plan[: len(Kind)]]
        assert len(set(first)) == len(first)
        if seconds >= 30:
            assert set(first) == set(Kind)


def test_settings_are_drawn_with_the_plan_and_are_none_that_a_node_refuses() -> None:
    seen: dict[str, set[int]] = {}
    for seed in SEEDS:
        plan = plan_faults((Kind.SETTINGS,), 60, 2, seed)
        for fault, again in zip(plan, plan_faults((Kind.SETTINGS,), 60, 2, seed), strict=True):
            assert len(fault.groups) == 1
            settings = settings_of(fault)
            assert settings == settings_of(again)
            for name, value in settings.items():
                seen.setdefault(name, set()).add(value)
    assert {name: len(values) for name, values in seen.items()} == {
        "client_id_seconds": 3,
        "retention_seconds": 3,
        "unacknowledged_max": 2,
        "result_bytes_per_client_max": 2,
        "result_bytes_max": 2,
    }
    for name, values in seen.items():
        for value in values:
            found = NodeSettings(node_id=1, members="1=h:1", **{name: value})  # type: ignore[arg-type]
            assert getattr(found, name) == value
    assert (
        in_words(Planned(Kind.SETTINGS, 0, 1, Role.LEADER, (0,), draw=0.5))
        == "ids 600 s, versions 60 s, 1024 results, 64 KiB, of all 4096 KiB"
    )


def test_machines_sleep_for_seconds_and_for_more_than_a_day() -> None:
    drawn = [fault for seed in SEEDS for fault in plan_faults((Kind.SUSPEND,), 100, 2, seed)]
    assert {fault.amount for fault in drawn} == {20.0, 90.0, 1500.0, 7200.0, 93_600.0}
    assert {in_words(fault) for fault in drawn if fault.amount > 7200} == {"asleep for 93600 s"}


CLUSTER = [
    *(Process(f"node-{number}", number, (number - 1) // 3) for number in range(1, 7)),
    Process("router-0"),
    Process("router-1"),
]


def test_at_most_one_node_of_a_group_is_hurt_at_once_but_for_a_restart_of_all() -> None:
    for seed in SEEDS:
        for fault in plan_faults(tuple(Kind), 120, 2, seed):
            victims = victims_of(fault, CLUSTER, (2, 6))
            if fault.kind is Kind.RESTART_ALL:
                assert victims == CLUSTER
                continue
            groups = [victim.group for victim in victims]
            if fault.role is Role.GROUP:  # a full disk loses nothing, so it may meet all of a group
                assert fault.kind is Kind.DISK_FULL
                continue
            assert len(groups) == len(set(groups)) >= 1
            if fault.kind not in (Kind.KILL, Kind.PAUSE):
                assert all(victim.node_id for victim in victims)


def test_leaders_and_followers_are_looked_up() -> None:
    def names(role: Role, leaders: tuple[int, ...], draw: float = 0.0) -> list[str]:
        fault = Planned(Kind.PAUSE, 0, 1, role, (0, 1), draw=draw)
        return [victim.name for victim in victims_of(fault, CLUSTER, leaders)]

    assert names(Role.LEADER, (2, 6)) == ["node-2", "node-6"]
    assert names(Role.FOLLOWER, (2, 6)) == ["node-1", "node-4"]
    assert names(Role.FOLLOWER, (2, 6), 0.99) == ["node-3", "node-5"]
    assert names(Role.ROUTER, (2, 6), 0.99) == ["router-1"]
    # Nobody is known to lead: one of them is hurt all the same.
    assert names(Role.LEADER, (0,), 0.5) == ["node-2", "node-5"]
