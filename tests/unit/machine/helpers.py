"""A machine on its store, and short ways to write requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from overdb_node.machine import kept
from overdb_node.machine.machine import Machine, MachineSettings
from overdb_node.machine.types import (
    Code,
    Command,
    Compare,
    Operation,
    OperationKind,
    Operator,
    Refused,
    RequestId,
    Result,
    Target,
    Transact,
    Transacted,
    Unread,
)
from tests.unit.machine.memory_store import MemoryStore

NOW = 1_760_000_000_000_000  # a wall clock, microseconds
SECOND = 1_000_000
HOUR = 3600 * SECOND


def client(name: int = 1, created: int = NOW) -> bytes:
    """A UUIDv7 made at ``created`` (microseconds; it keeps milliseconds)."""
    return (created // 1000).to_bytes(6, "big") + b"\x70\x00\x80" + name.to_bytes(7, "big")


def request(
    number: int, of: int = 1, *, below: int = 0, started_at: int = NOW, created: int = NOW
) -> RequestId:
    return RequestId(client(of, created), number, started_at, below)


@contextmanager
def small_values_read_again(whether: bool = True) -> Iterator[None]:
    """Have what is kept name the values that were read, however small they are."""
    before = kept.is_small
    if whether:
        kept.is_small = lambda *_: False
    try:
        yield
    finally:
        kept.is_small = before


class Group:
    """One replica: applies entries one after the other, and restarts when it is told to."""

    def __init__(self, settings: MachineSettings | None = None) -> None:
        self.settings = settings or MachineSettings()
        self.store = MemoryStore()
        self.machine = Machine(self.store, self.settings)
        self.machine.load()
        self.index = 0

    def entry(
        self, *commands: Command | Refused, stamp: int = NOW, write: bool = True
    ) -> list[Result]:
        """Apply one entry; ``write=False`` leaves its writes pending, for the next to see."""
        self.index += 1
        results = self.machine.apply(self.index, 1, stamp, commands)
        results = [self.whole(result) for result in results]
        if write:
            self.write()
        return results

    def whole(self, result: Result) -> Result:
        """What a leader answers: values that are not kept are read again."""
        return self.machine.read_again(result.result) if isinstance(result, Unread) else result

    def one(self, command: Command | Refused, stamp: int = NOW) -> Result:
        (result,) = self.entry(command, stamp=stamp)
        return result

    def write(self) -> None:
        self.store.write(self.machine.take_batch())

    def restart(self) -> None:
        """Lose the memory; what was written is there."""
        self.machine = Machine(self.store, self.settings)
        self.machine.load()

    def value(self, key: bytes) -> bytes | None:
        newest = self.store.newest(key)
        return None if newest is None else newest[1]


def get(key: bytes) -> Operation:
    return Operation(OperationKind.GET, key)


def put(key: bytes, value: bytes) -> Operation:
    return Operation(OperationKind.PUT, key, value)


def delete(key: bytes) -> Operation:
    return Operation(OperationKind.DELETE, key)


def add(key: bytes, delta: int) -> Operation:
    return Operation(OperationKind.ADD, key, delta=delta)


def value(key: bytes, operator: Operator, operand: bytes) -> Compare:
    return Compare(key, operator, Target.VALUE, operand)


def version(key: bytes, operator: Operator, operand: int) -> Compare:
    return Compare(key, operator, Target.VERSION, operand)


def exists(key: bytes, operator: Operator = Operator.EQUAL, operand: bool = True) -> Compare:
    return Compare(key, operator, Target.EXISTS, operand)


def transact(
    id_: RequestId,
    *then: Operation,
    compares: Sequence[Compare] = (),
    otherwise: Sequence[Operation] = (),
) -> Transact:
    return Transact(id_, tuple(compares), tuple(then), tuple(otherwise))


def transacted(result: Result) -> Transacted:
    assert isinstance(result, Transacted), result
    return result


def refused(result: object, code: Code, *words: str) -> None:
    """Assert that it is a refusal of this code whose one line names all of these words."""
    assert isinstance(result, Refused), result
    assert result.code is code, result
    assert "\n" not in result.message
    for word in words:
        assert word in result.message, (word, result.message)
