"""Percentiles, ratios, table and goals of the benchmark."""

from __future__ import annotations

import math

from bench.figures import Sample, goals, percentile, ratios, spread, table


def sample(
    system: str, calls: int, alternation: int = 0, workload: str = "put", items: int = 1
) -> Sample:
    row = (system, workload, 256, alternation, items, calls, 2.0)
    cpu = {"client": 1.0, "node-1": 2.0}
    return Sample(*row, {"Timeout": 3}, 1.0, 2.0, 3.0, cpu, {"node-1": 1 << 20}, 700)


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0.01, 0.5, 0.99, 0.999, 1.0)] == [1, 50, 99, 100, 100]
    assert percentile([7.0], 0.5) == 7.0
    assert math.isnan(percentile([], 0.5))


def test_spread_is_least_median_greatest() -> None:
    assert spread([3.0, 1.0, 10.0]) == (1.0, 3.0, 10.0)


def test_ratios_pair_alternations_and_leave_out_what_has_no_partner() -> None:
    ours = [sample("overdb", 100, 0), sample("overdb", 90, 1), sample("overdb", 80, 2)]
    theirs = [sample("etcd-leader", 10, 1), sample("etcd-leader", 50, 0), sample("x", 0, 2)]
    assert ratios(ours, theirs) == [2.0, 9.0]


def test_a_call_of_many_items_counts_as_many() -> None:
    batch = sample("overdb", 10, items=100)
    assert batch.rate == 500.0
    assert batch.cpu_us_per_item == 3000.0
    assert batch.server_us_per_item == 2000.0


def test_the_table_shows_errors_and_the_ratio() -> None:
    systems = [sample("overdb", 300), sample("overdb-direct", 600), sample("etcd-leader", 100)]
    ours, direct, theirs = table(systems).splitlines()[2:]
    assert ours.endswith("| 3 |  | 2.00-2.00-2.00 |")
    assert direct.endswith("| 3 | 0.50-0.50-0.50 |  |")
    assert theirs.endswith("| 3 | 3.00-3.00-3.00 | 6.00-6.00-6.00 |")


def test_the_cpu_of_a_put_is_the_median_at_the_callers_with_the_best_rate() -> None:
    line = next(
        x
        for x in goals([sample("overdb", n, n) for n in (10, 1000, 25_000)]).splitlines()
        if "CPU per put" in x
    )
    assert "| 2,000.00 | NOT reached |" in line  # of 1,000 calls; 80 of the best would be reached


def test_goals_are_reached_missed_or_not_measured() -> None:
    def verdict(samples: list[Sample], goal: str) -> str:
        (line,) = [row for row in goals(samples).splitlines() if row.startswith(f"| {goal} |")]
        return line.split("|")[4].strip()

    goal = "puts/s, 256 callers"
    assert verdict([], goal) == "not measured"
    assert verdict([sample("overdb", 40_000)], goal) == "reached"
    assert verdict([sample("overdb", 39_998)], goal) == "NOT reached"
    against = "puts/s over etcd's, 256"
    ours = sample("overdb", 100)
    rivals = [sample("etcd-leader", 10), sample("etcd-spread", 11)]
    assert verdict([ours, rivals[0]], against) == "reached"
    assert verdict([ours, *rivals], against) == "NOT reached", "etcd's better endpoint counts"


def test_both_ways_of_the_client_are_judged() -> None:
    samples = [sample("overdb", 20_000), sample("overdb-direct", 80_000)]
    (line,) = [
        row for row in goals(samples).splitlines() if row.startswith("| puts/s, 256 callers")
    ]
    assert line.endswith("| 10,000.00 | NOT reached | 40,000.00 | reached |")
