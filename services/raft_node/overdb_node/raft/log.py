"""The log in memory. Its first element is always a snapshot (PROTOCOL 1.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overdb_node.raft.types import Configuration, Entry, EntryKind, Member, Snapshot

ConfigurationDecoder = Callable[[bytes], Configuration]


class Log:
    """``log[0]`` is ``snapshot``; the entries ``snapshot.index + 1 .. last_index`` follow.

    Holds every entry behind the snapshot in memory: compaction bounds it. Knows nothing of disks; what
    of it is durable is the core's to know.
    """

    __slots__ = ("_configurations", "_decode", "_entries", "_founding", "payload_bytes", "snapshot")

    def __init__(
        self, snapshot: Snapshot, entries: Sequence[Entry], decode: ConfigurationDecoder
    ) -> None:
        self.snapshot = snapshot
        self._founding = snapshot.configuration  # where no configuration entry is in the log
        self._entries: list[Entry] = []
        self.payload_bytes = 0  # of all entries
        self._decode = decode
        # (index, what it says) of every configuration entry in the log, ascending.
        self._configurations: list[tuple[int, Configuration]] = []
        self.append(entries)

    @property
    def first_index(self) -> int:
        """Index of the first element, which is the snapshot."""
        return self.snapshot.index

    @property
    def last_index(self) -> int:
        return self.snapshot.index + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.snapshot.term

    @property
    def configuration(self) -> Configuration:
        """By the newest configuration entry, committed or not, else log[0]'s (PROTOCOL 3.1).

        The same object until it changes.
        """
        return self._configurations[-1][1] if self._configurations else self._founding

    @property
    def configuration_index(self) -> int:
        """Index of the entry that made the configuration; it may be as old as the first element."""
        return self._configurations[-1][0] if self._configurations else self.snapshot.index

    @property
    def members(self) -> tuple[Member, ...]:
        return self.configuration.members

    def configuration_at(self, index: int) -> Configuration:
        """As of ``index``, which is in the log: what a snapshot of that index must carry."""
        for at, configuration in reversed(self._configurations):
            if at <= index:
                return configuration
        return self._founding

    def members_at(self, index: int) -> tuple[Member, ...]:
        return self.configuration_at(index).members

    def term_at(self, index: int) -> int | None:
        """Term of the entry at ``index``; None below the first element and behind the end."""
        position = index - self.snapshot.index
        if position == 0:
            return self.snapshot.term
        if position < 0 or position > len(self._entries):
            return None
        return self._entries[position - 1].term

    def slice(self, first: int, last: int) -> list[Entry]:
        """Entries ``[first..last]``; ``first`` is behind the snapshot."""
        base = self.snapshot.index + 1
        assert first >= base, f"entry {first} is compacted: the log begins at {base}"
        return self._entries[first - base : last - base + 1]

    def slice_bytes(self, first: int, bytes_max: int) -> tuple[tuple[Entry, ...], int]:
        """Entries from ``first`` on, at least one, within ``bytes_max`` of payload; and their bytes."""
        position = first - self.snapshot.index - 1
        assert position >= 0, f"entry {first} is compacted: the log begins at {self.snapshot.index}"
        entries = self._entries
        end, size = position, 0
        while end < len(entries):
            size += len(entries[end].payload)
            if size > bytes_max and end > position:
                size -= len(entries[end].payload)
                break
            end += 1
        return tuple(entries[position:end]), size

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one without a gap."""
        for entry in entries:
            assert entry.index == self.last_index + 1, f"gap: {entry.index} after {self.last_index}"
            self._entries.append(entry)
            self.payload_bytes += len(entry.payload)
            if entry.kind is EntryKind.CONFIGURATION:
                self._configurations.append((entry.index, self._decode(entry.payload)))

    def cut(self, index: int) -> None:
        """Drop the entry at ``index`` and all behind it."""
        assert index > self.snapshot.index
        self._delete(index - self.snapshot.index - 1, len(self._entries))
        while self._configurations and self._configurations[-1][0] >= index:
            self._configurations.pop()

    def begin_with(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the first element: keep what follows it if the log has its entry.

        Compaction and installation are this same step (PROTOCOL 1.1, 1.2).
        """
        if self.term_at(snapshot.index) == snapshot.term:
            self._delete(0, snapshot.index - self.snapshot.index)
        else:
            self._delete(0, len(self._entries))
        self.snapshot = snapshot
        self._founding = snapshot.configuration
        last = self.last_index
        self._configurations = [c for c in self._configurations if snapshot.index < c[0] <= last]

    def _delete(self, start: int, stop: int) -> None:
        self.payload_bytes -= sum(len(entry.payload) for entry in self._entries[start:stop])
        del self._entries[start:stop]
