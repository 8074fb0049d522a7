"""The goals that a run can judge, for each way that OverDB's client can take; pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import Sample, chosen, spread

_SYSTEMS = ("overdb", "overdb-direct", "overdb-leases")
_ETCD = ("etcd-leader", "etcd-spread")
_Figure = Callable[[Sample], float]


@dataclass(frozen=True)
class Goal:
    """``values``: what was measured, one for each alternation. The median of them is judged."""

    name: str
    bound: float
    values: list[float]
    is_least: bool = True

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.bound:,}"

    @property
    def verdict(self) -> str:
        """Two cells: the median with least and greatest, and whether it is enough."""
        if not self.values:
            return " | not measured"
        least, middle, most = spread(self.values)
        good = middle >= self.bound if self.is_least else middle <= self.bound
        told = f"{middle:,.2f} ({least:,.2f}-{most:,.2f})"
        return f"{told} | {'reached' if good else 'NOT reached'}"


def goals(samples: Sequence[Sample]) -> str:
    """A Markdown table of all of them."""
    lines = [
        "| goal | wanted | through the router | | straight to the leaders | | straight, with read leases | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    of_systems = [judged(samples, system) for system in _SYSTEMS]
    for routed, direct, leasing in zip(*of_systems, strict=True):
        # Leases are about reads.
        leased = leasing.verdict if routed.name.startswith("strict gets") else "- | -"
        lines.append(
            f"| {routed.name} | {routed.wanted} | {routed.verdict} | {direct.verdict} | {leased} |"
        )
    return "\n".join(lines) + "\n"


def judged(samples: Sequence[Sample], system: str) -> list[Goal]:
    """What a system of ours has reached; etcd is taken at its better endpoint of each alternation."""

    def rates(workload: str, callers: int) -> list[float]:
        return [s.rate for s in chosen(samples, system, workload, callers)]

    def over_etcd(workload: str, callers: int, theirs: str, figure: _Figure = _rate) -> list[float]:
        best = min if figure is _p50 else max
        etcd: dict[int, float] = {}
        for name in _ETCD:
            for sample in chosen(samples, name, theirs, callers):
                if sample.calls:
                    value, turn = figure(sample), sample.alternation
                    etcd[turn] = best(value, etcd.get(turn, value))
        ours = chosen(samples, system, workload, callers)
        return [figure(s) / etcd[s.alternation] for s in ours if s.alternation in etcd]

    return [
        Goal("puts/s, 256 callers", 20_000, rates("put", 256)),
        Goal("puts/s over etcd's, 256", 10, over_etcd("put", 256, "put")),
        Goal("strict gets/s, 256 callers", 30_000, rates("get", 256)),
        Goal("strict gets/s over etcd's, 256", 10, over_etcd("get", 256, "get")),
        Goal("put p50 over etcd's, one caller", 1.0, over_etcd("put", 1, "put", _p50), False),
        Goal(
            "transactions over two groups/s over etcd's puts/s, 256",
            2,
            over_etcd("txn-two-groups", 256, "put"),
        ),
        Goal("puts/s, 100 a call, 16 callers", 50_000, rates("batch-100", 16)),
        Goal("server CPU per put at saturation, us", 90, _saturated_us(samples, system), False),
    ]


def _rate(sample: Sample) -> float:
    return sample.rate


def _p50(sample: Sample) -> float:
    return sample.p50_ms


def _saturated_us(samples: Sequence[Sample], system: str) -> list[float]:
    """CPU of all servers for a put, at the number of callers with the best median rate."""
    puts = [s for s in samples if (s.system, s.workload) == (system, "put") and s.calls]
    if not puts:
        return []

    def rate(callers: int) -> float:
        return statistics.median(s.rate for s in puts if s.callers == callers)

    busiest = max({s.callers for s in puts}, key=rate)
    return [s.server_us_per_item for s in puts if s.callers == busiest]
