"""What ``overdb torture`` does: finds or starts the cluster, runs, checks, writes the report."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from overdb_torture import page, report
from overdb_torture.clusters.base import Cluster, Unusable
from overdb_torture.clusters.compose import ComposeCluster
from overdb_torture.clusters.endpoint import EndpointCluster
from overdb_torture.clusters.local import LocalCluster
from overdb_torture.clusters.own import own_cluster
from overdb_torture.faults import Kind
from overdb_torture.run import Options, Run
from overdb_torture.verdict import Code, Verdict, judge
from overdb_torture.workloads import WORKLOADS

_INTERRUPTED = 130


@dataclass(frozen=True)
class Choice:
    """The options of the command line, as they were typed."""

    seconds: float
    workload: str
    faults: str | None
    seed: int | None
    report: Path
    clients: int
    rate: float
    data: Path | None
    compose: str | None
    endpoint: str | None
    directory: Path | None


def run(choice: Choice) -> int:
    """Return the exit code; everything is said on stdout, what is wrong with the usage on stderr."""
    try:
        return asyncio.run(_run(choice))
    except asyncio.CancelledError:
        print("overdb torture: interrupted; everything is healed", file=sys.stderr)
        return _INTERRUPTED
    except Unusable as unusable:
        print(f"overdb torture: {unusable}", file=sys.stderr)
        return Code.UNUSABLE
    except OSError as error:
        print(f"overdb torture: {error}", file=sys.stderr)
        return Code.UNUSABLE


async def _run(choice: Choice) -> int:
    workloads = parse_workloads(choice.workload)
    wanted = parse_kinds(choice.faults)
    seed = choice.seed if choice.seed is not None else time.time_ns() % 1_000_000
    choice.report.mkdir(parents=True, exist_ok=True)
    async with _cluster(choice) as cluster:
        kinds = chosen_kinds(wanted, cluster)
        options = Options(
            choice.seconds,
            workloads,
            kinds,
            seed,
            choice.clients,
            choice.rate,
            choice.report,
            clean_up=choice.data is not None or bool(choice.compose or choice.endpoint),
        )
        command = command_line(choice, seed)
        one = Run(cluster, options, say, command)
        named = ", ".join(kinds) or "no faults"
        say(f"{choice.seconds:g} s of {', '.join(workloads)} on {cluster.description}, seed {seed}")
        say(f"Faults: {named}. Ctrl-C ends the load, heals, and judges what there is")
        with _ctrl_c(one):
            await one.execute()
    say("Checking what was recorded")
    verdict = judge(one.record, one.check())
    write(choice.report, one, verdict)
    print(report.text(one.record, verdict), end="", flush=True)
    say(f"\nReport: {choice.report / 'index.html'}")
    return verdict.code


def write(directory: Path, one: Run, verdict: Verdict) -> None:
    """Write the verdict in both forms."""
    (directory / "verdict.txt").write_text(report.text(one.record, verdict))
    (directory / "index.html").write_text(page.html(one.record, verdict))


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.asynccontextmanager
async def _cluster(choice: Choice) -> AsyncIterator[Cluster]:
    named = [one for one in (choice.data, choice.compose, choice.endpoint) if one is not None]
    if len(named) > 1 or (named and choice.directory is not None):
        raise Unusable("give one of --data, --compose, --endpoint and --directory")
    if choice.data is not None:
        yield LocalCluster(choice.data.absolute())
    elif choice.compose is not None:
        yield await ComposeCluster.find(choice.compose)
    elif choice.endpoint is not None:
        yield EndpointCluster(choice.endpoint.split(","))
    else:
        say("Starting a cluster: 2 groups x 3 replicas, 2 routers")
        with contextlib.ExitStack() as stack:
            directory = choice.directory
            if directory is None:
                # Beside the report, not in /tmp: that may be memory, where no fsync means anything.
                temporary = tempfile.TemporaryDirectory(prefix="cluster-", dir=choice.report)
                directory = Path(stack.enter_context(temporary))
            async with own_cluster(directory.absolute()) as cluster:
                yield cluster


@contextlib.contextmanager
def _ctrl_c(one: Run) -> Iterator[None]:
    """The first one ends the load, the second one everything (but what is wrong is still healed)."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    pressed = False

    def interrupted() -> None:
        nonlocal pressed
        if pressed:
            task.cancel()
        pressed = True
        one.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def parse_workloads(text: str) -> tuple[str, ...]:
    """Raises Unusable for a name that there is not."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown or not names:
        raise Unusable(f"no workload '{', '.join(unknown)}': there are {', '.join(WORKLOADS)}")
    return names


def parse_kinds(text: str | None) -> tuple[Kind, ...] | None:
    """None: all that are possible. Raises Unusable for a kind that there is not."""
    if text is None or text == "all":
        return None
    if text in ("", "none"):
        return ()
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    known = {kind.value: kind for kind in Kind}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Unusable(f"no fault '{', '.join(unknown)}': there are {', '.join(known)}")
    return tuple(known[name] for name in names)


def chosen_kinds(wanted: tuple[Kind, ...] | None, cluster: Cluster) -> tuple[Kind, ...]:
    """The kinds of this run. Raises Unusable when one is asked for that is not possible there."""
    if wanted is None:
        return tuple(kind for kind in Kind if kind in cluster.possible)
    impossible = [kind.value for kind in wanted if kind not in cluster.possible]
    if impossible:
        raise Unusable(
            f"{', '.join(impossible)}: not possible on {cluster.description}; {cluster.why_not}"
        )
    return wanted


def command_line(choice: Choice, seed: int) -> str:
    """The command that does the same again."""
    words = ["overdb", "torture", "--seconds", f"{choice.seconds:g}", "--seed", str(seed)]
    options = {
        "--workload": choice.workload
        if parse_workloads(choice.workload) != tuple(WORKLOADS)
        else None,
        "--faults": choice.faults,
        "--clients": str(choice.clients) if choice.clients != 12 else None,
        "--rate": f"{choice.rate:g}" if choice.rate != 25.0 else None,
        "--data": choice.data,
        "--compose": choice.compose,
        "--endpoint": choice.endpoint,
        "--directory": choice.directory,
    }
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    return shlex.join(words)
