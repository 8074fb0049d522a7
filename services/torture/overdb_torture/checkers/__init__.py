"""Checkers of histories: registers for linearizability, lists for strict serializability, counters."""

from overdb_torture.checkers.counters import CounterFailure, CounterVerdict, check_counters
from overdb_torture.checkers.lists import Anomaly, ListVerdict, check_lists
from overdb_torture.checkers.registers import RegisterFailure, RegisterVerdict, check_registers

__all__ = [
    "Anomaly",
    "CounterFailure",
    "CounterVerdict",
    "ListVerdict",
    "RegisterFailure",
    "RegisterVerdict",
    "check_counters",
    "check_lists",
    "check_registers",
]
