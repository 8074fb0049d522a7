"""Linearizability of registers, each key by itself (Herlihy and Wing 1990; linearizability is local).

The search is detangle's: Wing and Gong's algorithm with Lowe's memoisation. What is ours is the model of a
key, and that operations of unknown outcome may take effect at any time after they began, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from detangle import lin

from overdb_torture.history import Operation, Outcome

STEPS_MAX = 5_000_000  # of the search, for one key; a second is about a million
_STATUS = {Outcome.OK: lin.OK, Outcome.FAILED: lin.FAIL, Outcome.MAYBE: lin.INFO}


@dataclass(frozen=True, slots=True)
class RegisterFailure:
    """A key that no order of its operations explains."""

    key: bytes
    stuck: Operation | None  # the operation that the longest explanation could not take in
    before: tuple[Operation, ...]  # that explanation, its last few operations

    def __str__(self) -> str:
        lines = [f"{self.key!r}: no order explains {_told(self.stuck)}; the longest one ends with"]
        lines += [f"  {_told(one)}" for one in self.before]
        return "\n".join(lines)


@dataclass(slots=True)
class RegisterVerdict:
    """``ok``: True, False, or None where the search was given up (``undecided`` keys)."""

    ok: bool | None = True
    operations: int = 0
    keys: int = 0
    failures: list[RegisterFailure] = field(default_factory=list)
    undecided: list[bytes] = field(default_factory=list)


class _Key(lin.Model):
    """One key: None, or bytes; numbers for ``add`` are their decimal text, as the store keeps them."""

    name = "key"

    def init(self) -> Hashable:
        return None

    def step(self, state: Any, op: lin.Operation) -> tuple[bool, Any]:
        known = op.status == lin.OK
        if op.f == "read":
            return not known or op.output == state, state
        if op.f == "write":
            return True, op.arg
        if op.f == "delete":
            return True, None
        if op.f == "compare_and_set":
            expected, new = op.arg
            return not known or op.output == (
                state == expected
            ), new if state == expected else state
        if op.f == "add":
            new_number = int(state or b"0") + op.arg
            return not known or op.output == new_number, b"%d" % new_number
        raise ValueError(f"no such kind of operation: {op.f!r}")


def check_registers(
    operations: Iterable[Operation], *, steps_max: int = STEPS_MAX
) -> RegisterVerdict:
    """Check every key; ``steps_max`` bounds the search for each."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    verdict = RegisterVerdict()
    for operation in operations:
        by_key[operation.key].append(operation)
        verdict.operations += 1
    verdict.keys = len(by_key)
    for key in sorted(by_key):
        _check_key(key, by_key[key], steps_max, verdict)
    if verdict.failures:
        verdict.ok = False
    elif verdict.undecided:
        verdict.ok = None
    return verdict


def _check_key(
    key: bytes, operations: list[Operation], steps_max: int, verdict: RegisterVerdict
) -> None:
    relevant = [
        one
        for one in operations
        if one.outcome is not Outcome.FAILED
        and not (one.kind == "read" and one.result is None and one.outcome is Outcome.MAYBE)
    ]
    converted = _converted(relevant)
    try:
        result = lin.check(converted, _Key(), budget=steps_max)
    except RuntimeError:
        verdict.undecided.append(key)
        return
    if not result.ok:
        part = result.partitions[-1]
        stuck = None if part.stuck_on is None else relevant[part.stuck_on.index]
        before = tuple(relevant[one.index] for one in part.linearization[-6:])
        verdict.failures.append(RegisterFailure(key, stuck, before))


def _converted(operations: list[Operation]) -> list[lin.Operation]:
    """As detangle counts: calls and returns in one order. At the same moment calls come first."""
    events: list[tuple[int, int, int]] = []
    for index, one in enumerate(operations):
        events.append((one.began, 0, index))
        if one.ended is not None:
            events.append((one.ended, 1, index))
    events.sort()
    position = {(index, kind): place for place, (_, kind, index) in enumerate(events)}
    converted = [
        lin.Operation(
            index,
            one.process,
            one.kind,
            one.argument if one.kind == "add" else _plain(one.argument),
            position[index, 0],
            float(one.began),
            _plain(one.result) if one.kind == "read" else one.result,
            _STATUS[one.outcome],
            position.get((index, 1)),
            None if one.ended is None else float(one.ended),
        )
        for index, one in enumerate(operations)
    ]
    converted.sort(key=lambda one: one.call)
    return converted


def _plain(value: object) -> object:
    """A value as the store keeps it; histories may have numbers instead of their text."""
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return b"%d" % value if isinstance(value, int) else value


def _told(one: Operation | None) -> str:
    if one is None:
        return "the history"
    argument = "" if one.argument is None else repr(one.argument)
    result = "?" if one.outcome is Outcome.MAYBE else repr(one.result)
    until = "..." if one.ended is None else f"{one.ended / 1e9:.6f}"
    return f"{one.kind}({argument}) -> {result} [{one.began / 1e9:.6f}, {until}]"
