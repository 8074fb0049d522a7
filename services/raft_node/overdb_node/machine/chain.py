"""A running checksum over what applying has done, entry by entry, to be compared with other replicas'.

    checksum(i) = xxh3_64(checksum(i - 1), index, term, clock, physical time, new versions, changed records)

Of an entry, not of a slice: how many entries a replica applies before it writes is its own affair. What is in
memory beside (locks, queues, sessions) is a function of the records, and so is covered by them.

A chain *begins* somewhere: at the start of the log, at each Compare, and wherever it could not be carried on
(the record was written by an older program, or is missing in an older one's snapshot; the release has
changed). Checksums of different beginnings, or of different releases, say nothing about each other: another
release may word a stored refusal differently. Since every Compare begins a new chain, all replicas are back
on one soon after an upgrade.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from msgpack import Packer
from xxhash import xxh3_64_intdigest

MARK_EVERY = 1024  # entries
MARKS_MAX = 64

_STATE = struct.Struct(">QQQ")  # index, begin, checksum; the release follows
_NAME = itemgetter(0)
_pack = Packer().pack


class Mark(NamedTuple):
    """The checksum as of the entry ``at``, of the chain that began behind the entry ``begin``."""

    at: int
    begin: int
    checksum: int


class Chain:
    """The chain of one replica. ``marks`` are the latest of those at fixed indexes and at Compares."""

    __slots__ = ("_release", "_written", "begin", "checksum", "index", "marks")

    def __init__(self, release: str) -> None:
        self._release = release.encode()
        self.index = 0
        self.begin = 0
        self.checksum = 0
        self.marks: deque[Mark] = deque(maxlen=MARKS_MAX)
        self._written = b""

    def extend(
        self,
        index: int,
        term: int,
        clock: tuple[int, int],
        versions: Sequence[tuple[bytes, int, bytes | None]],
        records: Mapping[bytes, bytes | None],
    ) -> None:
        """Take in one entry: the clock after it (its value, physical time) and what it has changed."""
        if index != self.index + 1:
            self._begin(index - 1)  # what is known is of another state than the one this entry met
        entry = (
            self.checksum,
            index,
            term,
            clock,
            versions,
            # By name: the order in which they were touched is no part of the state.
            sorted(records.items(), key=_NAME),
        )
        # As MessagePack: lengths and kinds are in it, so that no two entries give the same bytes; and it is
        # one call.
        self.checksum = xxh3_64_intdigest(_pack(entry))
        self.index = index
        if not index % MARK_EVERY:
            self.marks.append(Mark(index, self.begin, self.checksum))

    def compare(self) -> None:
        """The entry taken in last was a Compare: mark it, and begin anew."""
        mark = Mark(self.index, self.begin, self.checksum)
        if not self.marks or self.marks[-1] != mark:
            self.marks.append(mark)
        self._begin(self.index)

    def _begin(self, index: int) -> None:
        self.index = self.begin = index
        self.checksum = 0

    # --- on disk --------------------------------------------------------------------------------

    def take(self) -> bytes | None:
        """What is to be written; None when it is as it was written last."""
        if self.index < 0:
            return None
        packed = _STATE.pack(self.index, self.begin, self.checksum) + self._release
        if packed == self._written:
            return None
        self._written = packed
        return packed

    def load(self, packed: bytes | None) -> None:
        """Go on from what was written along with the state, if this release has written it."""
        if packed is None or packed[_STATE.size :] != self._release:
            self.index = -1  # the next entry begins a chain, whichever it is
            return
        self.index, self.begin, self.checksum = _STATE.unpack_from(packed)
        self._written = packed
