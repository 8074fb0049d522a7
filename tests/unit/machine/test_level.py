"""The level of the state machine: raised by the log alone, kept over a restart, unknown to release 0.1.0."""

from __future__ import annotations

from dataclasses import replace

from overdb_node.machine.settings import LIMITS, MachineSettings
from overdb_node.machine.types import Configure
from tests.unit.machine.helpers import Group

AT_START = MachineSettings(level=0)


def test_an_entry_raises_the_level_and_no_entry_lowers_it() -> None:
    group = Group(AT_START)
    group.one(Configure(AT_START.limits))
    assert group.machine.level == 0
    group.one(Configure(AT_START.limits, 1))
    assert group.machine.level == 1
    group.one(Configure(AT_START.limits))  # of a leader that has not heard of it
    assert group.machine.level == 1


def test_the_level_survives_a_restart() -> None:
    group = Group(AT_START)
    group.one(Configure(AT_START.limits, 1))
    before = group.machine.digest()
    group.restart()
    assert group.machine.level == 1
    assert group.machine.digest() == before


def test_a_record_of_level_0_is_what_release_0_1_0_writes() -> None:
    """Its replicas and these hold equal records as long as they share a group."""
    assert len(AT_START.pack()) == 8 * len(LIMITS)


def test_a_record_without_a_level_is_of_level_0_whatever_the_process_was_started_with() -> None:
    settings = MachineSettings()
    settings.load(AT_START.pack())
    assert settings.level == 0
    settings.load(replace(AT_START, level=7).pack())
    assert settings.level == 7
