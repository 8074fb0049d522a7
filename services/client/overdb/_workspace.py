"""What a transaction has read and is going to write, before any of it is sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from overdb.operations import Compare, Delete, KeyValue, Operation, Put

_Own = list[tuple[bytes, bytes | None]]  # buffered writes of a range, in the order of a scan


@dataclass(slots=True)
class Workspace:
    """Versions of the keys that were read (0: there was none) and the last write to each key."""

    versions: dict[bytes, int] = field(default_factory=dict)
    writes: dict[bytes, bytes | None] = field(default_factory=dict)  # None: deleted

    def note(self, item: KeyValue) -> None:
        """Remember that an item of a scan was seen. Version 0 is a write of our own: no read."""
        if item.version:
            self.versions[item.key] = item.version

    def compares(self) -> list[Compare]:
        """Return what has to hold still at the commit, in the order of the reads."""
        return [
            Compare.version(key, "==", version) if version else Compare.missing(key)
            for key, version in self.versions.items()
        ]

    def operations(self) -> list[Operation]:
        """Return the buffered writes, each key once."""
        return [
            Delete(key) if value is None else Put(key, value) for key, value in self.writes.items()
        ]

    def own(self, start: bytes, end: bytes, *, reverse: bool) -> _Own:
        """Return the writes in a range, in the order of a scan; ``end`` empty: to the last key."""
        inside = (
            (key, value)
            for key, value in self.writes.items()
            if key >= start and (not end or key < end)
        )
        return sorted(inside, reverse=reverse)


def hidden_by(own: _Own) -> int:
    """Return how many stored keys the writes may hide: a scan with a limit needs so many more."""
    return sum(value is None for _, value in own)


async def merged(
    pages: AsyncIterator[list[KeyValue]], own: _Own, *, limit: int, reverse: bool, keys_only: bool
) -> AsyncGenerator[list[KeyValue], None]:
    """Merge pages of a scan with own writes of the range: never empty, at most ``limit`` items."""
    left = limit or float("inf")
    at = 0

    def item(position: int) -> list[KeyValue]:
        key, value = own[position]
        return [] if value is None else [KeyValue(key, b"" if keys_only else value, 0)]

    async with aclosing(pages) as stored:  # type: ignore[type-var]  # a generator, always
        async for page in stored:
            out: list[KeyValue] = []
            for found in page:
                while (
                    at < len(own)
                    and own[at][0] != found.key
                    and ((own[at][0] < found.key) is not reverse)
                ):
                    out += item(at)
                    at += 1
                if at < len(own) and own[at][0] == found.key:
                    out += item(at)
                    at += 1
                else:
                    out.append(found)
            out = out[: int(min(left, len(out)))]
            left -= len(out)
            if out:
                yield out
            if left <= 0:
                return
    rest = [one for position in range(at, len(own)) for one in item(position)]
    rest = rest[: int(min(left, len(rest)))]
    if rest:
        yield rest
