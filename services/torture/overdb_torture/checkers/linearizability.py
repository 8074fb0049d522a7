"""Linearizability of one object: is there an order of its operations that explains all results?

The search is Wing and Gong's (1993) with Lowe's memoisation (2017), as in Knossos and Porcupine: take an
operation that began before every other remaining one had ended, apply it to the model, go on; go back where
nothing fits, and never search a configuration twice. Three rules keep it short, and lose no explanation:

- A legal operation that only observes is taken at once: nothing can need it later. (A write of the value
  that is there is no such operation: it may be what writes the value back.)
- An operation of unknown outcome is taken only where the next known one is illegal without it, directly
  before that one: an operation that is legal anyway either fixes the state that follows, so that unknown
  ones before it change nothing, or leaves it, so that they may as well come after it. A model must keep
  this: a known operation either leaves the state, or leads to one state from every state where it is legal.
- Unknown operations that do the same are one kind with a count, taken in the order in which they began;
  and a configuration that differs from a searched one only by having taken more of them is not searched.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from overdb_torture.history import Operation, Outcome


class StepsExceeded(Exception):  # noqa: N818  # an answer, not an error
    """The search took more steps than it was given."""


class Model(Protocol):
    """The object; states are hashable."""

    @property
    def start(self) -> Hashable:
        """The first state."""

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        """Return whether the result of ``operation`` is legal in ``state``, and the state after it.

        An operation of unknown outcome is always legal.
        """

    def observes(self, operation: Operation) -> bool:
        """Return whether the known ``operation`` leaves every state in which it is legal."""

    def sets(self, operation: Operation) -> bool:
        """Return whether ``operation`` leads to one state from every state."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """The longest order that was found: its last operations, and one that must come next and cannot."""

    order: tuple[Operation, ...]
    operation: Operation


_Used = tuple[int, ...]  # of each kind of unknown operation, how many were taken


@dataclass(frozen=True, slots=True, eq=False)
class _Configuration:
    base: int  # of the known ones, by beginning: those before it were taken
    mask: int  # those taken from ``base`` on, as bits
    state: Any
    used: _Used
    count: int  # of known operations taken
    last: tuple[Operation, ...]  # taken in the step that led here
    above: _Configuration | None


def search(operations: Sequence[Operation], model: Model, *, steps_max: int) -> Stuck | None:
    """Return None when an order explains ``operations``. Raises StepsExceeded."""
    return _Search(operations, model, steps_max).run()


class _Search:
    def __init__(self, operations: Sequence[Operation], model: Model, steps_max: int) -> None:
        self._model = model
        self._steps = steps_max
        self._known = sorted(
            (one for one in operations if one.outcome is Outcome.OK and one.ended is not None),
            key=lambda one: one.began,
        )
        kinds: dict[tuple[str, object], list[Operation]] = defaultdict(list)
        for one in sorted(operations, key=lambda one: one.began):
            if one.outcome is not Outcome.FAILED and one.ended is None:
                kinds[one.kind, one.argument].append(one)
        self._kinds = list(kinds.values())
        self._begins = [[one.began for one in ones] for ones in self._kinds]
        self._searched: dict[tuple[int, int, Any], list[_Used]] = defaultdict(list)

    def run(self) -> Stuck | None:
        longest = _Configuration(0, 0, self._model.start, (0,) * len(self._kinds), 0, (), None)
        work = [iter((longest,))]
        while work:
            here = next(work[-1], None)
            if here is None:
                work.pop()
                continue
            if here.count == len(self._known):
                return None
            if here.count > longest.count:
                longest = here
            if not self._was_searched(here):
                work.append(self._after(here))
        return Stuck(_order(longest), self._window(longest)[0])

    def _was_searched(self, here: _Configuration) -> bool:
        searched = self._searched[here.base, here.mask, here.state]
        if any(all(map(int.__le__, used, here.used)) for used in searched):
            return True
        searched.append(here.used)
        return False

    def _window(self, here: _Configuration) -> tuple[Operation, list[int]]:
        """Return the remaining one that ended first, and all that may come next, as offsets to base."""
        known, offset, first, may = self._known, 0, self._known[here.base], []
        while here.base + offset < len(known) and known[here.base + offset].began <= _end(first):
            if not here.mask >> offset & 1:
                may.append(offset)
                if _end(known[here.base + offset]) < _end(first):
                    first = known[here.base + offset]
            offset += 1
        return first, [offset for offset in may if known[here.base + offset].began <= _end(first)]

    def _after(self, here: _Configuration) -> Iterator[_Configuration]:
        first, offsets = self._window(here)
        legal: list[tuple[int, Any]] = []
        for offset in offsets:
            self._count_step()
            one = self._known[here.base + offset]
            fits, state = self._model.step(here.state, one)
            if fits and self._model.observes(one):
                yield self._taken(here, offset, state)
                return
            if fits:
                legal.append((offset, state))
        for offset, state in legal:
            yield self._taken(here, offset, state)
        fit = {offset for offset, _ in legal}
        illegal = [offset for offset in offsets if offset not in fit]
        if illegal and self._kinds:
            yield from self._after_unknown(here, illegal, _end(first))

    def _after_unknown(
        self, here: _Configuration, offsets: list[int], until: int
    ) -> Iterator[_Configuration]:
        """Take unknown operations that began by ``until`` as long as something illegal becomes legal."""
        seen: dict[Any, list[_Used]] = defaultdict(list)
        seen[here.state].append(here.used)
        work: list[tuple[Any, _Used, tuple[Operation, ...]]] = [(here.state, here.used, ())]
        for state, used, taken in work:
            for kind, ones in enumerate(self._kinds):
                if used[kind] >= bisect_right(self._begins[kind], until):
                    continue
                one = ones[used[kind]]
                if taken and self._model.sets(one):
                    continue  # those before it would have been for nothing
                self._count_step()
                after = self._model.step(state, one)[1]
                more = (*used[:kind], used[kind] + 1, *used[kind + 1 :])
                if any(all(map(int.__le__, known, more)) for known in seen[after]):
                    continue
                seen[after].append(more)
                work.append((after, more, (*taken, one)))
                for offset in offsets:
                    self._count_step()
                    fits, result = self._model.step(after, self._known[here.base + offset])
                    if fits:
                        yield self._taken(here, offset, result, more, (*taken, one))

    def _taken(
        self,
        here: _Configuration,
        offset: int,
        state: Any,
        used: _Used | None = None,
        unknown: tuple[Operation, ...] = (),
    ) -> _Configuration:
        base, mask = here.base, here.mask | 1 << offset
        while mask & 1:
            base, mask = base + 1, mask >> 1
        last = (*unknown, self._known[here.base + offset])
        return _Configuration(
            base, mask, state, here.used if used is None else used, here.count + 1, last, here
        )

    def _count_step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise StepsExceeded


def _end(one: Operation) -> int:
    assert one.ended is not None
    return one.ended


def _order(last: _Configuration) -> tuple[Operation, ...]:
    taken: list[Operation] = []
    here: _Configuration | None = last
    while here is not None:
        taken += reversed(here.last)
        here = here.above
    return tuple(reversed(taken))
