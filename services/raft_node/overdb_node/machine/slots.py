"""Which slots the group owns. Data of the group itself, with an epoch that grows when slots move."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from overdb.sharding import SLOTS, expand, founding_slots, slot_of, slots_of

_EPOCH = struct.Struct(">Q")
FOUNDING_EPOCH = 1


class Slots:
    """A bitmap: bit ``slot % 8`` of byte ``slot // 8``."""

    __slots__ = ("bitmap", "epoch", "owned")

    def __init__(self, group: int, groups: int) -> None:
        self.epoch = FOUNDING_EPOCH
        self._take(founding_slots(group, groups))

    def _take(self, bitmap: bytes) -> None:
        self.bitmap = bitmap
        # The same, a byte for each slot, as it is asked for each request.
        self.owned = expand(bitmap)

    def owns(self, key: bytes) -> bool:
        return bool(self.owned[slot_of(key)])

    def owns_all(self, keys: Iterable[bytes]) -> bool:
        return all(map(self.owned.__getitem__, slots_of(keys)))

    @property
    def count(self) -> int:
        return int.from_bytes(self.bitmap, "big").bit_count()

    def pack(self) -> bytes:
        return _EPOCH.pack(self.epoch) + self.bitmap

    def load(self, packed: bytes | None) -> None:
        if packed is not None:
            assert len(packed) == _EPOCH.size + SLOTS // 8
            self.epoch = _EPOCH.unpack_from(packed)[0]
            self._take(packed[_EPOCH.size :])
