"""What the run needs of a cluster: where it is, and hands to hurt and to heal it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from overdb_torture.faults import Kind, Planned


class Unusable(Exception):  # noqa: N818  # it is told to the user as it is
    """There is no such cluster, or it cannot be hurt like this; says what to do."""


class NotCarriedOut(Exception):  # noqa: N818  # it names what happened
    """A fault did not come about, or was not seen to end; says why. The run goes on."""


@dataclass(frozen=True, slots=True)
class Process:
    """A node (``node_id`` above 0) or a router."""

    name: str
    node_id: int = 0
    group: int = -1


class Cluster(ABC):
    """A running cluster. ``begin`` and ``end`` come in pairs, for one fault after the other."""

    description: str
    endpoints: Sequence[str]
    processes: Sequence[Process]
    possible: frozenset[Kind]
    why_not: str  # why the other kinds are not possible here, and what to do for them
    complaints: Sequence[str] = ()  # processes that did not survive what they must survive

    def adapted(self, fault: Planned) -> Planned:
        """The fault as it can be done here, of those that are possible."""
        return fault

    @abstractmethod
    async def begin(self, fault: Planned, victims: Sequence[Process]) -> None:
        """Have the fault begin. Raises NotCarriedOut."""

    @abstractmethod
    async def end(self, fault: Planned, victims: Sequence[Process]) -> None:
        """Have it end; return when the processes are back as processes. Raises NotCarriedOut."""

    @abstractmethod
    async def heal(self) -> None:
        """End whatever may still be wrong. May be called at any time, more than once."""
