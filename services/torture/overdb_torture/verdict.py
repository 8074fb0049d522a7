"""What a run says of the cluster: all right, an anomaly, or too little to say anything. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from overdb_torture.recorder import Record, Tally
from overdb_torture.workloads.base import Anomaly, Checked

OK_PER_SECOND_MIN = 20.0  # over all workloads, on average
OK_MIN = 100  # of each workload
READS_MIN = 10  # of each workload
MAYBE_SHARE_MAX = 0.5


class Code(IntEnum):
    """How the program ends."""

    ALL_RIGHT = 0
    ANOMALY = 1
    UNUSABLE = 2  # wrong usage, or there is no cluster to torture
    TOO_LITTLE = 3


@dataclass(frozen=True)
class Verdict:
    """``anomalies``: what must not be; ``shortfalls``: why this run would prove little."""

    code: Code
    anomalies: tuple[Anomaly, ...]
    shortfalls: tuple[str, ...]
    checked: tuple[Checked, ...]

    @property
    def headline(self) -> str:
        if self.code is Code.ANOMALY:
            count = len(self.anomalies)
            return f"{count} ANOMAL{'Y' if count == 1 else 'IES'} FOUND"
        if self.code is Code.TOO_LITTLE:
            return "TOO LITTLE LOAD TO MEAN ANYTHING"
        return "ALL RIGHT"


def judge(record: Record, checked: Sequence[Checked]) -> Verdict:
    """An anomaly is one however small the load was; without any the load must have been enough."""
    anomalies = [anomaly for one in checked for anomaly in one.anomalies]
    anomalies += [Anomaly("", f"an error that no fault explains: {e}") for e in record.unexpected]
    if record.not_converged:
        anomalies.append(Anomaly("", f"it did not recover: {record.not_converged}"))
    shortfalls = shortfalls_of(record, checked)
    code = Code.ANOMALY if anomalies else Code.TOO_LITTLE if shortfalls else Code.ALL_RIGHT
    return Verdict(code, tuple(anomalies), tuple(shortfalls), tuple(checked))


def shortfalls_of(record: Record, checked: Sequence[Checked]) -> list[str]:
    """Everything that makes "no anomaly" an empty word."""
    found = load_shortfalls(record, min(record.seconds, record.seconds_wanted))
    for name in record.workloads:
        tally = record.tallies.get(name, Tally())
        if tally.maybe > MAYBE_SHARE_MAX * max(1, tally.all):
            found.append(f"{name}: {tally.maybe} of {tally.all} operations have no known outcome")
    carried_out = {fault.kind for fault in record.faults if not fault.problem}
    found += [
        f"{kind}: none was carried out{_why(record, kind)}"
        for kind in record.kinds
        if kind not in carried_out
    ]
    judged = {one.workload for one in checked}
    found += [f"{name}: was not checked" for name in record.workloads if name not in judged]
    found += [
        f"{one.workload}: undecided within the time: {one.note}" for one in checked if one.undecided
    ]
    return found


def load_shortfalls(record: Record, seconds: float) -> list[str]:
    """Returns where the load was too small for ``seconds`` of it, which a slow machine takes longer for."""
    found: list[str] = []
    done = sum(tally.ok for tally in record.tallies.values())
    per_second = done / seconds if seconds > 0 else 0.0
    if per_second < OK_PER_SECOND_MIN:
        found.append(f"{per_second:.1f} operations a second, of at least {OK_PER_SECOND_MIN:g}")
    for name in record.workloads:
        tally = record.tallies.get(name, Tally())
        if tally.ok < OK_MIN:
            found.append(f"{name}: {tally.ok} operations succeeded, of at least {OK_MIN}")
        if tally.reads < READS_MIN:
            found.append(f"{name}: {tally.reads} reads, of at least {READS_MIN}")
    return found


def _why(record: Record, kind: str) -> str:
    problems = [fault.problem for fault in record.faults if fault.kind == kind and fault.problem]
    return f" ({problems[0]})" if problems else " (no time was left for it)"
