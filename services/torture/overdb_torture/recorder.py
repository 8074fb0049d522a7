"""What happened in a run: every operation, every fault, every leader, with times from one clock."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from overdb_torture.history import Operation, Outcome

_NS = 1_000_000_000
_OPERATION_FIELDS = ("process", "kind", "key", "argument", "result", "began", "ended", "outcome")


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """A fault as it was carried out. Times in seconds since the load began."""

    kind: str
    what: str  # in words: which way, how much
    victims: tuple[str, ...]
    began: float
    ended: float
    problem: str = ""  # why it did not come about, or did not end as it should


@dataclass(frozen=True, slots=True)
class LeaderSample:
    """Whom a router took for the leader of each group at one moment: node ids, 0 for nobody."""

    at: float
    leaders: tuple[int, ...]


@dataclass(slots=True)
class Tally:
    """How many operations of one workload ended how; ``reads``: those among ``ok`` that only read."""

    ok: int = 0
    failed: int = 0
    maybe: int = 0
    reads: int = 0

    @property
    def all(self) -> int:
        return self.ok + self.failed + self.maybe


@dataclass
class Record:
    """Everything that the verdict and the page are made of."""

    title: str
    seed: int
    seconds_wanted: float
    workloads: tuple[str, ...]
    kinds: tuple[str, ...]
    command: str = ""
    seconds: float = 0.0  # that the load ran
    interrupted: bool = False
    faults: list[FaultRecord] = field(default_factory=list)
    leaders: list[LeaderSample] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    by_second: dict[int, Counter[Outcome]] = field(default_factory=lambda: defaultdict(Counter))
    errors: Counter[str] = field(default_factory=Counter)  # messages of what was not OK
    unexpected: list[str] = field(default_factory=list)  # errors that no fault explains
    convergence_seconds: float | None = None  # after the last fault was healed; None: it did not
    not_converged: str = ""


class Recorder:
    """Takes in what workers and the injector tell, and writes the history along."""

    def __init__(self, record: Record, history_file: Path | None = None) -> None:
        self.record = record
        self._start = time.monotonic_ns()
        self._processes = 0
        self._file: IO[str] | None = None
        if history_file is not None:
            self._file = history_file.open("w")

    def new_process(self) -> int:
        """A number for one that does one operation after the other, and is done at the first MAYBE."""
        self._processes += 1
        return self._processes

    def begin(self) -> None:
        """The load begins now."""
        self._start = time.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds since the load began."""
        return time.monotonic_ns() - self._start

    def now(self) -> float:
        """Seconds since the load began."""
        return self.now_ns() / _NS

    def count(self, workload: str, outcome: Outcome, *, read: bool = False) -> None:
        """One operation ended now."""
        tally = self.record.tallies.setdefault(workload, Tally())
        if outcome is Outcome.OK:
            tally.ok += 1
            tally.reads += read
        elif outcome is Outcome.FAILED:
            tally.failed += 1
        else:
            tally.maybe += 1
        self.record.by_second[int(self.now())][outcome] += 1

    def write(self, workload: str, **fields: Any) -> None:
        """One line of the history file."""
        if self._file is not None:
            line = {"workload": workload, **fields}
            self._file.write(json.dumps(line, default=_plain, ensure_ascii=False) + "\n")

    def write_operation(self, workload: str, operation: Operation) -> None:
        """One line of the history file, of an operation on one key."""
        fields = {name: getattr(operation, name) for name in _OPERATION_FIELDS}
        self.write(workload, **fields)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, Outcome):
        return value.value
    return str(value)
