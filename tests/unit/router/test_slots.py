"""The slot map, from what groups claim (DESIGN 3)."""

from __future__ import annotations

import random

import pytest

from overdb.sharding import SLOTS, expand, founding_slots
from overdb_router.slots import UNKNOWN, SlotMap

ALL = b"\xff" * 512
NONE = bytes(512)


def test_founding_claims_cover_everything() -> None:
    slots = SlotMap()
    for group in range(3):
        assert not slots.complete
        assert slots.learn(group, 1, founding_slots(group, 3))
    assert slots.complete
    assert slots.groups == [slot % 3 for slot in range(SLOTS)]
    assert sum(slots.owned(group) for group in range(3)) == SLOTS


def test_the_claim_of_the_higher_epoch_counts_whoever_is_heard_last() -> None:
    for order in ((0, 1), (1, 0)):
        slots = SlotMap()
        claims = {0: (1, ALL), 1: (2, founding_slots(1, 2))}
        for group in order:
            slots.learn(group, *claims[group])
        assert slots.groups[0] == 0
        assert slots.groups[1] == 1


def test_an_older_claim_changes_nothing() -> None:
    slots = SlotMap()
    slots.learn(0, 3, NONE)
    assert not slots.learn(0, 2, ALL)
    assert slots.groups == [UNKNOWN] * SLOTS
    assert slots.epoch(0) == 3


def test_a_claim_that_is_known_is_no_change() -> None:
    slots = SlotMap()
    assert slots.learn(0, 1, ALL)
    assert not slots.learn(0, 1, ALL)


def test_a_bitmap_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="511"):
        SlotMap().learn(0, 1, bytes(511))


def test_an_expanded_bitmap_has_a_byte_for_each_slot() -> None:
    bitmap = bytes(random.Random(1).randbytes(SLOTS // 8))
    expected = bytes(bitmap[slot // 8] >> slot % 8 & 1 for slot in range(SLOTS))
    assert expand(bitmap) == expected
