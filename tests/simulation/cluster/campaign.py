"""``python -m tests.simulation.cluster``: one seed, a range of them, or a campaign without end."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.cluster.faults import FAULTS, LAGGING
from tests.simulation.cluster.run import Outcome, Run
from tests.simulation.cluster.workloads import ALL

FAILING_SEEDS = Path("failing-seeds.txt")
UNDECIDED_MAX = 0.001  # of all registers
# What a campaign must have reached, or it has not tested what it is for.
RARE = (
    "event: snapshot_installed",
    "event: transactions_finished",  # of a router that is gone
    "event: disk_stalled",
    "event: disk_lost",
    "event: promoted",
    "event: removed",
    "fault: kill behind one",  # an installation
    "fault: came back",  # a follower that was left behind
    "entries read back",  # from disk, for one that lags
    "lagged at a compaction",
    "fault: suspended machines",
    "unknown",
    "requests answered from what was kept",
    "requests that waited for locks",
    "reads by lease",
)


# What clients count when they have an answer, but for those that only fill disks.
ANSWERED = (
    "add",
    "add to both",
    "appended",
    "bank scan",
    "bank strict read",
    "compare_and_set",
    "delete",
    "lists read",
    "moved",
    "past read",
    "read",
    "read both",
    "relinked",
    "ring walked",
    "write",
)


def quiet() -> None:
    """Coroutines of killed processes are dropped unfinished; Ctrl-C is for the parent to take."""
    sys.unraisablehook = lambda _: None


def _worker() -> None:
    quiet()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def one(
    arguments: tuple[int, float], only: Collection[str] = (), workloads: Collection[str] = ()
) -> Outcome:
    """Run a seed; the choice of faults and workloads as for Run."""
    seed, seconds = arguments
    outcome = Run(seed, seconds, only=only, workloads=workloads).run()
    if not outcome.problem:
        outcome.timeline = []  # not worth its way to the parent
    return outcome


def print_timeline(outcome: Outcome, last: int) -> None:
    """The faults and events before the end, one a line."""
    for at, who, event, details in outcome.timeline[-last:]:
        told = " ".join(f"{key}={value}" for key, value in details.items() if key != "level")
        print(f"{at - 1000:9.3f} s  {who:8} {event} {told}"[:200])
    for line in outcome.trace:
        print(line)


def report(outcome: Outcome, last: int = 60) -> None:
    print(f"\nseed {outcome.seed}: {outcome.problem}\n")
    print_timeline(outcome, last)
    print(f"\nreplay: make sim SEED={outcome.seed} SECONDS={outcome.seconds:g}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.simulation.cluster", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one seed and print its timeline")
    parser.add_argument("--first", type=int, default=0, help="first seed of a range")
    parser.add_argument("--count", type=int, default=300, help="seeds; 0: until stopped")
    parser.add_argument("--seconds", type=float, default=10.0, help="simulated, with faults")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--lines", type=int, default=60, help="of the timeline")
    parser.add_argument("--faults", default="", help="with --seed: only these, as kill,isolate")
    parser.add_argument("--workloads", default="", help="with --seed: only these, as bank,lists")
    parser.add_argument("--trace", action="store_true", help="print all that happened in --seed")
    options = parser.parse_args(arguments)
    quiet()
    only = _chosen(parser, "--faults", options.faults, [kind for _, kind in (*FAULTS, LAGGING)])
    workloads = _chosen(
        parser, "--workloads", options.workloads, [str(vars(w)["name"]) for w in ALL]
    )
    if options.seed is not None and options.trace:
        run = Run(options.seed, options.seconds, traced=True, only=only, workloads=workloads)
        print("\n".join(run.run().lines()))
        return 0
    if options.seed is not None:
        outcome = one((options.seed, options.seconds), only, workloads)
        if outcome.problem:
            report(outcome, options.lines)
            return 1
        rate = outcome.simulated_seconds / outcome.real_seconds
        print(f"seed {outcome.seed}: all promises kept")
        print(
            f"{outcome.simulated_seconds:.1f} simulated s in {outcome.real_seconds:.2f} s: "
            f"{rate:.1f} a second"
        )
        for what, count in sorted(outcome.counts.items()):
            print(f"  {count:7} {what}")
        return 0
    return campaign(options.first, options.count, options.seconds, options.jobs)


def _chosen(
    parser: argparse.ArgumentParser, option: str, given: str, known: list[str]
) -> tuple[str, ...]:
    """Names from a list with commas; ends with what there is when one is not known."""
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"{option}: no {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return names


@dataclass
class Campaign:
    """What a range of seeds did."""

    seeds: int = 0
    simulated: float = 0.0
    real: float = 0.0  # seconds of all processes together
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Rare branches that no seed has reached."""
        return [what for what in RARE if not self.counts[what]]

    @property
    def undecided(self) -> float:
        """Share of registers whose check was given up: those have been judged by nobody."""
        return self.counts["registers undecided"] / max(1, self.counts["registers checked"])

    @property
    def answered(self) -> int:
        """Answers that clients got. A seed draws some of the workloads: single kinds may be missing."""
        return sum(self.counts[kind] for kind in ANSWERED)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.simulated += outcome.simulated_seconds
        self.real += outcome.real_seconds
        self.counts += outcome.counts
        if outcome.problem:
            self.failed.append(outcome)

    def __str__(self) -> str:
        rate = self.simulated / max(self.real, 0.001)
        return (
            f"{self.seeds} seeds, {len(self.failed)} failed, {self.simulated:.0f} simulated s, "
            f"{rate:.1f} a second and core"
        )


def run_seeds(seeds: Iterable[int], seconds: float, jobs: int) -> Iterator[Outcome]:
    """Each seed's outcome, as they come. With one job they run in this process."""
    work = ((seed, seconds) for seed in seeds)
    if jobs == 1:
        yield from map(one, work)
        return
    with get_context("spawn").Pool(jobs, _worker, maxtasksperchild=200) as pool:
        while batch := list(itertools.islice(work, 100)):  # a pool reads all it is given at once
            yield from pool.imap_unordered(one, batch)


def campaign(first: int, count: int, seconds: float, jobs: int) -> int:
    """Run seeds until they are done or somebody stops it; keep those that fail."""
    seeds = range(first, first + count) if count else itertools.count(first)
    done = Campaign()
    try:
        for outcome in run_seeds(seeds, seconds, jobs):
            done.add(outcome)
            if outcome.problem:
                report(outcome)
                with FAILING_SEEDS.open("a") as file:
                    file.write(f"{outcome.seed} {seconds:g} {outcome.problem.splitlines()[0]}\n")
            if done.seeds % 100 == 0:
                print(done, flush=True)
    except KeyboardInterrupt:
        print("\nstopped")
    print(f"{done}; seeds from {first}")
    for what, number in sorted(done.counts.items()):
        print(f"  {number:9} {what}")
    if done.missing:
        print(f"NEVER REACHED: {', '.join(done.missing)}")
    if done.undecided > UNDECIDED_MAX:
        print(f"UNDECIDED: {done.undecided:.1%} of the registers")
    if done.failed:
        print(f"FAILED: seeds {sorted(o.seed for o in done.failed)}; replay: make sim SEED=n")
    return 1 if done.failed or done.missing or done.undecided > UNDECIDED_MAX else 0
