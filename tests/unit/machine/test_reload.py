"""State in memory is rebuilt from records, after a restart and after a snapshot (FAULTS 43, 51)."""

from __future__ import annotations

from overdb_node.machine import packing
from overdb_node.machine.clock import clock_of
from overdb_node.machine.machine import CLOCK_RECORD, Machine
from overdb_node.machine.types import OperationResult, Put, Transacted, Written
from tests.unit.machine.helpers import HOUR, NOW, Group, add, get, put, request, transact


def busy() -> Group:
    group = Group()
    group.entry(*(Put(b"k", b"v", request(number, of)) for number in (1, 2, 3) for of in (1, 2)))
    group.entry(transact(request(4), put(b"a", b"1"), get(b"k"), add(b"n", 2)))
    group.entry(transact(request(5), add(b"k", 2)), Put(b"k", b"", request(6, below=3)))
    return group


def test_a_snapshot_carries_clock_slots_and_all_results() -> None:
    """FAULTS 43."""
    group = busy()
    installed = Machine(group.store.copy(), group.settings)
    installed.load()
    assert installed.digest() == group.machine.digest()
    assert installed.results_kept == group.machine.results_kept == 7
    command = transact(request(4), put(b"a", b"1"), get(b"k"), add(b"n", 2))
    assert installed.apply(9, 1, NOW, [command]) == group.entry(command)


def test_the_clock_record_is_what_a_snapshot_element_needs() -> None:
    """PROTOCOL 1.1: the clock after applying the entry at its index."""
    group = busy()
    assert clock_of(group.store.names[CLOCK_RECORD]) == group.machine.clock


def test_load_on_a_used_machine_begins_anew() -> None:
    """What was applied and not written is gone, as after a crash; and nothing is there twice."""
    group = busy()
    digest = group.machine.digest()
    group.entry(Put(b"lost", b"", request(9)), write=False)
    group.machine.load()
    assert group.machine.digest() == digest
    assert group.machine.take_batch().versions == []
    group.entry(stamp=NOW + 2 * HOUR)
    assert group.machine.sessions_open == 0


def test_a_digest_differs_where_states_differ() -> None:
    one, other = busy(), busy()
    assert one.machine.digest() == other.machine.digest()
    one.entry(Put(b"k", b"1", request(9)))
    other.entry(Put(b"k", b"2", request(9)))
    assert one.machine.digest() != other.machine.digest()


def test_a_batch_holds_what_was_applied_since_the_last_one() -> None:
    group = Group()
    group.entry(Put(b"a", b"1", request(1)), write=False)
    group.entry(Put(b"a", b"2", request(2)), write=False)
    batch = group.machine.take_batch()
    assert batch.versions == [(b"a", NOW, b"1"), (b"a", NOW + 1, b"2")]
    group.store.write(batch)
    again = group.machine.take_batch()
    assert again.versions == []
    assert [name for name, _ in again.records] == [CLOCK_RECORD]


def test_kept_results_come_back_from_their_bytes() -> None:
    """On disk for years: the form below is the form of the first release."""
    group = Group()
    group.entry(Put(b"k", b"v", request(258)))
    ((name, record),) = group.store.records(b"d")
    assert name == b"d" + (1).to_bytes(8, "big")
    assert record[:16] == request(1).client_id
    assert record[16:24] == (258).to_bytes(8, "big")
    assert record[32:37] == b"\x01\x00\x00\x00\x08"
    assert record[37:] == NOW.to_bytes(8, "big")
    (kept,) = packing.unpack(record)
    assert packing.result_of(kept.result) == Written(NOW)


def test_results_that_are_all_the_same_are_kept_like_others() -> None:
    """What lies on disk does not change: an operation's result is 13 bytes and its value."""
    same, other = OperationResult(True, b"", 7), OperationResult(False, b"xy", 7)
    for results in (
        (),
        (same,),
        (same, same, same),
        (other, other),
        (same, other),
        (same, other, same),
    ):
        kept = (b"c" * 16, 5, 77, Transacted(True, results, 7))
        packed = packing.pack([kept])
        assert [tuple(one) for one in packing.unpack(packed)] == [kept]
        assert packed[-sum(13 + len(one.value) for one in results) or len(packed) :] == b"".join(
            bytes([one.found])
            + one.version.to_bytes(8, "big")
            + len(one.value).to_bytes(4, "big")
            + one.value
            for one in results
        )
