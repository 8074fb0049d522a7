"""Figures of a run, pure: percentiles, ratios, tables, goals."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One workload of one system in one alternation. Latencies in ms, CPU in s, sizes in bytes."""

    system: str
    workload: str
    callers: int
    alternation: int
    items_per_call: int
    calls: int
    seconds: float
    errors: dict[str, int]
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_seconds: dict[str, float]
    resident_bytes: dict[str, int]
    written_bytes: int | None  # by everybody, to the disk that the systems use
    from_start: bool = False  # all calls count: not one round had ended by the end of the warm-up
    begun: int = 0  # calls, with those that do not count
    routed: int | None = (
        None  # requests that the router answered from the first to the last of those
    )

    @property
    def rate(self) -> float:
        """Items (puts, gets, ...; calls where a call is one item) a second."""
        return self.calls * self.items_per_call / self.seconds

    @property
    def cpu_us_per_item(self) -> float:
        """CPU of all processes, client included, for one item."""
        return sum(self.cpu_seconds.values()) * 1e6 / max(1, self.calls * self.items_per_call)

    @property
    def server_us_per_item(self) -> float:
        """CPU of all server processes for one item."""
        client = self.cpu_seconds.get("client", 0.0)
        total = sum(self.cpu_seconds.values()) - client
        return total * 1e6 / max(1, self.calls * self.items_per_call)


# Calls that a window needs for a percentile to be more than one of its slowest calls.
CALLS_FOR_P99 = 200
CALLS_FOR_P999 = 2000


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values; NaN of none. ``share`` in (0, 1]."""
    if not ordered:
        return float("nan")
    rank = -int(-len(ordered) * share // 1)  # rounded up
    return ordered[min(len(ordered), max(1, rank)) - 1]


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Return least, median and greatest."""
    ordered = sorted(values)
    return ordered[0], statistics.median(ordered), ordered[-1]


def chosen(samples: Iterable[Sample], system: str, workload: str, callers: int) -> list[Sample]:
    """The samples of one row, by alternation."""
    wanted = (system, workload, callers)
    rows = [s for s in samples if (s.system, s.workload, s.callers) == wanted]
    return sorted(rows, key=lambda s: s.alternation)


def ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[float]:
    """Our rate over theirs, alternation by alternation; those without both are left out."""
    rates = {s.alternation: s.rate for s in theirs if s.calls}
    return [s.rate / rates[s.alternation] for s in ours if s.alternation in rates]


def table(samples: Sequence[Sample]) -> str:
    """A heading and a Markdown table for each workload: a line per callers and system; medians over the
    alternations.
    """
    parts = []
    for workload in dict.fromkeys(s.workload for s in samples):
        lines = [
            f"### {workload}\n",
            "| callers | system | items/s | p50 ms | p99 ms | p99.9 ms | CPU s per 1,000 (the client's) "
            "| resident MiB (largest) | bytes written per item | errors | OverDB / it, min-median-max "
            "| direct / it |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        # Systems side by side, in the order in which they are served.
        rows = [s for s in samples if s.workload == workload]
        order = list(dict.fromkeys(s.system for s in samples))
        lines += [
            _line(samples, system, workload, callers)
            for callers, system in sorted(
                {(s.callers, s.system) for s in rows}, key=lambda row: (row[0], order.index(row[1]))
            )
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(samples: Sequence[Sample], system: str, workload: str, callers: int) -> str:
    rows = chosen(samples, system, workload, callers)

    def middle(values: Iterable[float]) -> float:
        return statistics.median(values)

    against = []
    for reference in ("overdb", "overdb-direct"):
        ours = [] if system == reference else chosen(samples, reference, workload, callers)
        found = ratios(ours, rows)
        against.append("-".join(f"{r:.2f}" for r in spread(found)) if found else "")
    written = [
        s.written_bytes / max(1, s.calls * s.items_per_call)
        for s in rows
        if s.written_bytes is not None
    ]
    mark = "*" if any(s.from_start for s in rows) else ""
    fewest = min(s.calls for s in rows)
    p99 = f"{middle(s.p99_ms for s in rows):.2f}" if fewest >= CALLS_FOR_P99 else "-"
    p999 = f"{middle(s.p999_ms for s in rows):.2f}" if fewest >= CALLS_FOR_P999 else "-"
    memory = [[n for name, n in s.resident_bytes.items() if name != "client"] for s in rows]
    return (
        f"| {callers:,} | {system} | {middle(s.rate for s in rows):,.0f}{mark} "
        f"| {middle(s.p50_ms for s in rows):.2f} | {p99} | {p999} "
        f"| {middle(s.cpu_us_per_item for s in rows) / 1000:.3f} "
        f"({middle(s.cpu_us_per_item - s.server_us_per_item for s in rows) / 1000:.3f}) "
        f"| {middle(sum(one) for one in memory) / 2**20:,.0f} "
        f"({middle(max(one, default=0) for one in memory) / 2**20:,.0f}) "
        f"| {f'{middle(written):,.0f}' if written else 'unknown'} | {_errors(rows)} "
        f"| {' | '.join(against)} |"
    )


def _errors(rows: Sequence[Sample]) -> str:
    """How many of which kind, over all alternations."""
    total: collections.Counter[str] = collections.Counter()
    for sample in rows:
        total.update(sample.errors)
    return ", ".join(f"{number:,} {name}" for name, number in total.most_common()) or "0"


def ways(samples: Sequence[Sample]) -> str:
    """A Markdown table: how many of the calls to each system of ours its router has answered."""
    lines = ["| workload | system | calls | of them through the router |", "|---|---|---|---|"]
    known = [(s, s.routed) for s in samples if s.routed is not None]
    for workload, system in dict.fromkeys((s.workload, s.system) for s, _ in known):
        rows = [(s, n) for s, n in known if (s.workload, s.system) == (workload, system)]
        begun, routed = sum(s.begun for s, _ in rows), sum(n for _, n in rows)
        share = f" ({routed / begun:.1%})" if begun else ""
        lines.append(f"| {workload} | {system} | {begun:,} | {routed:,}{share} |")
    return "\n".join(lines) + "\n"


def processes(samples: Sequence[Sample]) -> str:
    """A Markdown table: CPU seconds per 1,000 items of every process, medians over the alternations."""
    lines = [
        "| workload | callers | system | CPU s per 1,000 of each process |",
        "|---|---|---|---|",
    ]
    for workload, callers, system in dict.fromkeys(
        (s.workload, s.callers, s.system) for s in samples
    ):
        rows = [s for s in chosen(samples, system, workload, callers) if s.calls]
        parts = [
            f"{name} {statistics.median(_per_thousand(s, name) for s in rows):.3f}"
            for name in (rows[0].cpu_seconds if rows else ())
        ]
        lines.append(f"| {workload} | {callers:,} | {system} | {', '.join(parts)} |")
    return "\n".join(lines) + "\n"


def _per_thousand(sample: Sample, process: str) -> float:
    return sample.cpu_seconds[process] * 1000 / (sample.calls * sample.items_per_call)
