"""An administrator sets a group's time back (PROTOCOL 2.1, 2.10; FAULTS 81)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overdb_node.machine.floors import MARKS
from overdb_node.machine.machine import TIME_WRONG_US_MIN, MachineSettings
from overdb_node.machine.types import (
    Acknowledged,
    Advance,
    Code,
    Configure,
    Put,
    Refused,
    SetTime,
    Written,
)
from tests.unit.machine.helpers import HOUR, NOW, SECOND, Group, add, refused, request, transact

DAY = 24 * HOUR
YEARS = 3650 * DAY
AT_START = MachineSettings(level=0)


def group_of_level(level: int) -> Group:
    group = Group(AT_START)
    group.one(Configure(AT_START.limits, level))
    return group


def put_at(group: Group, name: bytes, now: int, of: int) -> object:
    """A put of a client that was made now."""
    return group.one(Put(name, b"", request(1, of, created=now, started_at=now)), stamp=now)


@pytest.mark.parametrize("jump", [2 * 60 * SECOND, DAY, YEARS])
def test_a_group_whose_time_was_wrong_serves_again(jump: int) -> None:
    group = group_of_level(1)
    assert put_at(group, b"a", NOW, 1) == Written(NOW + 1)
    group.entry(stamp=NOW + jump)
    now = NOW + 5 * SECOND
    assert group.one(SetTime(), stamp=now) == Acknowledged()
    assert group.machine.physical == now
    later = now + 61 * SECOND
    result = put_at(group, b"a", later, 2)
    assert isinstance(result, Written)
    assert result.version > NOW + jump, "versions go on growing"


def test_the_hybrid_clock_never_goes_back() -> None:
    group = group_of_level(1)
    group.entry(stamp=NOW + DAY)
    group.one(SetTime())
    before = group.machine.clock
    assert before > NOW + DAY
    group.restart()
    assert group.machine.clock == before
    assert group.machine.physical == NOW


def test_what_ran_before_the_time_was_wrong_does_not_run_again_behind_the_repair() -> None:
    """Its result was forgotten while the time was wrong."""
    group = group_of_level(1)
    addition = transact(request(1), add(b"n", 1))
    group.one(addition)
    group.entry(stamp=NOW + DAY)
    group.entry(stamp=NOW + DAY)  # expired results go with the next entries
    group.one(SetTime(), stamp=NOW + 5 * SECOND)
    for _ in range(2):
        told = ("repaired", "take a new id in 59 s")
        refused(group.one(addition, stamp=NOW + 6 * SECOND), Code.FAILED_PRECONDITION, *told)
        assert group.value(b"n") == b"1"
        group.restart()


def test_what_was_told_expired_does_not_run_behind_the_repair() -> None:
    """Its client may have sent the same under another id."""
    group = group_of_level(1)
    group.entry(stamp=NOW + DAY)
    late = transact(request(1, created=NOW + 4 * SECOND, started_at=NOW), add(b"n", 1))
    refused(group.one(late, stamp=NOW + DAY), Code.FAILED_PRECONDITION, "expired")
    group.one(SetTime(), stamp=NOW + 5 * SECOND)
    told = ("repaired", "stays so", "take a new id")
    refused(group.one(late, stamp=NOW + 90 * SECOND), Code.FAILED_PRECONDITION, *told)


def test_a_jump_that_made_nothing_expire_costs_nothing() -> None:
    """Within the lifetime of ids all results are still there: no request waits for a minute."""
    group = group_of_level(1)
    addition = transact(request(1), add(b"n", 1))
    first = group.one(addition)
    group.entry(stamp=NOW + 600 * SECOND)
    group.one(SetTime(), stamp=NOW + 5 * SECOND)
    assert group.one(addition, stamp=NOW + 6 * SECOND) == first
    assert isinstance(put_at(group, b"a", NOW + 7 * SECOND, 2), Written)


def test_the_command_changes_nothing_where_the_time_is_right() -> None:
    """A copy that comes late, or one that nobody should have sent: it has no time of its own."""
    group = group_of_level(1)
    group.entry(stamp=NOW + TIME_WRONG_US_MIN)
    before = group.machine.physical
    refused(group.one(SetTime()), Code.FAILED_PRECONDITION, "10.0 s ahead")
    assert group.machine.physical == before
    group.entry(stamp=NOW + DAY)
    assert group.one(SetTime(), stamp=NOW + 20 * SECOND) == Acknowledged()
    refused(group.one(SetTime(), stamp=NOW + 20 * SECOND), Code.FAILED_PRECONDITION)
    refused(group.one(SetTime(), stamp=NOW + HOUR), Code.FAILED_PRECONDITION, " 0.0 s ahead")


def test_without_a_stamp_there_is_nothing_to_set_the_time_to() -> None:
    group = group_of_level(1)
    group.entry(stamp=NOW + DAY)
    refused(group.one(SetTime(), stamp=0), Code.FAILED_PRECONDITION, "clock")
    assert group.machine.physical == NOW + DAY


def test_at_level_0_the_command_changes_nothing() -> None:
    """Release 0.1.0 cannot read it, and its replicas may share the group."""
    group, plain = group_of_level(0), group_of_level(0)
    for one in (group, plain):
        one.entry(stamp=NOW + DAY)
    refused(group.one(SetTime()), Code.FAILED_PRECONDITION, "level 0")
    plain.one(Refused(Code.INVALID_ARGUMENT, "the command cannot be read by this version"))
    assert group.machine.digest() == plain.machine.digest()


# --- old versions, where versions are far ahead of time ---------------------------------------------


def test_old_versions_go_although_versions_are_years_ahead_of_time() -> None:
    """The floor is the version of one retention ago, not the time of one retention ago."""
    settings = replace(AT_START, level=0)
    group = Group(settings)
    group.one(Configure(settings.limits, 1))
    group.entry(Advance(NOW + YEARS))
    old = group.machine.clock
    for minutes in range(0, 121, 5):
        group.entry(stamp=NOW + minutes * 60 * SECOND)
        group.restart()
    assert group.machine.retention_floor > old
    recent = group.machine.clock
    group.entry(stamp=NOW + 130 * 60 * SECOND)
    assert group.machine.retention_floor <= recent


def test_a_version_younger_than_the_retention_is_never_below_the_floor() -> None:
    group = Group(AT_START)
    group.one(Configure(AT_START.limits, 1))
    group.entry(Advance(NOW + YEARS))
    issued: list[tuple[int, int]] = []
    floors = [0]
    for step in range(400):
        now = NOW + step * 37 * SECOND
        group.entry(stamp=now)
        issued.append((now, group.machine.clock))
        floor = group.machine.retention_floor
        assert floor >= floors[-1]
        floors.append(floor)
        kept = [version for at, version in issued if at > now - HOUR]
        assert floor <= min(kept)
        gone = [version for at, version in issued if at <= now - HOUR - HOUR // MARKS - 37 * SECOND]
        assert all(version < floor for version in gone), "and none is kept for much longer"
    assert len(floors) > MARKS


def test_the_floor_is_kept_when_time_has_caught_up_with_the_versions() -> None:
    group = Group(AT_START)
    group.one(Configure(AT_START.limits, 1))
    group.entry(Advance(NOW + 3 * HOUR))
    for step in range(181):
        group.entry(stamp=NOW + step * 60 * SECOND)
    floor = group.machine.retention_floor
    assert floor > NOW + 2 * HOUR + 1
    group.restart()
    assert group.machine.retention_floor == floor


def test_a_replica_that_restarts_behind_the_repair_comes_to_the_same_state() -> None:
    """A start makes no mark: only entries do, and all replicas apply the same ones."""
    groups = [Group(AT_START), Group(AT_START)]
    for number, group in enumerate(groups):
        group.one(Configure(AT_START.limits, 1))
        group.entry(stamp=NOW + DAY)
        group.one(SetTime(), stamp=NOW + SECOND)
        if number:
            group.restart()
        group.entry(stamp=NOW + 2 * SECOND)
    assert groups[0].machine.digest() == groups[1].machine.digest()
