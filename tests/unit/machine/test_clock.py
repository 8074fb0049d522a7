"""The group's clock, and versions that only grow (PROTOCOL 2.1)."""

from __future__ import annotations

from overdb_node.machine.bounds import ADVANCE_MAX
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.types import Advance, Advanced, Code, Delete, Deleted, Put, Written
from tests.unit.machine.helpers import (
    NOW,
    SECOND,
    Group,
    get,
    put,
    refused,
    request,
    transact,
    transacted,
)


def test_the_first_write_of_an_entry_takes_the_clock_as_it_is_and_each_further_one_adds_1() -> None:
    """PROTOCOL 2.1 (!)."""
    group = Group()
    results = group.entry(
        Put(b"a", b"", request(1)), Delete(b"a", request(2)), Put(b"b", b"", request(3))
    )
    assert results == [Written(NOW), Deleted(NOW + 1, True), Written(NOW + 2)]
    assert group.machine.clock == NOW + 2


def test_a_stamp_behind_the_clock_still_moves_it_by_one() -> None:
    """PROTOCOL 2.1: clock := max(clock + 1, stamp)."""
    group = Group()
    group.entry(Put(b"a", b"1", request(1)))
    assert group.one(Put(b"a", b"2", request(2)), stamp=NOW - 5 * SECOND) == Written(NOW + 1)


def test_an_entry_without_writes_moves_the_clock_too() -> None:
    """PROTOCOL 2.1: applying *an entry* begins with it; a no-op has no stamp of its own."""
    group = Group()
    group.entry()
    group.entry(stamp=0)
    assert group.machine.clock == NOW + 1
    assert group.one(Put(b"a", b"", request(1)), stamp=0) == Written(NOW + 2)


def test_physical_time_moves_by_stamps_only_and_never_back() -> None:
    """PROTOCOL 2.1 (!): expiry must not hang on timestamps that others have chosen."""
    group = Group()
    group.entry()
    group.entry(Advance(NOW + 30 * SECOND))
    assert group.machine.clock == NOW + 30 * SECOND
    assert group.machine.physical == NOW
    group.entry(stamp=NOW - SECOND)
    assert group.machine.physical == NOW
    group.entry(stamp=NOW + SECOND)
    assert group.machine.physical == NOW + SECOND


def test_all_writes_of_a_transaction_share_a_version_and_the_next_write_is_above_it() -> None:
    """PROTOCOL 2.1."""
    group = Group()
    first, after = group.entry(
        transact(request(1), put(b"a", b"1"), put(b"b", b"2")), Put(b"a", b"3", request(2))
    )
    assert transacted(first).version == NOW
    assert group.store.versions == {b"a": {NOW: b"1", NOW + 1: b"3"}, b"b": {NOW: b"2"}}
    assert after == Written(NOW + 1)


def test_a_transaction_that_only_reads_takes_a_timestamp_of_its_own() -> None:
    """PROTOCOL 2.1: so no two answers of an entry carry the same version."""
    group = Group()
    first, second = group.entry(transact(request(1), get(b"a")), Put(b"a", b"", request(2)))
    assert transacted(first).version == NOW
    assert second == Written(NOW + 1)


def test_a_refused_write_takes_no_timestamp() -> None:
    group = Group()
    _, second = group.entry(Put(b"", b"", request(1)), Put(b"a", b"", request(2)))
    assert second == Written(NOW)


def test_after_advance_nothing_is_written_at_or_below_its_version_in_the_same_entry_too() -> None:
    """PROTOCOL 2.7: a read at that version is fixed for good."""
    group = Group()
    results = group.entry(
        Advance(NOW + 7),
        Put(b"a", b"", request(1)),
        Advance(NOW + 3),
        Put(b"a", b"", request(2)),
    )
    assert results == [Advanced(NOW + 7), Written(NOW + 8), Advanced(NOW + 8), Written(NOW + 9)]


def test_advance_to_the_clock_itself_closes_it_as_well() -> None:
    """PROTOCOL 2.7: the clock of the moment is a version that somebody may read at."""
    group = Group()
    assert group.entry(Advance(NOW), Put(b"a", b"", request(1))) == [
        Advanced(NOW),
        Written(NOW + 1),
    ]


def test_advance_to_a_version_that_another_group_has_issued_is_taken_however_far_ahead() -> None:
    """PROTOCOL 2.1: else one group whose time ran ahead ends every read over several groups."""
    group = Group()
    group.entry()
    issued = NOW + 86_400 * SECOND
    assert group.one(Advance(issued)) == Advanced(issued)
    assert group.machine.physical == NOW
    assert group.one(Put(b"a", b"", request(1))) == Written(issued + 1)


def test_advance_beyond_what_a_clock_can_come_to_is_refused() -> None:
    group = Group()
    refused(group.one(Advance(ADVANCE_MAX + 1)), Code.INVALID_ARGUMENT, str(ADVANCE_MAX))
    assert group.machine.clock == NOW
    assert group.one(Advance(ADVANCE_MAX)) == Advanced(ADVANCE_MAX)
    assert group.one(Put(b"a", b"", request(1))) == Written(ADVANCE_MAX + 1)


def test_at_level_0_advance_is_bounded_by_the_groups_own_time() -> None:
    """As release 0.1.0 applies it: its replicas may share the group."""
    group = Group(MachineSettings(level=0))
    latest = NOW + 60 * SECOND
    refused(group.one(Advance(latest + 1)), Code.INVALID_ARGUMENT, str(latest), str(latest + 1))
    assert group.machine.clock == NOW
    assert group.one(Advance(latest)) == Advanced(latest)
    refused(group.one(Advance(latest + 1)), Code.INVALID_ARGUMENT)  # no climbing in steps


def test_the_clock_goes_on_after_a_restart() -> None:
    """FAULTS 57: it never goes back."""
    group = Group()
    group.entry(Advance(NOW + SECOND))
    group.restart()
    assert group.machine.clock == NOW + SECOND
    assert group.machine.physical == NOW
    assert group.one(Put(b"a", b"", request(1)), stamp=0) == Written(NOW + SECOND + 1)


def test_a_stamp_at_the_end_of_64_bits_stops_no_replica() -> None:
    """A committed entry is applied whatever is in it, at every start again."""
    group = Group()
    group.entry(stamp=(1 << 64) - 1)
    group.entry(stamp=(1 << 64) - 1)
    clock = group.machine.clock
    group.restart()
    assert group.machine.clock == clock
