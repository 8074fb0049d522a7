"""What a client takes and gives: values, operations and compares of a transaction, results."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from overdb.errors import InvalidArgument


class Consistency(IntEnum):
    """How fresh a read is."""

    STRICT = 1  # the newest of everything acknowledged before the read began
    SNAPSHOT = 2  # at a version: the given one, or a fresh one that covers everything acknowledged
    STALE = 3  # whatever some replica has at hand; may be old


class Value(NamedTuple):
    """What a key holds, and the version (timestamp) that wrote it."""

    value: bytes
    version: int


class KeyValue(NamedTuple):
    """One item of a scan; ``value`` is empty when only keys were asked for."""

    key: bytes
    value: bytes
    version: int


class Deleted(NamedTuple):
    """Result of a delete: its version, and whether there was a value before."""

    version: int
    existed: bool


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key. Result: ``found``, ``value``, ``version`` that wrote it."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key. Result: ``found`` says whether there was a value before."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key. Result: ``found`` says whether there was a value before."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Add:
    """Add to a signed 64-bit counter kept as decimal text; a missing key counts as 0.

    Result: ``value`` is the new number as text. A value that is no number is InvalidArgument for
    the whole transaction, a sum outside of 64 bits OutOfRange.
    """

    key: bytes
    delta: int = 1


Operation = Get | Put | Delete | Add

Sign = Literal["==", "!=", "<", ">"]
OPERATORS: dict[str, int] = {"==": 1, "!=": 2, "<": 3, ">": 4}


@dataclass(frozen=True, slots=True)
class Compare:
    """A test of one key on the state before the transaction. Build it with the methods below."""

    key: bytes
    sign: Sign
    operand: bytes | int | bool  # bytes: the value; int: the version; bool: whether it exists

    def __post_init__(self) -> None:
        if self.sign not in OPERATORS:
            raise InvalidArgument(f'compare operator {self.sign!r}: use "==", "!=", "<" or ">"')
        if isinstance(self.operand, bool) and self.sign not in ("==", "!="):
            raise InvalidArgument(f'whether a key exists is compared with "==", not {self.sign!r}')

    @classmethod
    def value(cls, key: bytes, sign: Sign, value: bytes) -> Compare:
        """Compare a key's value (bytes, lexicographic). A missing key only satisfies ``!=``."""
        return cls(key, sign, value)

    @classmethod
    def version(cls, key: bytes, sign: Sign, version: int) -> Compare:
        """Compare the version that wrote a key; a missing key has version 0."""
        return cls(key, sign, version)

    @classmethod
    def exists(cls, key: bytes) -> Compare:
        """Hold if the key has a value."""
        return cls(key, "==", True)

    @classmethod
    def missing(cls, key: bytes) -> Compare:
        """Hold if the key has no value."""
        return cls(key, "==", False)


class OperationResult(NamedTuple):
    """What one operation of a transaction found or did; see the operation's class."""

    found: bool
    value: bytes
    version: int


class TransactResult(NamedTuple):
    """Which branch ran (``succeeded``: ``then``), its results in order, and the commit version."""

    succeeded: bool
    results: tuple[OperationResult, ...]
    version: int
