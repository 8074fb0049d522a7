"""A replica that is killed in the middle of a change has the state before or after it (FAULTS 36, 37)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overdb_node.raft.types import HardState
from tests.unit.storage import kills
from tests.unit.storage.log_files import entries, entry
from tests.unit.storage.replicas import (
    GENESIS,
    HARD_STATE,
    State,
    apply,
    clock_at,
    compacted,
    debris,
    fill,
    opened,
    state_of,
    whole_stream,
)

AT_ONCE = 8

pytestmark = pytest.mark.usefixtures("small_segments")


def after_each_kill(action: Callable[[Path, int], None], before: Path) -> list[State]:
    """What a start finds when the action was killed before its first, second ... step, and at its end.

    Each time a second start finds the same, and no debris.
    """

    def one(step: int) -> tuple[bool, State]:
        directory = before.with_name(f"killed-{step}")
        if before.exists():
            shutil.copytree(before, directory)
        killed = kills.run_killed(action, directory, step)
        state = state_of(directory)
        assert state_of(directory) == state, step
        assert debris(directory) == [], step
        shutil.rmtree(directory)
        return killed, state

    found = []
    with ThreadPoolExecutor(AT_ONCE) as pool:  # they wait for the disk more than for a processor
        for first in range(0, kills.STEPS_MAX, AT_ONCE):
            for killed, state in pool.map(one, range(first, first + AT_ONCE)):
                found.append(state)
                if not killed:
                    return found
    raise AssertionError("the action does not end")


def test_a_founding_that_is_killed_at_any_step_is_done_by_the_next_start(tmp_path: Path) -> None:
    """FAULTS 37."""
    found = after_each_kill(kills.found, tmp_path / "none")
    print(f"founding: {len(found) - 1} steps")
    assert len(found) > 15
    assert all(state == State(HardState(), GENESIS, [], (0, 0), None) for state in found)


def test_a_compaction_that_is_killed_at_any_step_loses_nothing(tmp_path: Path) -> None:
    """FAULTS 36, 40: no gap behind the first element, and the data is not behind it."""
    before = tmp_path / "before"
    with opened(before) as storage:
        fill(storage, 20)
        first = compacted(storage)
        for index in range(21, 61):  # over several segments
            storage.log.append(None, [entry(index, 1, bytes(300))])
            if index % 10 == 0:
                storage.log.append(HARD_STATE, ())
    found = after_each_kill(kills.compact, before)
    print(f"compaction: {len(found) - 1} steps")
    assert len(found) > 20
    for state in found:
        assert state.hard_state == HARD_STATE
        assert state.snapshot.index in (20, 30)
        assert state.snapshot.clock == clock_at(state.snapshot.index)
        assert state.indexes == list(range(state.snapshot.index + 1, 61))
        assert state.applied[0] >= state.snapshot.index
        assert state.value == b"1/%d" % state.applied[0]
    assert found[0].snapshot == first
    assert found[-1].snapshot.index == 30


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """A follower's directory, and beside it the stream of the leader's snapshot at index 30, term 2."""
    with opened(tmp_path / "leader") as leader:
        fill(leader, 30, term=2)
        snapshot = compacted(leader)
        (tmp_path / "stream").write_bytes(whole_stream(leader, snapshot))
        (tmp_path / "of").write_text(f"{snapshot.index} {snapshot.term}")
    before = tmp_path / "before"
    with opened(before) as storage:
        fill(storage, 5)
        compacted(storage)
        storage.log.append(None, entries(6, 40))
        apply(storage, 6, 10)
        storage.data.flush()
    return before


@pytest.mark.parametrize(
    ("action", "kept"),
    [(kills.install_keeping, list(range(31, 41))), (kills.install_dropping, [])],
    ids=["keeping", "dropping"],
)
def test_an_install_that_is_killed_at_any_step_is_done_or_not_done(
    received: Path, action: Callable[[Path, int], None], kept: list[int]
) -> None:
    """PROTOCOL 1.2: all of it atomic on disk. FAULTS 1: the vote outlives it."""
    found = after_each_kill(action, received)
    print(f"install: {len(found) - 1} steps")
    assert len(found) > 30
    done = [state.snapshot.index == 30 for state in found]
    assert done == sorted(done), "once it is done it stays done"
    assert not done[0]
    assert done[-1]
    for state in found:
        assert state.hard_state == HARD_STATE
        if state.snapshot.index == 30:
            assert (state.snapshot.term, state.snapshot.clock) == (2, clock_at(30))
            assert (state.indexes, state.applied, state.value) == (kept, (30, 2), b"2/30")
        else:
            assert state.snapshot.index == 5
            assert (state.indexes, state.applied) == (list(range(6, 41)), (10, 1))
            assert state.value == b"1/10"
