"""What clients asked for and saw, in a form that can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How an operation ended, as its client knows it."""

    OK = "ok"
    FAILED = "failed"
    """It certainly did nothing, and never will."""
    MAYBE = "maybe"
    """Unknown: it may have run, or may run at any later time, or never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key.

    ``kind``, ``argument`` and, when it is OK, ``result``:
    ``read`` (None) the value or None; ``write`` (bytes) None; ``delete`` (None) whether the key existed, None
    where that is not known; ``add`` (int) the new number; ``compare_and_set`` ((expected or None, new))
    whether it took place.
    A value is bytes or, for its decimal text, a number.
    ``began`` and ``ended``: nanoseconds of one clock; no end for MAYBE.
    """

    process: int
    kind: str
    key: bytes
    argument: object
    result: object
    began: int
    ended: int | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Append:
    """Add a number at the end of a list. A number is appended to a key at most once in a history."""

    key: bytes
    value: int


@dataclass(frozen=True, slots=True)
class Read:
    """What a list held; None where it is not known.

    Operations run in order: a Read behind an Append of the same transaction sees it. In a transaction of
    unknown outcome it is what the list held if the transaction took effect.
    """

    key: bytes
    values: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class ListTransaction:
    """Reads and appends as one atomic step. ``timestamp``: its version, if it is known."""

    process: int
    operations: tuple[Append | Read, ...]
    began: int
    ended: int | None
    outcome: Outcome
    timestamp: int | None = None
