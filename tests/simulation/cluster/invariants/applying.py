"""Has every entry that a state machine applies told to the invariants, while a run lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from overdb_node.machine.machine import Machine
from overdb_node.machine.types import Command, Refused, Result

# machine, index, commands, results, versions written
Told = Callable[
    [
        Machine,
        int,
        Sequence[Command | Refused],
        list[Result],
        Sequence[tuple[bytes, int, bytes | None]],
    ],
    None,
]


@contextlib.contextmanager
def every_entry(told: Told) -> Iterator[None]:
    """Call ``told`` behind each entry, before its answers leave."""
    whole = Machine.apply

    def apply(
        self: Machine, index: int, term: int, stamp: int, commands: Sequence[Command | Refused]
    ) -> list[Result]:
        written = len(self._overlay.versions)
        results = whole(self, index, term, stamp, commands)
        told(self, index, commands, results, self._overlay.versions[written:])
        return results

    Machine.apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        Machine.apply = whole  # type: ignore[method-assign]
