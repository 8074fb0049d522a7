"""What a key and a value may be, and which keys are this group's (kv.proto; DESIGN 3 and 6)."""

from __future__ import annotations

import pytest

from overdb.sharding import slot_of
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import (
    Behind,
    Code,
    Command,
    Delete,
    Put,
    Refused,
    Written,
    WrongGroup,
)
from tests.unit.machine.helpers import (
    HOUR,
    NOW,
    Group,
    exists,
    get,
    put,
    refused,
    request,
    transact,
)

LIMITS = MachineSettings(key_bytes_max=4, value_bytes_max=6)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Put(b"", b"", request(1)), ("key", "empty")),
        (Put(b"12345", b"", request(1)), ("key", "5", "4")),
        (Put(b"1234", b"1234567", request(1)), ("value", "7", "6")),
        (Delete(b"", request(1)), ("key", "empty")),
        (Delete(b"12345", request(1)), ("key", "5", "4")),
        (transact(request(1), put(b"a", b""), get(b"")), ("key", "empty")),
        (transact(request(1), put(b"a", b"1234567")), ("value", "7", "6")),
        (transact(request(1), otherwise=(get(b"12345"),)), ("key", "5", "4")),
        (transact(request(1), compares=(exists(b"12345"),)), ("key", "5", "4")),
    ],
)
def test_a_limit_is_named_with_the_actual_size(command: Command, words: tuple[str, ...]) -> None:
    """DESIGN 6."""
    group = Group(LIMITS)
    refused(group.one(command), Code.INVALID_ARGUMENT, *words)
    assert group.store.versions == {}
    assert group.machine.sessions_open == 0


def test_at_the_limit_it_is_taken() -> None:
    group = Group(LIMITS)
    assert isinstance(group.one(Put(b"1234", b"123456", request(1))), Written)


def test_what_could_not_be_decoded_is_answered_with_its_refusal_in_its_place() -> None:
    group = Group()
    unreadable = Refused(Code.INVALID_ARGUMENT, "cannot be read")
    first, second, third = group.entry(
        Put(b"a", b"", request(1)), unreadable, Put(b"b", b"", request(2))
    )
    assert second == unreadable
    assert (first, third) == (Written(NOW), Written(NOW + 1))


def test_each_key_belongs_to_exactly_one_of_the_founding_groups() -> None:
    """DESIGN 3: slot mod groups."""
    groups = [Group(MachineSettings(group=number, groups=3)) for number in range(3)]
    for number in range(200):
        key = b"{t%d}x" % number
        results = [g.one(Put(key, b"", request(number + 1))) for g in groups]
        owner = slot_of(key) % 3
        for of, result in enumerate(results):
            assert result == WrongGroup(1) if of != owner else isinstance(result, Written)


def test_slots_survive_a_restart_with_their_epoch() -> None:
    """They are data of the group: a setting that changed later does not move them."""
    group = Group(MachineSettings(group=0, groups=2))
    group.entry()
    slots, epoch = group.machine.slots, group.machine.epoch
    assert len(slots) == 512
    group.settings = MachineSettings(group=0, groups=3)
    group.restart()
    assert (group.machine.slots, group.machine.epoch) == (slots, epoch)


# --- reads -------------------------------------------------------------------------------------------


def test_a_read_of_the_newest_or_of_a_version_that_is_kept_is_taken() -> None:
    group = Group()
    group.entry()
    for version in (0, NOW, NOW - HOUR):
        assert group.machine.check_read(b"a", version) is None


def test_a_read_beyond_the_clock_says_how_far_the_clock_is() -> None:
    """PROTOCOL 2.7: nobody has issued that version yet; Advance first."""
    group = Group()
    group.entry()
    assert group.machine.check_read(b"a", NOW + 1) == Behind(NOW)
    assert group.machine.check_version(NOW + 1) == Behind(NOW)


def test_a_read_below_the_retention_is_refused_and_the_floor_named() -> None:
    """PROTOCOL 2.7: a clear error."""
    group = Group()
    group.entry()
    floor = group.machine.retention_floor
    assert floor == NOW - HOUR
    refused(group.machine.check_read(b"a", floor - 1), Code.FAILED_PRECONDITION, str(floor))
    refused(group.machine.check_version(floor - 1), Code.FAILED_PRECONDITION, str(floor))


def test_a_new_group_has_a_floor_of_zero() -> None:
    assert Group().machine.retention_floor == 0


def test_a_read_of_a_foreign_or_malformed_key_is_refused() -> None:
    """FAULTS 27."""
    group = Group(MachineSettings(group=0, groups=4096))
    assert group.machine.check_read(b"a", 0) == WrongGroup(1)
    refused(group.machine.check_read(b"", 0), Code.INVALID_ARGUMENT, "empty")
    refused(group.machine.check_read(b"x" * 4097, 0), Code.INVALID_ARGUMENT, "4097", "4096")
