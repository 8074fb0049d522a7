"""The format of the log: frames and records (DESIGN 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overdb_node.raft.types import Entry, EntryKind, HardState
from overdb_node.storage import frames

U64 = st.integers(0, 2**64 - 1)
ENTRIES = st.lists(
    st.builds(Entry, U64, U64, st.sampled_from(EntryKind), st.binary(max_size=60)), max_size=5
)
HARD_STATES = st.none() | st.builds(HardState, U64, U64, U64)


@given(sequence=U64, hard_state=HARD_STATES, batch=ENTRIES, before=st.binary(max_size=9))
def test_a_frame_gives_back_what_was_put_in(
    sequence: int, hard_state: HardState | None, batch: list[Entry], before: bytes
) -> None:
    content = before + frames.encode(sequence, hard_state, batch)
    frame = frames.read(content + b"behind", len(before))
    assert frame is not None
    assert (frame.sequence, frame.end) == (sequence, len(content))
    expected = ([] if hard_state is None else [hard_state]) + batch
    assert list(frames.records(frame.body)) == expected


def test_every_shorter_part_of_a_frame_is_no_frame() -> None:
    content = frames.encode(7, HardState(3, 2, 1), [Entry(1, 3, EntryKind.NOOP, b"payload")])
    for length in range(len(content)):
        assert frames.read(content[:length], 0) is None, length
        assert frames.read(content[:length] + bytes(64), 0) is None, length


def test_every_flipped_bit_of_a_frame_is_noticed() -> None:
    content = frames.encode(7, HardState(3, 2, 1), [Entry(1, 3, EntryKind.NOOP, b"payload")])
    for position in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        assert frames.read(bytes(damaged) + bytes(64), 0) is None, position


def test_a_frame_is_not_valid_under_another_sequence() -> None:
    one, two = frames.encode(1, HardState(1), ()), frames.encode(2, HardState(1), ())
    assert frames.read(one[:12] + two[12:20] + one[20:], 0) is None


@pytest.mark.parametrize(("sequence", "found"), [(4, True), (5, False), (6, False)])
def test_only_a_later_frame_counts_as_following(sequence: int, found: bool) -> None:
    content = b"\0oDbFoDbF\0" + frames.encode(5, HardState(1), ()) + bytes(30)
    assert frames.find_after(content, 0, sequence) == (10 if found else None)


def test_a_frame_that_is_damaged_does_not_count_as_following() -> None:
    content = bytearray(frames.encode(5, HardState(1), ()))
    content[-1] ^= 1
    assert frames.find_after(bytes(content), 0, 1) is None
