"""Counters that only grow: every acknowledged add counts once, one of unknown outcome once or not at all.

Adds tell the number that they made, so their order is known, and nothing has to be searched for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from overdb_torture.history import Operation, Outcome


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


def _sums(operations: list[Operation]) -> list[str]:
    """Acknowledged adds follow one another; what lies between them can only be adds of unknown outcome."""
    known = [one for one in operations if one.kind == "add" and one.outcome is Outcome.OK]
    known.sort(key=lambda one: _number(one.result))
    unknown = sum(
        _number(one.argument)
        for one in operations
        if one.kind == "add" and one.outcome is Outcome.MAYBE
    )
    found = []
    newest = gaps = 0
    for one in known:
        before = _number(one.result) - _number(one.argument)
        if before < newest:
            found.append(
                f"an add of {one.argument} made {one.result}; {newest} was there before it"
            )
        gaps += max(0, before - newest)
        newest = _number(one.result)
    reads = [one for one in operations if one.kind == "read" and one.outcome is Outcome.OK]
    largest = max((_number(one.result) for one in reads), default=0)
    gaps += max(0, largest - newest)
    if gaps > unknown:
        found.append(
            f"{gaps} more than was acknowledged; adds of unknown outcome explain {unknown}"
        )
    return found


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
