"""Limits that results depend on are those of the log, however a replica was started (FAULTS 51, 52)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overdb_node import codec
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.settings import LIMITS
from overdb_node.machine.types import Acknowledged, Command, Configure, Put, Refused, Written
from tests.unit.machine.helpers import NOW, SECOND, Group, request

SHORT = MachineSettings(key_bytes_max=2, client_id_lifetime_us=60 * SECOND, operations_max=3)
LONG = MachineSettings()


def both(*commands: Command) -> tuple[Group, Group]:
    """Two replicas that were started with different limits and have applied the same."""
    groups = Group(SHORT), Group(LONG)
    for group in groups:
        for command in commands:
            group.one(command)
    return groups


def put(number: int, key: bytes = b"long") -> Put:
    return Put(key, b"v", request(number))


def test_without_limits_in_the_log_replicas_come_apart() -> None:
    short, long = both(put(1))
    assert short.machine.digest() != long.machine.digest()


def test_the_log_s_limits_count_from_their_entry_on() -> None:
    short, long = both(Configure(LONG.limits), put(1))
    assert short.value(b"long") == b"v"
    assert short.machine.digest() == long.machine.digest()
    assert isinstance(short.one(Configure(SHORT.limits)), Acknowledged)
    refused = short.one(put(2, b"longer"))
    assert isinstance(refused, Refused)
    assert "the limit is 2" in refused.message


@pytest.mark.parametrize("started_with", [SHORT, LONG])
def test_they_outlive_restarts(started_with: MachineSettings) -> None:
    group = Group(started_with)
    group.one(Configure(replace(LONG, key_bytes_max=3).limits))
    group.restart()
    assert group.machine.limits == replace(LONG, key_bytes_max=3).limits
    assert isinstance(group.one(put(1)), Refused)
    assert isinstance(group.one(put(2, b"abc")), Written)


def test_an_id_is_expired_for_all_or_for_none() -> None:
    """What the process was started with does not come into it: a minute there, an hour here."""
    short, long = both(Configure(LONG.limits))
    for group in (short, long):
        assert isinstance(group.one(put(1), stamp=NOW + 600 * SECOND), Written)
    assert short.machine.digest() == long.machine.digest()


def test_a_limit_of_nothing_is_refused() -> None:
    group = Group(LONG)
    assert isinstance(group.one(Configure((0,) * len(LIMITS))), Refused)
    assert group.machine.limits == LONG.limits


def test_two_machines_do_not_share_their_limits() -> None:
    short, other = Group(SHORT), Group(SHORT)
    short.one(Configure(LONG.limits))
    assert other.machine.limits == SHORT.limits


def test_they_are_written_as_they_are_read() -> None:
    payload = codec.encode_envelope(NOW, codec.encode_limits(SHORT))
    expected = Configure(SHORT.limits, byte_limits=SHORT.byte_limits)
    assert codec.decode_envelope(payload) == (NOW, [expected])
