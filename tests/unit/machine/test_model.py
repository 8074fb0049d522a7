"""The machine against a model of it, and against itself restarted (PROTOCOL 2.1, 2.2, 2.6, 2.10)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_common.level import LEVEL
from overdb_node.machine.bounds import ADVANCE_MAX
from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import (
    Advance,
    Advanced,
    Code,
    Command,
    Configure,
    Delete,
    Deleted,
    Put,
    Refused,
    Result,
    Transact,
    Transacted,
    Written,
)
from tests.sizes import examples
from tests.unit.machine.helpers import HOUR, NOW, Group, small_values_read_again
from tests.unit.machine.model import Model, same_request
from tests.unit.machine.strategies import ENTRIES, Entry

RAN = (Written, Deleted, Transacted)


def check(model: Model, command: Command | Refused, result: Result) -> None:
    """Step the model by one command and hold the machine's answer against it."""
    if isinstance(command, Refused):
        assert result == command
        return
    if isinstance(command, Advance):
        if command.version > ADVANCE_MAX:
            assert isinstance(result, Refused)
            return
        model.clock, model.used = max(model.clock, command.version), True
        assert result == Advanced(model.clock)
        return
    if isinstance(command, Transact) and not any(command[1:]):
        assert isinstance(result, Refused)  # nothing asked for
        return
    assert isinstance(command, Put | Delete | Transact)
    name = command.id[:2]
    if name in model.ran:
        ran, outcome = model.ran[name]
        if isinstance(result, RAN):
            assert same_request(ran, command)
            assert result == outcome
        else:
            assert isinstance(result, Refused)
            forgotten = model.admits(command.id) is not None
            assert forgotten or outcome == "state" or not same_request(ran, command)
        return
    why = model.admits(command.id)
    if why is not None:
        assert isinstance(result, Refused)
        gone = why == "gone"
        assert result.code is (Code.FAILED_PRECONDITION if gone else Code.INVALID_ARGUMENT)
        return
    model.acknowledge(command.id)
    outcome = model.run(command)
    model.ran[name] = (command, outcome)
    if outcome == "state":
        assert isinstance(result, Refused)
        assert result.code in (Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE)
    else:
        assert result == outcome


@settings(max_examples=examples(quick=100, full=250), deadline=None)
@given(ENTRIES, st.booleans())
def test_the_machine_does_what_the_model_does(entries: list[Entry], stripped: bool) -> None:
    with small_values_read_again(stripped):
        _compare(entries)


def _compare(entries: list[Entry]) -> None:
    group, model = Group(), Model()
    for entry in entries:
        model.begin(entry.stamp)
        results = group.entry(*entry.commands, stamp=entry.stamp)
        assert len(results) == len(entry.commands)
        for command, result in zip(entry.commands, results, strict=True):
            check(model, command, result)
        assert (group.machine.clock, group.machine.physical) == (model.clock, model.physical)
    assert group.store.versions == model.versions


@settings(max_examples=examples(quick=100, full=250), deadline=None)
@given(ENTRIES, st.data(), st.booleans())
def test_replicas_agree_however_they_batch_and_restart(
    entries: list[Entry], data: st.DataObject, stripped: bool
) -> None:
    """FAULTS 35, 43, 51: same results, same memory, same disk. Restarts replay from the last batch."""
    with small_values_read_again(stripped):
        _compare_replicas(entries, data)


def _compare_replicas(entries: list[Entry], data: st.DataObject) -> None:
    steady, other = Group(), Group()
    for one in (
        steady,
        other,
    ):  # a leader's first words: the record that keeps floors comes with them
        one.one(Configure(one.settings.limits, LEVEL))
    expected = [steady.entry(*entry.commands, stamp=entry.stamp) for entry in entries]
    position = written = 0
    restarts_left = 4
    while position < len(entries):
        what = data.draw(st.sampled_from(["apply", "apply", "write", "crash"]))
        if what == "apply":
            entry = entries[position]
            results = other.entry(*entry.commands, stamp=entry.stamp, write=False)
            assert results == expected[position]
            position += 1
        elif what == "write":
            other.write()
            written = position
        elif restarts_left:
            restarts_left -= 1
            other.restart()
            position = written
            other.index = 1 + written
    other.write()
    assert other.machine.digest() == steady.machine.digest()
    assert other.store.versions == steady.store.versions
    assert other.store.names == steady.store.names
    other.restart()
    assert other.machine.digest() == steady.machine.digest()


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
def test_all_is_forgotten_in_the_end(entries: list[Entry]) -> None:
    """PROTOCOL 2.10: no record stays behind once every id has expired."""
    group = Group(MachineSettings())
    for entry in entries:
        group.entry(*entry.commands, stamp=entry.stamp)
    group.restart()
    for _ in range(4):
        group.entry(stamp=NOW + 9 * HOUR)
    assert group.machine.results_kept == group.machine.sessions_open == 0
    assert sorted(group.store.names) == [b"slots", b"snapshot", b"sum"]
