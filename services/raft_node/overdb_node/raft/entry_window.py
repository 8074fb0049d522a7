"""The entries behind the first element: the newest are in memory, the older ones on disk only.

What stays known of an entry that was evicted is its term, since the tripwire and every comparison of logs
need it (PROTOCOL 1.2), and its payload if it is a configuration.
"""

from __future__ import annotations

from bisect import bisect_right

from overdb_node.raft.types import Entry, EntryKind

ENTRY_BYTES = 200  # what an Entry takes in memory beside its payload, about


class EntryWindow:
    """Entries ``[base + 1 .. last_index]``, without gaps.

    Invariants: ``base <= evicted_index <= applied_index`` and ``evicted_index <= last_index``. Only applied
    entries are evicted: everything that may still be cut, fsynced or applied is in memory.

    ``payload_bytes`` counts the payloads of all entries; ``memory_bytes`` what those in memory cost, and
    ``unapplied_bytes`` the part of it behind ``applied_index``.
    """

    __slots__ = (
        "_batches",
        "_entries",
        "_terms",
        "applied_index",
        "base",
        "evicted_configurations",
        "evicted_index",
        "memory_bytes",
        "payload_bytes",
        "unapplied_bytes",
    )

    def __init__(self, base: int, applied_index: int = 0) -> None:
        self.base = base
        self.evicted_index = base
        self.applied_index = max(base, applied_index)
        self.payload_bytes = 0
        self.memory_bytes = 0
        self.unapplied_bytes = 0
        self.evicted_configurations: list[Entry] = []
        self._entries: list[Entry] = []
        # (first index, term) of each run of evicted entries of one term, ascending.
        self._terms: list[tuple[int, int]] = []
        # (last index, payload bytes) of the entries that were evicted together, ascending.
        self._batches: list[tuple[int, int]] = []

    @property
    def last_index(self) -> int:
        return self.evicted_index + len(self._entries)

    @property
    def in_memory(self) -> list[Entry]:
        """The entries behind ``evicted_index``; not to be changed."""
        return self._entries

    def term_at(self, index: int) -> int | None:
        """Term of the entry at ``index``; None at or below ``base`` and behind the end."""
        position = index - self.evicted_index
        if position > 0:
            return self._entries[position - 1].term if position <= len(self._entries) else None
        if index <= self.base:
            return None
        return self._terms[bisect_right(self._terms, (index, 1 << 64)) - 1][1]

    def bytes_after(self, index: int) -> int:
        """Payload bytes behind ``index``: exact for those in memory, by whole batches of evicted ones."""
        if index >= self.evicted_index:
            behind = self._entries[index - self.evicted_index :]
            return sum(len(entry.payload) for entry in behind)
        evicted = sum(size for last, size in self._batches if last <= index)
        return self.payload_bytes - evicted

    # --- the end ----------------------------------------------------------------------------------

    def append(self, entry: Entry) -> None:
        assert entry.index == self.last_index + 1, f"gap: {entry.index} after {self.last_index}"
        self._entries.append(entry)
        size = len(entry.payload)
        self.payload_bytes += size
        self.memory_bytes += size + ENTRY_BYTES
        if entry.index > self.applied_index:
            self.unapplied_bytes += size + ENTRY_BYTES

    def cut(self, index: int) -> None:
        """Drop the entry at ``index`` and all behind it."""
        if index <= self.evicted_index:  # only while a log on disk is replayed
            self._cut_evicted(index)
        self._delete(index - self.evicted_index - 1, len(self._entries))

    def _cut_evicted(self, index: int) -> None:
        self._delete(0, len(self._entries))
        while self._terms and self._terms[-1][0] >= index:
            self._terms.pop()
        while self.evicted_configurations and self.evicted_configurations[-1].index >= index:
            self.evicted_configurations.pop()
        while self._batches and self._batches[-1][0] >= index:
            last, size = self._batches.pop()
            before = self._batches[-1][0] if self._batches else self.base
            if before < index - 1:  # part of a batch: the share of its entries
                kept = size * (index - 1 - before) // (last - before)
                self._batches.append((index - 1, kept))
                self.payload_bytes -= size - kept
                break
            self.payload_bytes -= size
        self.evicted_index = index - 1

    def restore(self, entries: list[Entry], applied_index: int) -> None:
        """Have evicted entries, up to ``evicted_index``, in memory again: they are not applied after all."""
        behind = self._entries[:]
        self.cut((entries or behind)[0].index if entries or behind else self.last_index + 1)
        self.applied_index = max(self.base, applied_index)
        for entry in (*entries, *behind):
            self.append(entry)

    # --- the beginning ----------------------------------------------------------------------------

    def applied(self, index: int) -> None:
        """The entries up to ``index`` are applied, and so they may be evicted."""
        if index <= self.applied_index:
            return
        start, stop = self.applied_index - self.evicted_index, index - self.evicted_index
        for entry in self._entries[max(0, start) : stop]:
            self.unapplied_bytes -= len(entry.payload) + ENTRY_BYTES
        self.applied_index = index

    def evict(self, bytes_max: int) -> None:
        """Once the entries in memory cost more than this, drop applied ones until a quarter is free."""
        if self.memory_bytes <= bytes_max:
            return
        enough = self.memory_bytes - bytes_max * 3 // 4
        freed = count = 0
        most = min(self.applied_index - self.evicted_index, len(self._entries))
        while freed < enough and count < most:
            freed += len(self._entries[count].payload) + ENTRY_BYTES
            count += 1
        if count:
            self._evict(count)

    def _evict(self, count: int) -> None:
        size = 0
        for entry in self._entries[:count]:
            size += len(entry.payload)
            if not self._terms or self._terms[-1][1] != entry.term:
                self._terms.append((entry.index, entry.term))
            if entry.kind is EntryKind.CONFIGURATION:
                self.evicted_configurations.append(entry)
        self.evicted_index += count
        self._batches.append((self.evicted_index, size))
        self.memory_bytes -= size + count * ENTRY_BYTES
        del self._entries[:count]

    def begin_behind(self, index: int) -> None:
        """Drop everything up to ``index``, which may lie behind the end."""
        if index >= self.evicted_index:
            self._drop_evicted()
            self.applied(min(index, self.last_index))
            self._delete(0, index - self.evicted_index)
            self.evicted_index = index
        else:
            run = bisect_right(self._terms, (index + 1, 1 << 64)) - 1
            self._terms[: run + 1] = [(index + 1, self._terms[run][1])]
            kept = [entry for entry in self.evicted_configurations if entry.index > index]
            self.evicted_configurations = kept
            gone = [size for last, size in self._batches if last <= index]
            self.payload_bytes -= sum(gone)
            del self._batches[: len(gone)]
        self.base = index
        self.applied_index = max(self.applied_index, index)

    def _drop_evicted(self) -> None:
        self.payload_bytes -= sum(size for _, size in self._batches)
        self._batches.clear()
        self._terms.clear()
        self.evicted_configurations.clear()

    def _delete(self, start: int, stop: int) -> None:
        for entry in self._entries[start:stop]:
            size = len(entry.payload)
            self.payload_bytes -= size
            self.memory_bytes -= size + ENTRY_BYTES
            if entry.index > self.applied_index:
                self.unapplied_bytes -= size + ENTRY_BYTES
        del self._entries[start:stop]
