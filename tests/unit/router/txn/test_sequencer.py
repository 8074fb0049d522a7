"""The sequencer: first in, first out on each key; shared places stand side by side (PROTOCOL 2.4)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_router.txn.sequencer import Sequencer

SHARED, EXCLUSIVE = False, True


def test_a_conflicting_one_waits_and_one_on_other_keys_does_not() -> None:
    sequencer: Sequencer[int] = Sequencer()
    assert sequencer.enter(1, {b"a": EXCLUSIVE, b"b": EXCLUSIVE})
    assert not sequencer.enter(2, {b"b": EXCLUSIVE, b"c": EXCLUSIVE})
    assert sequencer.enter(3, {b"d": EXCLUSIVE})
    assert sequencer.waiting == 1
    assert sequencer.release(1) == [2]
    assert sequencer.release(2) == []
    assert sequencer.release(3) == []
    assert len(sequencer) == 0


def test_it_is_fifo_even_where_a_later_one_could_go() -> None:
    sequencer: Sequencer[int] = Sequencer()
    sequencer.enter(1, {b"a": SHARED})
    assert not sequencer.enter(2, {b"a": EXCLUSIVE})
    assert not sequencer.enter(3, {b"a": SHARED}), "else the writer starves"
    assert not sequencer.enter(4, {b"b": EXCLUSIVE, b"a": SHARED})
    assert not sequencer.enter(5, {b"b": SHARED}), "queues are entered in one step"
    assert sequencer.release(1) == [2]
    assert sequencer.release(2) == [3, 4]
    assert sequencer.release(3) == []
    assert sequencer.release(4) == [5]


def test_readers_share() -> None:
    sequencer: Sequencer[int] = Sequencer()
    assert sequencer.enter(1, {b"a": SHARED})
    assert sequencer.enter(2, {b"a": SHARED})
    assert not sequencer.enter(3, {b"a": EXCLUSIVE})
    assert sequencer.release(1) == []
    assert sequencer.release(2) == [3]


def test_one_that_gives_up_waiting_lets_those_behind_it_on() -> None:
    sequencer: Sequencer[int] = Sequencer()
    sequencer.enter(1, {b"a": SHARED})
    sequencer.enter(2, {b"a": EXCLUSIVE})
    sequencer.enter(3, {b"a": SHARED})
    assert sequencer.release(2) == [3]
    assert sequencer.release(2) == [], "twice is nothing"
    assert sequencer.release(1) == []
    assert sequencer.release(3) == []
    assert len(sequencer) == sequencer.waiting == 0


class Model:
    """The rule itself, told slowly: who has nothing conflicting ahead of it goes."""

    def __init__(self) -> None:
        self.queue: list[tuple[int, dict[bytes, bool]]] = []

    def going(self) -> set[int]:
        return {
            ticket
            for position, (ticket, keys) in enumerate(self.queue)
            if not any(_conflict(keys, ahead) for _, ahead in self.queue[:position])
        }


def _conflict(one: dict[bytes, bool], other: dict[bytes, bool]) -> bool:
    return any(one[key] or other[key] for key in one.keys() & other.keys())


KEYS = st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.booleans(), min_size=1)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(KEYS, st.integers(0, 20)), max_size=60))
def test_it_admits_those_that_nothing_conflicting_is_ahead_of(
    steps: list[dict[bytes, bool] | int],
) -> None:
    """Every step is a ticket that comes, or one that leaves, admitted or not."""
    sequencer: Sequencer[int] = Sequencer()
    model = Model()
    going: set[int] = set()
    for number, step in enumerate(steps):
        if isinstance(step, dict):
            model.queue.append((number, step))
            if sequencer.enter(number, step):
                going.add(number)
        elif model.queue:
            ticket, _ = model.queue.pop(step % len(model.queue))
            going.discard(ticket)
            admitted = sequencer.release(ticket)
            assert not going & set(admitted)
            going |= set(admitted)
        assert going == model.going()
        assert len(sequencer) == len(model.queue)
        assert sequencer.waiting == len(model.queue) - len(going)
