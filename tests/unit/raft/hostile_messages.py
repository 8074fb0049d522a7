"""Raft messages that anybody may send, drawn from a seed: edges, and numbers that nearly fit."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import get_args

from overdb_node.raft.core import Raft
from overdb_node.raft.messages import Append, Chunk, Message
from overdb_node.raft.plausible import INDEX_MAX, TERM_JUMP_MAX, TERM_MAX
from overdb_node.raft.types import Entry, EntryKind

EDGES = (
    0,
    1,
    (1 << 32) - 1,
    1 << 32,
    INDEX_MAX,
    INDEX_MAX + 1,
    TERM_MAX,
    TERM_MAX + 1,
    1 << 63,
    (1 << 64) - 2,
    (1 << 64) - 1,
)
OF_32_BITS = ("disk", "window_bytes")
KINDS: tuple[type[Message], ...] = get_args(Message)


class Hostile:
    """Draws messages to a replica in its present state. The same seed gives the same ones."""

    def __init__(self, random: Random, members: bytes = b"1,2,3") -> None:
        self._random = random
        self._members = members  # payload of a configuration

    def message(self, raft: Raft, *, terms: tuple[int, ...] = ()) -> Message:
        """``terms``: those that are drawn beside the edges; none: around the replica's own."""
        kind = self._random.choice(KINDS)
        term = self._term(raft, terms)
        if kind is Append:
            return self._append(raft, term)
        fields: dict[str, object] = {}
        for field in dataclasses.fields(kind):
            if field.type == "bool":
                fields[field.name] = self._random.random() < 0.5
            elif field.type == "bytes":
                fields[field.name] = self._random.randbytes(self._random.choice((0, 1, 30)))
            else:
                fields[field.name] = term if field.name == "term" else self._number(raft)
                if field.name in OF_32_BITS:
                    fields[field.name] = self._random.choice((0, 1, 2, 3, (1 << 32) - 1))
        if kind is Chunk and self._random.random() < 0.7:
            fields["offset"] = self._random.choice((0, 0, 24))
            fields["size"] = self._random.choice((0, 30, 48, 100))
        return kind(**fields)  # type: ignore[arg-type]

    def _term(self, raft: Raft, terms: tuple[int, ...]) -> int:
        near = terms or (raft.term, raft.term, raft.term + 1, max(0, raft.term - 1))
        if self._random.random() < 0.7:
            return self._random.choice(near)
        if terms:
            return self._random.choice((*terms, TERM_MAX + 1, (1 << 64) - 1))
        return self._random.choice(
            (*EDGES, raft.term + TERM_JUMP_MAX, raft.term + TERM_JUMP_MAX + 1)
        )

    def _number(self, raft: Raft) -> int:
        if self._random.random() < 0.3:
            return self._random.choice(EDGES)
        near = (raft.term, raft.log.last_index, raft.commit_index, raft.log.first_index)
        return max(0, self._random.choice(near) + self._random.randrange(-2, 3))

    def _append(self, raft: Raft, term: int) -> Append:
        random = self._random
        first = self._number(raft)
        of_term = self._number(raft) if random.random() < 0.3 else min(term, raft.term + 1)
        entries = tuple(
            Entry(first + i, of_term, EntryKind.COMMANDS, random.randbytes(random.randrange(9)))
            for i in range(random.randrange(4))
        )
        if entries and random.random() < 0.2:
            last = entries[-1]
            members = Entry(last.index, last.term, EntryKind.CONFIGURATION, self._members)
            entries = (*entries[:-1], members)
        return Append(term, self._number(raft), first, entries, self._number(raft))
