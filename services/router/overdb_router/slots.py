"""Which group owns which slot, put together from what each group says of itself. Pure."""

from __future__ import annotations

from overdb.sharding import SLOTS

UNKNOWN = -1
_BITMAP_BYTES = SLOTS // 8


class SlotMap:
    """4,096 slots -> group. Where two groups claim a slot, the claim of the higher epoch counts.

    That can happen while a slot moves: the old owner's claim is one epoch behind.
    """

    def __init__(self) -> None:
        self._claims: dict[int, tuple[int, bytes]] = {}  # group -> epoch, bitmap
        self.groups: list[int] = [UNKNOWN] * SLOTS

    def learn(self, group: int, epoch: int, bitmap: bytes) -> bool:
        """Take in what a group says; return whether the map changed.

        Raises ValueError for a bitmap of another length than 512 bytes. Older claims change nothing.
        """
        if len(bitmap) != _BITMAP_BYTES:
            raise ValueError(f"slot bitmap has {len(bitmap)} bytes instead of {_BITMAP_BYTES}")
        known = self._claims.get(group)
        if known is not None and (known[0] > epoch or known == (epoch, bitmap)):
            return False
        self._claims[group] = (epoch, bitmap)
        rebuilt = self._build()
        changed = rebuilt != self.groups
        self.groups = rebuilt
        return changed

    def epoch(self, group: int) -> int:
        """Return the newest epoch that the group was heard with, 0 for none."""
        known = self._claims.get(group)
        return 0 if known is None else known[0]

    def owned(self, group: int) -> int:
        """Return how many slots the group owns."""
        return self.groups.count(group)

    @property
    def complete(self) -> bool:
        """Whether every slot has an owner."""
        return UNKNOWN not in self.groups

    def _build(self) -> list[int]:
        owners = [UNKNOWN] * SLOTS
        # Ascending by epoch: the newest claim is written last.
        for group, (_, bitmap) in sorted(
            self._claims.items(), key=lambda item: (item[1][0], item[0])
        ):
            for position, byte in enumerate(bitmap):
                for bit in range(8):
                    if byte >> bit & 1:
                        owners[position * 8 + bit] = group
        return owners
