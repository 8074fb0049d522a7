"""The log as the core sees it. Its first element is always a snapshot (PROTOCOL 1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from overdb_node.raft.entry_window import EntryWindow
from overdb_node.raft.types import Configuration, Entry, EntryKind, Member, Snapshot

ConfigurationDecoder = Callable[[bytes], Configuration]


class Log:
    """``log[0]`` is ``snapshot``; the entries ``snapshot.index + 1 .. last_index`` follow.

    The newest entries are in memory; those up to ``evicted_index`` are on disk only, and the host reads them
    when a follower needs them (PROTOCOL 1.2). Knows nothing of disks; what of it is durable is the core's to
    know.
    """

    __slots__ = ("_configurations", "_decode", "_founding", "_window", "snapshot")

    def __init__(
        self,
        snapshot: Snapshot,
        entries: Iterable[Entry] | EntryWindow,
        decode: ConfigurationDecoder,
    ) -> None:
        """``entries`` is a window when some of the entries are not to be held in memory."""
        self.snapshot = snapshot
        self._founding = snapshot.configuration  # where no configuration entry is in the log
        self._decode = decode
        # (index, what it says) of every configuration entry in the log, ascending.
        self._configurations: list[tuple[int, Configuration]] = []
        if isinstance(entries, EntryWindow):
            self._window = entries
            self._note_configurations(entries.evicted_configurations)
            self._note_configurations(entries.in_memory)
        else:
            self._window = EntryWindow(snapshot.index)
            self.append(entries)

    @property
    def first_index(self) -> int:
        """Index of the first element, which is the snapshot."""
        return self.snapshot.index

    @property
    def last_index(self) -> int:
        return self._window.last_index

    @property
    def last_term(self) -> int:
        return self._window.term_at(self.last_index) or self.snapshot.term

    @property
    def evicted_index(self) -> int:
        """The entries behind the first element and up to this index are on disk only."""
        return self._window.evicted_index

    @property
    def payload_bytes(self) -> int:
        """Of all entries behind the first element, evicted ones included."""
        return self._window.payload_bytes

    @property
    def memory_bytes(self) -> int:
        """What the entries in memory cost."""
        return self._window.memory_bytes

    @property
    def unapplied_bytes(self) -> int:
        """What the entries that are not applied yet cost."""
        return self._window.unapplied_bytes

    def bytes_after(self, index: int) -> int:
        """Payload bytes behind ``index``, about."""
        return self._window.bytes_after(index)

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
        if index == self.snapshot.index:
            return self.snapshot.term
        return self._window.term_at(index)

    def slice(self, first: int, last: int) -> list[Entry]:
        """Entries ``[first..last]``, all of them in memory."""
        base = self.evicted_index + 1
        assert first >= base, f"entry {first} is not in memory: what is begins at {base}"
        return self._window.in_memory[first - base : last - base + 1]

    def slice_bytes(self, first: int, bytes_max: int) -> tuple[tuple[Entry, ...], int]:
        """Entries from ``first`` on, at least one, within ``bytes_max`` of payload; and their bytes."""
        position = first - self.evicted_index - 1
        assert position >= 0, f"entry {first} is not in memory: it was evicted or compacted"
        return prefix_within(self._window.in_memory, position, bytes_max)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries that follow the last one without a gap."""
        for entry in entries:
            self._window.append(entry)
            if entry.kind is EntryKind.CONFIGURATION:
                self._configurations.append((entry.index, self._decode(entry.payload)))

    def _note_configurations(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                self._configurations.append((entry.index, self._decode(entry.payload)))

    def cut(self, index: int) -> None:
        """Drop the entry at ``index`` and all behind it."""
        assert index > self.evicted_index
        self._window.cut(index)
        while self._configurations and self._configurations[-1][0] >= index:
            self._configurations.pop()

    def applied(self, index: int) -> None:
        """The entries up to ``index`` are applied (and so durable): memory may drop them."""
        self._window.applied(index)

    def evict(self, bytes_max: int) -> None:
        """Keep the entries in memory within ``bytes_max``, as far as they are applied."""
        self._window.evict(bytes_max)

    def begin_with(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the first element: keep what follows it if the log has its entry.

        Compaction and installation are this same step (PROTOCOL 1.1, 1.2).
        """
        if self.term_at(snapshot.index) == snapshot.term:
            self._window.begin_behind(snapshot.index)
        else:
            self._window = EntryWindow(snapshot.index)
        self.snapshot = snapshot
        self._founding = snapshot.configuration
        last = self.last_index
        self._configurations = [c for c in self._configurations if snapshot.index < c[0] <= last]


def prefix_within(
    entries: Sequence[Entry], position: int, bytes_max: int
) -> tuple[tuple[Entry, ...], int]:
    """The entries from ``position`` on, at least one if there is any, within ``bytes_max``; their bytes."""
    end, size = position, 0
    while end < len(entries):
        size += len(entries[end].payload)
        if size > bytes_max and end > position:
            size -= len(entries[end].payload)
            break
        end += 1
    return tuple(entries[position:end]), size
