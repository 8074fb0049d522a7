"""Counters that only grow: every acknowledged add counts once, one of unknown outcome once or not at all.

Adds tell the number that they made, so their order is known. What is searched for is only which adds of
unknown outcome make up the steps that no acknowledged add explains. The verdict is exact, unless that
search takes more than STEPS_MAX: then such steps are compared by their sum alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from overdb_torture.history import Operation, Outcome

STEPS_MAX = 200_000  # of the search, for one counter


@dataclass(frozen=True, slots=True)
class CounterFailure:
    """What of one counter cannot be."""

    key: bytes
    what: str

    def __str__(self) -> str:
        return f"{self.key!r}: {self.what}"


@dataclass(slots=True)
class CounterVerdict:
    """``ok`` when no failure was found."""

    operations: int = 0
    failures: list[CounterFailure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures


def check_counters(operations: Iterable[Operation]) -> CounterVerdict:
    """Operations are ``add`` (a positive number; result: the new one) and ``read`` (result: the number)."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    verdict = CounterVerdict()
    for one in operations:
        verdict.operations += 1
        if one.outcome is not Outcome.FAILED:
            by_key[one.key].append(one)
    for key, ones in sorted(by_key.items()):
        verdict.failures += [CounterFailure(key, what) for what in (*_sums(ones), *_time(ones))]
    return verdict


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


@dataclass(frozen=True, slots=True)
class _Step:
    """From one number that was there to the next, and no acknowledged add made it."""

    start: int
    end: int
    before: (
        int | None
    )  # it was made by then: somebody had seen the end of it, or more; None: unseen


def _sums(operations: list[Operation]) -> list[str]:
    """Acknowledged adds follow one another; what lies between them can only be adds of unknown outcome."""
    known = [one for one in operations if one.kind == "add" and one.outcome is Outcome.OK]
    known.sort(key=lambda one: _number(one.result))
    reads = [one for one in operations if one.kind == "read" and one.outcome is Outcome.OK]
    unknown = [one for one in operations if one.kind == "add" and one.outcome is Outcome.MAYBE]
    found = []
    newest = 0
    for one in known:
        before = _number(one.result) - _number(one.argument)
        if before < newest:
            found.append(
                f"an add of {one.argument} made {one.result}; {newest} was there before it"
            )
        newest = _number(one.result)
    return found or _unexplained(known, reads, unknown)


def _unexplained(
    known: list[Operation], reads: list[Operation], unknown: list[Operation]
) -> list[str]:
    """Numbers that no acknowledged add and no adds of unknown outcome can have made."""
    there = {0}  # numbers that were there at some time
    jumped: list[tuple[int, int]] = []  # from, to: nothing between them was ever there
    for one in known:
        result = _number(one.result)
        jumped.append((result - _number(one.argument), result))
        there |= set(jumped[-1])
    found = []
    for number in sorted({_number(one.result) for one in reads}):
        over = next((jump for jump in jumped if jump[0] < number < jump[1]), None)
        if over is not None:
            found.append(f"{number} was read; an add went from {over[0]} to {over[1]}")
        there.add(number)
    if found:
        return found
    steps = list(_steps(sorted(there), {start for start, _ in jumped}, known + reads))
    gaps, explained = sum(s.end - s.start for s in steps), sum(_number(u.argument) for u in unknown)
    if gaps > explained:
        return [f"{gaps} more than was acknowledged; adds of unknown outcome explain {explained}"]
    missing = _search(steps, unknown)
    if missing is None:
        return []
    return [
        f"no adds of unknown outcome, begun in time, make {missing.end} of {missing.start} "
        "and the other numbers that were seen"
    ]


def _steps(numbers: list[int], known: set[int], seen: list[Operation]) -> Iterator[_Step]:
    """``numbers``: ascending; ``known``: where acknowledged adds begin, which explain themselves."""
    earliest: dict[int, int] = {}
    for one in seen:
        # Whoever made a number by an add had the one before it as well.
        if one.ended is not None:
            number = _number(one.result)
            earliest[number] = min(earliest.get(number, one.ended), one.ended)
    by: int | None = None
    steps = []
    for position in range(len(numbers) - 1, 0, -1):
        start, end = numbers[position - 1], numbers[position]
        ended = earliest.get(end)
        by = ended if by is None or (ended is not None and ended < by) else by
        if start not in known:
            steps.append(_Step(start, end, by))
    return reversed(steps)


def _search(steps: list[_Step], unknown: list[Operation]) -> _Step | None:
    """Give each step adds that sum up to it, each add once; None: there is a way, or it takes too long.

    Else the step that no way has reached the end of. Later steps have later limits, so that what has begun
    in time for one has for all that follow, and adds of one size are all the same.
    """
    pool = sorted(unknown, key=lambda one: one.began)
    work: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(0, 0, ())]  # step, begun, left
    tried = set(work)
    furthest = count = 0
    while work:
        position, begun, left = work.pop()
        if position == len(steps) or count > STEPS_MAX:
            return None
        furthest = max(furthest, position)
        step, sizes = steps[position], Counter(dict(left))
        while begun < len(pool) and (step.before is None or pool[begun].began <= step.before):
            sizes[_number(pool[begun].argument)] += 1
            begun += 1
        for rest in _without(step.end - step.start, sorted(sizes.items(), reverse=True)):
            count += 1
            after = (position + 1, begun, rest)
            if after not in tried:
                tried.add(after)
                work.append(after)
            if count > STEPS_MAX:
                return None
    return steps[furthest]


def _without(total: int, sizes: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """What is left of adds, by size, when some that make up the total are taken: every way to do so."""
    if not sizes:
        if not total:
            yield ()
        return
    (size, there), *others = sizes
    for taken in range(min(there, total // size), -1, -1):
        for rest in _without(total - taken * size, others):
            yield ((size, there - taken), *rest) if there > taken else rest


def _time(operations: list[Operation]) -> list[str]:
    """Nobody sees less than what somebody had seen before it began."""
    known = [one for one in operations if one.outcome is Outcome.OK and one.ended is not None]
    ended = sorted(known, key=lambda one: one.ended or 0)
    found = []
    largest = position = 0
    for one in sorted(known, key=lambda one: one.began):
        while position < len(ended) and (ended[position].ended or 0) < one.began:
            largest = max(largest, _number(ended[position].result))
            position += 1
        least = largest + (_number(one.argument) if one.kind == "add" else 0)
        if _number(one.result) < least:
            found.append(f"{one.kind} -> {one.result} began after {largest} had been seen")
    return found
