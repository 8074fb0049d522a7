"""The running checksum: equal wherever the same was applied, whatever was batched, restarted, installed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from overdb_node.machine.chain import MARK_EVERY, MARKS_MAX, Mark
from overdb_node.machine.content import canonical
from overdb_node.machine.machine import CHAIN_RECORD, Machine, MachineSettings
from overdb_node.machine.types import (
    Acknowledged,
    Code,
    Command,
    CompareReplicas,
    Delete,
    Forget,
    Inquire,
    Outcome,
    Prepare,
    Put,
    Refused,
    Resolve,
    Transact,
    TransactionId,
)
from tests.sizes import examples
from tests.unit.machine.helpers import HOUR, NOW, SECOND, Group, add, client, get, put, request
from tests.unit.machine.strategies import COMMANDS, STAMPS, Entry

NEW = MachineSettings(release="1")


def chain(group: Group) -> tuple[int, int, int]:
    found = group.machine.chain
    return found.index, found.begin, found.checksum


# --- what several groups do together ------------------------------------------------------------------

_OPERATIONS = [put(b"a", b"1"), put(b"n", b"x"), add(b"n", 1), get(b"a"), get(b"b")]
_BRANCHES = st.lists(st.sampled_from(_OPERATIONS), min_size=1, max_size=2).map(tuple)
_IDS = st.builds(
    lambda of, number, age: request(number, of, started_at=NOW + age),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
)
_IDENTITIES = st.builds(TransactionId, st.integers(1, 3).map(client), st.integers(1, 3))
_ATTEMPTS = st.integers(0, 2)
_TOGETHER = st.one_of(
    st.builds(
        lambda id_, attempt, then, otherwise: Prepare(id_, attempt, (0, 1), 7, (), then, otherwise),
        _IDS,
        _ATTEMPTS,
        _BRANCHES,
        _BRANCHES,
    ),
    st.builds(
        Resolve,
        _IDENTITIES,
        _ATTEMPTS,
        st.sampled_from(Outcome),
        st.sampled_from([NOW + 5, NOW + 9, NOW + SECOND]),
    ),
    st.builds(Inquire, _IDS, _ATTEMPTS, st.just(7), st.just((0, 1))),
    st.builds(Forget, _IDENTITIES, _ATTEMPTS),
)


def _fits_the_wire(command: Command | Refused) -> bool:
    """Numbers of 64 bits: a message cannot carry others, and records need not."""
    branches = (*command.then, *command.otherwise) if isinstance(command, Transact) else ()
    return all(-(1 << 63) <= operation.delta < 1 << 63 for operation in branches)


_ALL: st.SearchStrategy[Command | Refused] = st.one_of(
    COMMANDS.filter(_fits_the_wire), _TOGETHER, _TOGETHER, st.just(CompareReplicas())
)
_ENTRIES = st.lists(
    st.builds(Entry, STAMPS, st.lists(_ALL, max_size=5).map(tuple)), min_size=1, max_size=16
)


def versions_grow(entries: Sequence[Entry]) -> bool:
    """Whether a log of groups that obey the protocol could hold these: the store checks the rest."""
    group = Group(NEW)
    try:
        for entry in entries:
            group.entry(*entry.commands, stamp=entry.stamp)
    except AssertionError:
        return False
    return True


@settings(max_examples=examples(quick=100, full=300), deadline=None)
@given(_ENTRIES, st.data())
def test_chains_are_equal_over_other_slices_restarts_and_snapshots(
    entries: list[Entry], data: st.DataObject
) -> None:
    """FAULTS 31. Marks too, but for those that a restart has forgotten."""
    assume(versions_grow(entries))
    steady, other = Group(NEW), Group(NEW)
    chains = []
    for entry in entries:
        steady.entry(*entry.commands, stamp=entry.stamp)
        chains.append(chain(steady))
    position = written = 0
    crashes_left = 4
    while position < len(entries):
        what = data.draw(st.sampled_from(["apply", "apply", "apply", "write", "crash"]))
        if what == "apply":
            entry = entries[position]
            other.entry(*entry.commands, stamp=entry.stamp, write=False)
            assert chain(other) == chains[position]
            position += 1
        elif what == "write":
            other.write()
            written = position
        elif crashes_left:
            crashes_left -= 1
            other.store = (
                other.store.copy()
            )  # it may as well be another replica that gets a snapshot
            other.restart()
            position = other.index = written
    other.write()
    marks = list(steady.machine.chain.marks)
    assert list(other.machine.chain.marks) == marks[len(marks) - len(other.machine.chain.marks) :]
    # What is digested is equal as well.
    assert content(other) == content(steady)


def content(group: Group) -> dict[bytes, bytes | None]:
    return {name: canonical(name, packed) for name, packed in group.store.names.items()}


@pytest.mark.parametrize(
    "other",
    [
        Put(b"k", b"other", request(1)),
        Put(b"other", b"v", request(1)),
        Put(b"k", b"v", request(2)),
        Put(b"k", b"v", request(1, of=2)),
        Delete(b"k", request(1)),
        Refused(Code.INVALID_ARGUMENT, ""),
        Prepare(request(1), 0, (0, 1), 7, (), (put(b"k", b"v"),), ()),
    ],
)
def test_what_an_entry_changes_is_in_it(other: Command | Refused) -> None:
    one, two = Group(NEW), Group(NEW)
    one.entry(Put(b"k", b"v", request(1)))
    two.entry(other)
    assert chain(one) != chain(two)


def test_clock_term_and_order_are_in_it() -> None:
    def after(stamp: int = NOW, term: int = 1) -> tuple[int, int, int]:
        group = Group(NEW)
        group.machine.apply(1, term, stamp, ())
        return chain(group)

    assert after() == after()
    assert len({after(), after(stamp=NOW + 1), after(term=2)}) == 3


def test_a_state_that_was_changed_behind_its_back_shows_when_it_is_used() -> None:
    """The chain is of what was done: a changed row is the digest's to find, but for what is built on it."""
    one, two = Group(NEW), Group(NEW)
    for group in (one, two):
        group.entry(Put(b"n", b"1", request(1)))
    two.store.versions[b"n"][NOW] = b"3"
    for group in (one, two):
        group.entry(Put(b"k", b"v", request(2)))
    assert chain(one) == chain(two)
    for group in (one, two):
        group.entry(_adding(3))
    assert chain(one) != chain(two)


def _adding(number: int) -> Command:
    from tests.unit.machine.helpers import transact

    return transact(request(number), add(b"n", 1))


def test_a_compare_marks_and_begins_anew_on_all_that_met_it() -> None:
    """A replica whose chain began elsewhere is on the common one from there on."""
    old, upgraded = Group(NEW), Group(NEW)
    for group in (old, upgraded):
        group.entry(Put(b"k", b"v", request(1)))
    del upgraded.store.names[CHAIN_RECORD]  # as an older program leaves it
    upgraded.restart()
    for group in (old, upgraded):
        group.entry(Put(b"k", b"w", request(2)))
    assert chain(old)[:2] == (2, 0)
    assert chain(upgraded)[:2] == (2, 1)
    for group in (old, upgraded):
        assert group.one(CompareReplicas()) == Acknowledged()
        assert group.machine.compared == 3
    assert [mark[:2] for mark in old.machine.chain.marks] == [(3, 0)]
    assert [mark[:2] for mark in upgraded.machine.chain.marks] == [(3, 1)]
    for group in (old, upgraded):
        group.entry(Put(b"k", b"x", request(3)))
    assert chain(old) == chain(upgraded)
    assert chain(old)[:2] == (4, 3)


def test_a_compare_changes_nothing_but_the_clock_as_for_a_program_that_refuses_it() -> None:
    groups = Group(NEW), Group(NEW)
    commands: list[Command | Refused] = [
        CompareReplicas(),
        Refused(Code.INVALID_ARGUMENT, "unreadable"),
    ]
    for group, command in zip(groups, commands, strict=True):
        group.entry(Put(b"k", b"v", request(1)))
        group.entry(command, stamp=NOW + SECOND)
        group.entry(Put(b"k", b"w", request(2)), stamp=0)
    knows, refuses = groups
    assert knows.machine.digest() == refuses.machine.digest()
    assert knows.store.versions == refuses.store.versions
    assert content(knows) == content(refuses)


def test_another_release_or_a_gap_begins_a_chain() -> None:
    """An older program writes the state and leaves the chain where it was: that is a gap."""
    group = Group(NEW)
    group.entry(Put(b"k", b"v", request(1)))
    other = Machine(group.store, MachineSettings(release="2"))
    other.load()
    other.apply(2, 1, NOW, ())
    assert (other.chain.index, other.chain.begin) == (2, 1)
    group.restart()
    group.machine.apply(5, 1, NOW, ())
    assert chain(group)[:2] == (5, 4)


def test_a_replica_that_has_applied_nothing_begins_where_a_founded_one_does() -> None:
    group = Group(NEW)
    group.write()
    group.restart()
    group.entry()
    fresh = Group(NEW)
    fresh.entry()
    assert chain(group) == chain(fresh)
    assert chain(group)[:2] == (1, 0)


def test_marks_are_at_fixed_indexes_and_bounded() -> None:
    group = Group(NEW)
    for _ in range((MARKS_MAX + 2) * MARK_EVERY + 5):
        group.index += 1
        group.machine.apply(group.index, 1, NOW, ())
    marks = group.machine.chain.marks
    assert [mark.at for mark in marks] == [
        number * MARK_EVERY for number in range(3, MARKS_MAX + 3)
    ]
    assert {mark.begin for mark in marks} == {0}
    assert len({mark.checksum for mark in marks}) == MARKS_MAX


def test_a_compare_at_a_fixed_index_is_one_mark() -> None:
    group = Group(NEW)
    for _ in range(MARK_EVERY - 1):
        group.index += 1
        group.machine.apply(group.index, 1, NOW, ())
    before = chain(group)
    group.entry(CompareReplicas())
    (mark,) = group.machine.chain.marks
    assert isinstance(mark, Mark)
    assert (mark.at, mark.begin) == (MARK_EVERY, 0)
    assert mark.checksum != before[2]


def test_words_of_refusals_are_not_compared() -> None:
    """Two releases may word them differently; all else in the same records is compared."""
    groups = Group(NEW), Group(NEW)
    for group in groups:
        group.entry(
            Put(b"n", b"x", request(1)),
            _adding(2),  # refused by the state: kept
            Put(b"k", b"v", request(3)),
            Prepare(request(4), 0, (0, 1), 7, (), (add(b"n", 1),), (get(b"n"),)),
            # It dies: the other one is as old.
            Prepare(request(4, of=2), 0, (0, 1), 8, (), (add(b"n", 1),), ()),
        )
    one, two = groups
    assert content(one) == content(two)
    reworded = 0
    for name, packed in list(two.store.names.items()):
        changed = packed.replace(b"nothing was done", b"NOTHING WAS DONE")
        changed = changed.replace(b"is in the way", b"IS IN THE WAY")
        reworded += changed != packed
        two.store.names[name] = changed
    assert reworded == 3, two.store.names
    assert content(one) == content(two)
    for name, packed in one.store.names.items():
        if name[:1] in (b"d", b"t"):
            flipped = bytearray(packed)
            flipped[20] ^= 1
            assert canonical(name, bytes(flipped)) != canonical(name, packed), name


def test_expiry_is_in_it() -> None:
    one, two = Group(NEW), Group(NEW)
    for group in (one, two):
        group.entry(Put(b"k", b"v", request(1)))
    two.machine._sessions._by_creation.clear()  # it forgets to forget
    for group in (one, two):
        group.entry(stamp=NOW + 2 * HOUR)
    assert chain(one) != chain(two)
