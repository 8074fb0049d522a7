"""Linearizability of registers, each key by itself (Herlihy and Wing 1990; linearizability is local).

Operations of unknown outcome may take effect at any time after they began, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from overdb_torture.checkers.linearizability import StepsExceeded, search
from overdb_torture.history import Operation, Outcome

STEPS_MAX = 5_000_000  # of the search, for one key; a second is about a million
_BEFORE_SHOWN_MAX = 6


@dataclass(frozen=True, slots=True)
class RegisterFailure:
    """A key that no order of its operations explains."""

    key: bytes
    stuck: Operation  # the operation that the longest explanation could not take in
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


class _Key:
    """One key: None, or bytes; numbers for ``add`` are their decimal text, as the store keeps them."""

    start = None

    def step(self, state: bytes | None, one: Operation) -> tuple[bool, bytes | None]:
        known, argument = one.outcome is Outcome.OK, one.argument
        if one.kind == "read":
            return not known or one.result == state, state
        if one.kind == "write":
            assert isinstance(argument, bytes)
            return True, argument
        if one.kind == "delete":
            return not known or one.result in (None, state is not None), None
        if one.kind == "compare_and_set":
            assert isinstance(argument, tuple)
            same = state == argument[0]
            return not known or one.result == same, argument[1] if same else state
        if one.kind == "add":
            return self._add(state, one)
        raise ValueError(f"no such kind of operation: {one.kind!r}")

    def observes(self, one: Operation) -> bool:
        return one.kind == "read" or one.result is False

    def sets(self, one: Operation) -> bool:
        return one.kind in ("write", "delete")

    def _add(self, state: bytes | None, one: Operation) -> tuple[bool, bytes | None]:
        assert isinstance(one.argument, int)
        try:
            total = int(state or b"0") + one.argument
        except ValueError:  # the store refuses it: nothing happens
            return one.outcome is not Outcome.OK, state
        return one.outcome is not Outcome.OK or one.result == total, b"%d" % total


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
        replace(
            one,
            argument=one.argument if one.kind == "add" else _plain(one.argument),
            result=_plain(one.result) if one.kind == "read" else one.result,
        )
        for one in operations
        if one.outcome is not Outcome.FAILED
        and not (one.kind == "read" and one.outcome is Outcome.MAYBE)
    ]
    try:
        stuck = search(relevant, _Key(), steps_max=steps_max)
    except StepsExceeded:
        verdict.undecided.append(key)
        return
    if stuck is not None:
        before = stuck.order[-_BEFORE_SHOWN_MAX:]
        verdict.failures.append(RegisterFailure(key, stuck.operation, before))


def _plain(value: object) -> object:
    """A value as the store keeps it; histories may have numbers instead of their text."""
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return b"%d" % value if isinstance(value, int) else value


def _told(one: Operation) -> str:
    argument = "" if one.argument is None else repr(one.argument)
    result = "?" if one.outcome is Outcome.MAYBE else repr(one.result)
    until = "..." if one.ended is None else f"{one.ended / 1e9:.6f}"
    return f"{one.kind}({argument}) -> {result} [{one.began / 1e9:.6f}, {until}]"
