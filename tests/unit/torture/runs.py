"""Records of runs that never were, for the verdict and the page."""

from __future__ import annotations

from overdb_torture.history import Outcome
from overdb_torture.recorder import FaultRecord, LeaderSample, Record, Tally
from overdb_torture.workloads.base import Anomaly, Checked

WORKLOADS = ("registers", "bank")


def good_record(seconds: float = 20.0) -> Record:
    """Enough of everything, and no harm done."""
    record = Record("some cluster", 7, seconds, WORKLOADS, ("kill", "partition"), "overdb torture")
    record.seconds = seconds
    for name in WORKLOADS:
        record.tallies[name] = Tally(ok=1000, failed=3, maybe=2, reads=400)
    for second in range(int(seconds)):
        record.by_second[second].update({Outcome.OK: 100, Outcome.MAYBE: second % 2})
    record.faults = [
        FaultRecord("kill", "", ("node-2", "node-4"), 1.0, 3.0),
        FaultRecord("partition", "apart", ("node-3",), 6.0, 9.5),
    ]
    record.leaders = [
        LeaderSample(0.0, (1, 4)),
        LeaderSample(0.5, (1, 4)),
        LeaderSample(1.0, (0, 4)),
        LeaderSample(1.5, (3, 4)),
    ]
    record.convergence_seconds = 0.4
    return record


def good_checks() -> list[Checked]:
    return [Checked(name, [], f"1000 operations of {name}") for name in WORKLOADS]


def bad_checks() -> list[Checked]:
    evidence = ("process 3 wrote <7>, and was told that it did", "process 5 reads 6 behind it")
    anomaly = Anomaly("registers", "key k&1 is not linearizable", evidence)
    return [Checked("registers", [anomaly], "1000 operations"), Checked("bank", [], "fine")]
