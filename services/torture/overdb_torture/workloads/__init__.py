"""The workloads, by the names that ``--workload`` takes."""

from __future__ import annotations

from collections.abc import Callable

from overdb_torture.workloads.bank import Bank
from overdb_torture.workloads.base import Workload
from overdb_torture.workloads.counters import Counters
from overdb_torture.workloads.lists import Lists
from overdb_torture.workloads.registers import Registers

WORKLOADS: dict[str, Callable[[bytes], Workload]] = {
    "registers": Registers,
    "lists": Lists,
    "bank": Bank,
    "counters": Counters,
}
