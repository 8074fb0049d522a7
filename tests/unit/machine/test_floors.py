"""What was forgotten stays forgotten when a limit grows (PROTOCOL 2.10)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.machine.floors import Floors
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import (
    Acknowledged,
    Code,
    Configure,
    Prepare,
    Put,
    Refused,
    SetTime,
    Transacted,
    Vote,
    VoteKind,
    Written,
)
from tests.unit.machine.helpers import (
    HOUR,
    NOW,
    SECOND,
    Group,
    add,
    client,
    put,
    refused,
    request,
    transact,
    transacted,
)

LONG = MachineSettings()
SHORT = replace(LONG, client_id_lifetime_us=60 * SECOND, retention_us=2 * SECOND)
AT_START = replace(SHORT, level=0)


def group_with_short_limits() -> Group:
    group = Group(AT_START)
    group.one(Configure(SHORT.limits, 1))
    return group


def test_an_expired_id_stays_expired_when_ids_live_longer() -> None:
    group = group_with_short_limits()
    addition = transact(request(1), add(b"n", 1))
    assert transacted(group.one(addition)).results[0].value == b"1"
    refused(group.one(addition, stamp=NOW + 75 * SECOND), Code.FAILED_PRECONDITION, "expired")
    group.one(Configure(LONG.limits), stamp=NOW + 76 * SECOND)
    for _ in range(2):
        refused(group.one(addition, stamp=NOW + 77 * SECOND), Code.FAILED_PRECONDITION, "expired")
        group.restart()
    assert group.value(b"n") == b"1"


def test_an_id_that_has_not_expired_lives_as_long_as_the_new_limit_says() -> None:
    group = group_with_short_limits()
    group.one(Put(b"a", b"1", request(1)), stamp=NOW + 50 * SECOND)
    group.one(Configure(LONG.limits), stamp=NOW + 55 * SECOND)
    late = Put(b"a", b"2", request(2))
    assert isinstance(group.one(late, stamp=NOW + HOUR), Written)


def test_a_part_of_a_transaction_under_an_expired_id_is_stale_for_good() -> None:
    """An Inquire about an expired id stores nothing, because no Prepare can ever get a vote behind it."""
    group = group_with_short_limits()
    group.one(Configure(LONG.limits), stamp=NOW + 75 * SECOND)
    vote = group.one(
        Prepare(request(1), 0, (0, 1), 7, (), (put(b"a", b"1"),), ()), stamp=NOW + 76 * SECOND
    )
    assert isinstance(vote, Vote)
    assert vote.kind is VoteKind.STALE


def test_a_version_that_may_be_gone_is_not_read_when_versions_are_kept_for_longer() -> None:
    group = group_with_short_limits()
    old = group.one(Put(b"k", b"v1", request(1)))
    assert isinstance(old, Written)
    group.one(Put(b"k", b"v2", request(2)))
    group.entry(stamp=NOW + 10 * SECOND)
    floor = group.machine.retention_floor
    assert floor == NOW + 8 * SECOND
    group.one(Configure(LONG.limits), stamp=NOW + 10 * SECOND)
    for _ in range(2):
        assert group.machine.retention_floor == floor
        refusal = group.machine.check_version(old.version)
        assert isinstance(refusal, Refused)
        assert refusal.code is Code.FAILED_PRECONDITION
        group.restart()
    group.entry(stamp=NOW + HOUR + 9 * SECOND)
    assert group.machine.retention_floor == floor + SECOND  # time has caught up


def test_a_lower_limit_moves_the_floor_at_once() -> None:
    group = Group(replace(LONG, level=0))
    group.one(Configure(LONG.limits, 1), stamp=NOW + HOUR)
    group.one(Configure(SHORT.limits), stamp=NOW + HOUR)
    assert group.machine.retention_floor == NOW + HOUR - 2 * SECOND


def test_level_0_has_the_floors_of_release_0_1_0() -> None:
    """Its replicas compute floors from the limits in force; the records have no room for others."""
    group = Group(AT_START)
    group.one(Configure(SHORT.limits))
    group.one(Configure(replace(LONG, level=0).limits), stamp=NOW + 75 * SECOND)
    assert group.machine.retention_floor == NOW + 75 * SECOND - HOUR
    assert group.store.names[b"limits"] == replace(LONG, level=0).pack()


def test_the_entry_that_raises_the_level_keeps_the_floors_of_the_limits_before_it() -> None:
    group = Group(AT_START)
    group.one(Configure(SHORT.limits))
    group.one(Configure(LONG.limits, 1), stamp=NOW + 75 * SECOND)
    assert group.machine.retention_floor == NOW + 73 * SECOND
    result = group.one(Put(b"a", b"1", request(1)), stamp=NOW + 76 * SECOND)
    refused(result, Code.FAILED_PRECONDITION, "expired")


_LIMITS = st.builds(
    lambda life, retention: (
        replace(LONG, client_id_lifetime_us=life * SECOND, retention_us=retention * SECOND).limits
    ),
    st.integers(60, 7200),
    st.integers(1, 7200),
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("time"), st.integers(0, 3000)),
        st.tuples(st.just("limits"), _LIMITS),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("add"), st.integers(0, 4)),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(_STEPS)
def test_floors_only_rise_and_a_request_runs_once(steps: list[tuple[str, object]]) -> None:
    """Whatever becomes of the limits; on replicas that restart and such that do not, alike."""
    group, steady = group_with_short_limits(), group_with_short_limits()
    now, ran, floors = NOW, dict.fromkeys(range(5), 0), (0, 0)
    for kind, what in steps:
        if kind == "restart":
            group.restart()
            continue
        for one in (group, steady):
            if kind == "time":
                assert isinstance(what, int)
                one.entry(stamp=now + what * SECOND)
            elif kind == "limits":
                assert isinstance(what, tuple)
                one.one(Configure(what), stamp=now)
            else:
                assert isinstance(what, int)
                created = NOW + what * 1000 * SECOND
                id_ = request(1, of=what, created=created, started_at=NOW)
                before = one.value(b"%d" % what)
                result = one.one(transact(id_, add(b"%d" % what, 1)), stamp=now)
                if one is group and one.value(b"%d" % what) != before:
                    assert isinstance(result, Transacted)
                    ran[what] += 1
        now += what * SECOND if kind == "time" and isinstance(what, int) else 0
        machine = group.machine
        moved = (machine.id_floor, machine.retention_floor)
        assert all(new >= old for new, old in zip(moved, floors, strict=True))
        assert machine.digest() == steady.machine.digest()
        assert group.store.names == steady.store.names
        floors = moved
    assert all(times <= 1 for times in ran.values())


@pytest.mark.parametrize("age", [61, 4000])
def test_when_time_is_set_back_what_may_have_run_has_expired_and_the_rest_has_not(age: int) -> None:
    group = group_with_short_limits()
    assert isinstance(group.one(Put(b"a", b"1", request(1))), Written)
    group.entry(stamp=NOW + 10 * 365 * 24 * HOUR)
    versions = group.machine.retention_floor
    assert group.one(SetTime(), stamp=NOW + age * SECOND) == Acknowledged()
    assert group.machine.physical == NOW + age * SECOND
    assert group.machine.retention_floor == versions
    assert group.machine.id_floor == NOW + (age + 60) * SECOND
    assert client(1) < client(1, group.machine.id_floor)


def test_before_the_first_limits_of_a_log_no_floor_counts() -> None:
    """They would follow from what each process was started with: replicas would come apart."""
    groups = [Group(replace(one, level=1)) for one in (SHORT, LONG)]
    for group in groups:
        group.entry(stamp=NOW + HOUR)
        group.one(Configure(LONG.limits, 1), stamp=NOW + HOUR)
    short, long = (group.machine for group in groups)
    assert short.retention_floor == long.retention_floor == NOW
    assert groups[0].store.names == groups[1].store.names


@pytest.mark.parametrize("entries_per_write", [2, 3, 7])
def test_what_is_stored_of_marks_follows_from_the_entries_alone(entries_per_write: int) -> None:
    """A replica writes once for several entries, and each one has other several of them."""

    def stored_after_each_write(writes_every: int) -> dict[int, bytes]:
        floors, stored, found = Floors(replace(SHORT, level=1)), b"", {}
        random, physical = Random(1), NOW
        for entry in range(200):
            physical += random.randint(1, 300_000)
            floors.follow(physical, physical + HOUR)  # versions are far ahead: marks are made
            if (entry + 1) % writes_every == 0:
                stored = floors.pack() if floors.changed else stored
                floors.changed = False
                found[entry] = stored
        return found

    each, some = stored_after_each_write(1), stored_after_each_write(entries_per_write)
    assert some == {entry: each[entry] for entry in some}
