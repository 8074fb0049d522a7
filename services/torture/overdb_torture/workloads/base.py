"""What all workloads share: workers, and what an error says of an operation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

import overdb
from overdb_torture.history import Outcome
from overdb_torture.recorder import Recorder

T = TypeVar("T")

# Everything that says for certain that nothing was done, and never will be.
_NOT_RUN = (
    overdb.Unavailable,
    overdb.Aborted,
    overdb.ResourceExhausted,
    overdb.FailedPrecondition,
    overdb.DeadlineExceeded,
    overdb.ClientClosed,
)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """How a call ended. ``value`` only if it is OK."""

    outcome: Outcome
    value: T | None = None
    error: overdb.OverDBError | None = None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that must not be, with the operations that show it."""

    workload: str
    what: str
    evidence: tuple[str, ...] = ()


@dataclass
class Checked:
    """What the checkers found in one workload. ``note``: how much was looked at, or why it is not known."""

    workload: str
    anomalies: list[Anomaly]
    note: str = ""
    undecided: bool = False


class Worker:
    """One client of its own, that does one thing after the other."""

    def __init__(self, client: overdb.Client, random: Random, recorder: Recorder) -> None:
        self.client = client
        self.random = random
        self.recorder = recorder
        self.process = recorder.new_process()

    async def ask(self, workload: str, call: Awaitable[T], *, read: bool = False) -> Answer[T]:
        """Await a call of the client, tell how it ended, and count it."""
        answer: Answer[T]
        record = self.recorder.record
        try:
            answer = Answer(Outcome.OK, await call)
        except overdb.OutcomeUnknown as error:
            answer = Answer(Outcome.MAYBE, error=error)
        except _NOT_RUN as error:
            answer = Answer(Outcome.FAILED, error=error)
        except overdb.OverDBError as error:
            # A bug, or damage: whatever it is, it may have run.
            answer = Answer(Outcome.MAYBE, error=error)
            record.unexpected.append(f"{workload}: {type(error).__name__}: {error}")
        if answer.error is not None:
            record.errors[type(answer.error).__name__] += 1
        self.recorder.count(workload, answer.outcome, read=read)
        return answer

    def ended(self, outcome: Outcome) -> int | None:
        """When an operation ended: now, or never known. After a MAYBE this is a new process."""
        if outcome is Outcome.MAYBE:
            self.process = self.recorder.new_process()
            return None
        return self.recorder.now_ns()


class Workload(ABC):
    """Operations that know what must always hold."""

    name: ClassVar[str]

    async def open(self, worker: Worker) -> None:  # noqa: B027  # most need nothing
        """Write what has to be there before the load."""

    @abstractmethod
    async def step(self, worker: Worker) -> None:
        """Do one thing."""

    @abstractmethod
    async def close(self, worker: Worker) -> None:
        """Read everything strictly, when nothing is wrong any more."""

    @abstractmethod
    def check(self) -> Checked:
        """Judge what was recorded."""

    @abstractmethod
    def keys(self) -> list[bytes]:
        """All keys that may have been written."""


def told(workload: str, result: Any) -> list[Anomaly]:
    """What a checker found, in words: its first line says what, the others show it."""
    found: list[Anomaly] = []
    for failure in getattr(result, "failures", ()) or getattr(result, "anomalies", ()):
        lines = str(failure).splitlines() or [repr(failure)]
        found.append(Anomaly(workload, lines[0], tuple(lines[1:])))
    if not found and result.ok is False:
        found.append(Anomaly(workload, "the checker says no, without a word"))
    return found
