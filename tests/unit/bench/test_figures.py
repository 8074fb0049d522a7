"""Percentiles, ratios, table and goals of the benchmark."""

from __future__ import annotations

import math
from dataclasses import replace

from bench.__main__ import median_puts
from bench.figures import Sample, percentile, ratios, spread, table, ways
from bench.goals import goals


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


def test_the_table_shows_errors_by_name_and_the_ratio() -> None:
    systems = [sample("overdb", 300), sample("overdb-direct", 600), sample("etcd-leader", 100)]
    systems.append(replace(systems[0], alternation=1, errors={"Timeout": 1, "Refused": 2000}))
    ours, direct, theirs = table(systems).splitlines()[4:]
    assert ours.endswith("| 2,000 Refused, 4 Timeout |  | 2.00-2.00-2.00 |")
    assert direct.endswith("| 3 Timeout | 0.50-0.50-0.50 |  |")
    assert theirs.endswith("| 3 Timeout | 3.00-3.00-3.00 | 6.00-6.00-6.00 |")
    assert "| 0 |" in table([replace(systems[0], errors={})])


def test_the_table_has_a_heading_for_each_workload_and_systems_side_by_side() -> None:
    def row(system: str, workload: str, callers: int) -> Sample:
        return replace(sample(system, 10, workload=workload), callers=callers)

    systems = ("overdb", "etcd-leader")
    rows = [row(s, w, n) for s in systems for w in ("put", "get") for n in (1024, 1)]
    lines = [line for line in table(rows).splitlines() if line and "---" not in line]
    assert [" ".join(line.split()[:4]) for line in lines if "callers" not in line] == [
        "### put",
        "| 1 | overdb",
        "| 1 | etcd-leader",
        "| 1,024 | overdb",
        "| 1,024 | etcd-leader",
        "### get",
        "| 1 | overdb",
        "| 1 | etcd-leader",
        "| 1,024 | overdb",
        "| 1,024 | etcd-leader",
    ]


def test_bytes_that_are_not_known_are_not_none() -> None:
    unknown = replace(sample("overdb", 100), written_bytes=None)
    assert "| unknown | 3 Timeout |" in table([unknown])
    known = replace(unknown, alternation=1, written_bytes=700)
    assert "| 7 | 6 Timeout |" in table([unknown, known])


def test_percentiles_of_few_calls_are_not_shown() -> None:
    many, some, few = sample("overdb", 2000), sample("overdb", 200), sample("overdb", 199)
    assert "| 1.00 | 2.00 | 3.00 |" in table([many])
    assert "| 1.00 | 2.00 | - |" in table([many, replace(some, alternation=1)])
    assert "| 1.00 | - | - |" in table([many, replace(few, alternation=1)])


def test_memory_is_that_of_the_servers_and_cpu_tells_the_client_apart() -> None:
    memory = {"client": 500 << 20, "node-1": 100 << 20, "node-2": 60 << 20}
    line = table([replace(sample("overdb", 1000), resident_bytes=memory)])
    assert "| 3.000 (1.000) | 160 (100) |" in line


def test_ratios_of_goals_are_taken_within_each_alternation() -> None:
    ours = [sample("overdb", calls, turn) for turn, calls in enumerate((100, 300, 900))]
    theirs = [sample("etcd-leader", calls, turn) for turn, calls in enumerate((50, 100, 100))]
    spread_out = [sample("etcd-spread", 60, 2)]  # worse there: the better endpoint counts
    (line,) = [x for x in goals([*ours, *theirs, *spread_out]).splitlines() if "puts/s over" in x][
        :1
    ]
    assert "| 3.00 (2.00-9.00) | NOT reached |" in line


def test_rows_whose_calls_all_count_are_marked() -> None:
    assert "| overdb | 50 |" in table([sample("overdb", 100)])
    assert "| overdb | 50* |" in table([replace(sample("overdb", 100), from_start=True)])


def test_ways_count_what_the_router_answered() -> None:
    rows = [replace(sample("overdb-direct", 1, n), begun=100, routed=1) for n in (0, 1)]
    rows += [replace(sample("overdb", 1), begun=50, routed=50), sample("etcd-leader", 9)]
    assert ways(rows).splitlines()[2:] == [
        "| put | overdb-direct | 200 | 2 (1.0%) |",
        "| put | overdb | 50 | 50 (100.0%) |",
    ]


def test_the_cpu_of_a_put_is_the_median_at_the_callers_with_the_best_rate() -> None:
    line = next(
        x
        for x in goals([sample("overdb", n, n) for n in (10, 1000, 25_000)]).splitlines()
        if "CPU per put" in x
    )
    assert "| 2,000.00 (80.00-200,000.00) | NOT reached |" in line


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
    assert line.endswith(
        "| 10,000.00 (10,000.00-10,000.00) | NOT reached "
        "| 40,000.00 (40,000.00-40,000.00) | reached | - | - |"
    )


def test_leases_are_judged_by_gets_only() -> None:
    samples = [sample("overdb-leases", 80_000, workload=workload) for workload in ("get", "put")]
    lines = goals(samples).splitlines()
    columns = {line.count("|") for line in lines}
    assert columns == {9}, "as many cells in every line"
    judged = {line.split(" | ")[0]: line for line in lines[2:]}
    gets = [line for name, line in judged.items() if name.startswith("| strict gets")]
    assert [line.split("|")[7:9] for line in gets] == [
        [" 40,000.00 (40,000.00-40,000.00) ", " reached "],
        ["  ", " not measured "],  # no etcd beside it
    ]
    others = [line for name, line in judged.items() if not name.startswith("| strict gets")]
    assert len(others) == 6
    assert all(line.endswith("| - | - |") for line in others)


def test_least_is_judged_by_the_median() -> None:
    assert median_puts([sample("overdb", n, n) for n in (10, 1000, 50_000)]) == 500.0
    assert median_puts([sample("etcd-leader", 10)]) == 0.0
