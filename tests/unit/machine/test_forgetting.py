"""What may be forgotten, and what is answered afterwards (PROTOCOL 2.10)."""

from __future__ import annotations

import pytest

from overdb_node.machine.machine import MachineSettings
from overdb_node.machine.types import Advance, Code, Put, Result, Written
from tests.unit.machine.helpers import (
    HOUR,
    NOW,
    SECOND,
    Group,
    add,
    client,
    get,
    refused,
    request,
    transact,
)


def entries_on_disk(group: Group) -> int:
    return len(list(group.store.records(b"d")))


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_acknowledged_is_forgotten_and_its_late_copy_is_stale(restart: bool) -> None:
    """PROTOCOL 2.10: refused, never run a second time."""
    group = Group()
    for number in (1, 2, 3):
        group.entry(Put(b"k%d" % number, b"", request(number)))
    answer = group.one(Put(b"k4", b"", request(4, below=3)))
    assert group.machine.results_kept == 2
    if restart:
        group.restart()
        assert group.machine.results_kept == 2
    before = group.store.copy().versions
    for number in (1, 2):
        late = group.one(Put(b"k%d" % number, b"", request(number)))
        refused(late, Code.FAILED_PRECONDITION, f"{client().hex()}/{number}", "stale", "3")
    assert isinstance(group.one(Put(b"k3", b"", request(3))), Written)
    assert group.one(Put(b"k4", b"", request(4, below=3))) == answer
    assert group.store.versions == before


def test_acknowledged_below_only_grows() -> None:
    group = Group()
    group.entry(Put(b"k", b"", request(9, below=5)))
    group.entry(Put(b"k", b"", request(10, below=2)))
    refused(group.one(Put(b"k", b"", request(4))), Code.FAILED_PRECONDITION, "stale")


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (1, 500, 900, 901)], ids=["dense", "sparse"])
def test_the_number_that_is_named_is_not_forgotten_itself(numbers: tuple[int, ...]) -> None:
    """PROTOCOL 2.10: *below*. What goes too early runs a second time (FAULTS, outcome forgotten early)."""
    group = Group()
    commands = [transact(request(number), add(b"n", 1)) for number in numbers]
    answers = group.entry(*commands)
    group.entry(Put(b"k", b"", request(1000, below=numbers[2])))
    assert group.entry(*commands[2:]) == answers[2:]
    assert group.value(b"n") == b"4"
    for late in group.entry(*commands[:2]):
        refused(late, Code.FAILED_PRECONDITION, "stale")


def test_the_first_request_of_a_client_can_acknowledge() -> None:
    """Its earlier numbers went to other groups."""
    group = Group()
    group.entry(Put(b"k", b"", request(9, below=9)))
    refused(group.one(Put(b"k", b"", request(8))), Code.FAILED_PRECONDITION, "stale")


def test_results_of_an_entry_are_one_record_which_goes_with_the_last_of_them() -> None:
    group = Group()
    group.entry(*(Put(b"k", b"", request(number)) for number in range(1, 101)))
    assert entries_on_disk(group) == 1
    group.entry(Put(b"k", b"", request(101, below=100)))
    assert entries_on_disk(group) == 2
    assert group.machine.results_kept == 2
    group.entry(Put(b"k", b"", request(102, below=102)))
    assert entries_on_disk(group) == 1
    assert group.machine.results_kept == 1


def test_what_one_entry_acknowledges_of_itself_is_not_kept() -> None:
    group = Group()
    group.entry(*(Put(b"k", b"", request(number, below=number)) for number in range(1, 51)))
    assert group.machine.results_kept == 1
    group.restart()
    assert group.machine.results_kept == 1
    refused(group.one(Put(b"k", b"", request(49))), Code.FAILED_PRECONDITION, "stale")


def test_a_put_is_kept_in_a_few_bytes() -> None:
    """One record an entry, 45 bytes a Put: retries must not double what is written."""
    group = Group()
    group.entry(*(Put(b"k", bytes(10_000), request(number)) for number in range(1, 101)))
    ((_, record),) = group.store.records(b"d")
    assert len(record) <= 100 * 48


def test_a_batch_of_many_entries_writes_each_small_record_once() -> None:
    """Records are folded; ``MemoryStore.write`` refuses a name that comes twice."""
    group = Group()
    for number in range(1, 51):
        group.entry(Put(b"k", b"", request(number, below=number)), write=False)
    batch = group.machine.take_batch()
    names = [name for name, _ in batch.records]
    assert sorted(set(names)) == sorted(names)
    kept = [name for name, content in batch.records if content is not None]
    assert sorted(name[:1] for name in kept) == [b"c", b"d", b"s", b"s", b"s"]


def test_a_client_has_a_limit_of_unacknowledged_results() -> None:
    """RESOURCE_EXHAUSTED names it; an acknowledgement makes room at once."""
    group = Group(MachineSettings(unacknowledged_per_client_max=3))
    group.entry(*(Put(b"k", b"", request(number)) for number in (1, 2, 3)))
    too_much = group.one(Put(b"x", b"", request(4)))
    refused(too_much, Code.RESOURCE_EXHAUSTED, client().hex(), "limit is 3")
    assert b"x" not in group.store.versions
    assert isinstance(group.one(Put(b"x", b"", request(4, 2))), Written), "another client's matter"
    assert isinstance(group.one(Put(b"x", b"", request(4, below=2))), Written)


# --- expiry ------------------------------------------------------------------------------------------


def test_an_id_expires_by_the_log_alone() -> None:
    """PROTOCOL 2.10: an hour after its creation by physical time, which stamps move and Advance not."""
    group = Group()
    command = Put(b"k", b"", request(1))
    group.entry(command, stamp=NOW + HOUR)
    group.entry(Advance(NOW + HOUR + 30 * SECOND), stamp=NOW)
    assert isinstance(group.one(Put(b"k", b"", request(2)), stamp=0), Written)
    late = group.one(Put(b"k", b"", request(3)), stamp=NOW + HOUR + 1000)
    refused(late, Code.FAILED_PRECONDITION, client().hex(), "expired", "3600 s")
    refused(group.one(command, stamp=0), Code.FAILED_PRECONDITION, "expired")


@pytest.mark.parametrize("restart", [False, True])
def test_an_expired_client_leaves_nothing_behind(restart: bool) -> None:
    group = Group()
    for of in range(1, 6):
        group.entry(Put(b"k", b"", request(1, of)), transact(request(2, of), get(b"k")))
    if restart:
        group.restart()
    group.entry(stamp=NOW + 2 * HOUR)
    assert group.machine.sessions_open == group.machine.results_kept == 0
    assert sorted(group.store.names) == [b"slots", b"snapshot", b"sum"]


def test_clients_expire_in_the_order_of_their_creation() -> None:
    group = Group()
    group.entry(Put(b"k", b"", request(1, 1, created=NOW)))
    group.entry(Put(b"k", b"", request(1, 2, created=NOW - 10 * SECOND)))
    group.entry(stamp=NOW + HOUR - 5 * SECOND)
    assert group.machine.sessions_open == 1
    assert isinstance(group.one(Put(b"k", b"", request(2, 1)), stamp=0), Written)


def test_expiry_closes_a_bounded_number_of_sessions_an_entry_and_all_in_the_end() -> None:
    group = Group()
    group.entry(*(Put(b"k", b"", request(1, of)) for of in range(1, 101)))
    left = [100]
    while left[-1]:
        group.entry(stamp=NOW + 2 * HOUR)
        left.append(group.machine.sessions_open)
        assert 0 < left[-2] - left[-1] <= 16
    assert group.machine.results_kept == 0


def test_expiry_is_bounded_in_results_and_survives_a_reload() -> None:
    """Heartbeats wait behind an entry: a client with 65,536 results must not go at once."""
    steady, restarted = Group(), Group()
    puts = [Put(b"k", b"", request(number)) for number in range(1, 5001)]
    for group in (steady, restarted):
        group.entry(*reversed(puts))
    for round_ in range(20):
        before = steady.machine.results_kept
        results: list[list[Result]] = []
        for group in (steady, restarted):
            results.append(group.entry(puts[0], puts[-1], stamp=NOW + 2 * HOUR))
        restarted.restart()
        assert results[0] == results[1], round_
        assert steady.machine.digest() == restarted.machine.digest(), round_
        assert steady.store.names == restarted.store.names, round_
        assert before - steady.machine.results_kept <= 1024
    assert steady.machine.results_kept == steady.machine.sessions_open == 0
