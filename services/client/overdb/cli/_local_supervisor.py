"""Keeps the processes of ``overdb local`` running: starts, restarts, stops them, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from overdb.cli._local_layout import DEFAULT_PORT, HOST, Layout, ProcessPlan
from overdb_common import probe

RESTART_SECONDS = 1.0  # as Docker Compose does
STOP_SECONDS_MAX = 10.0
READY_POLL_SECONDS = 0.2
READY_SECONDS_EXPECTED = 20.0  # a start that takes longer is told where to look
REFUSALS_MAX = 3  # of one process in a row: then starting it again will not help
_EXIT_CONFIG = 78  # "cannot work as configured"


class Supervisor:
    """Runs the processes of one layout until it is told to stop.

    A process that dies is started again after a second. One that cannot work as it is configured ends
    everything: at once when it never ran, else when it says so REFUSALS_MAX times in a row. The processes
    end when this one dies, however it does: the kernel tells them (PR_SET_PDEATHSIG, set by themselves).
    No gRPC in here: it is small, and it starts processes all its life.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stop = asyncio.Event()
        self._signals = 0
        self._exit_code = 0
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def run(self) -> int:
        """Return the exit code: 0 when ended by Ctrl-C or SIGTERM, 1 when a process cannot work."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        layout = self._layout
        say(
            f"Starting {layout.groups} groups x {layout.replicas} replicas and {layout.routers} "
            f"router{'s' if layout.routers > 1 else ''}; data in {layout.directory}"
        )
        keepers = [asyncio.create_task(self._keep(plan)) for plan in layout.plans]
        ready = asyncio.create_task(self._say_when_ready())
        await self._stop.wait()
        ready.cancel()
        await self._end(keepers)
        await asyncio.gather(ready, return_exceptions=True)
        return self._exit_code

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    # --- one process ------------------------------------------------------------------------------

    async def _keep(self, plan: ProcessPlan) -> None:
        refusals, refusals_max = 0, 1
        while not self._stop.is_set():
            try:
                process = await self._start(plan)
            except OSError as error:
                self._give_up(f"cannot start {plan.name}: {error}")
                return
            code = await process.wait()
            self._running.pop(plan.name, None)
            plan.pid = None
            if self._stop.is_set():
                return
            self._write_layout()
            if code == _EXIT_CONFIG:
                refusals += 1
                if refusals >= refusals_max:
                    self._give_up(f"{plan.name} cannot run: {plan.last_line()}")
                    return
            else:
                # A disk that is full on purpose has starts refused until it is healed.
                refusals, refusals_max = 0, sys.maxsize if self._layout.faults else REFUSALS_MAX
            say(
                f"{plan.name} ended ({_reason(code)}); starting it again in {RESTART_SECONDS:g} s "
                f"(log: {plan.log_file})"
            )
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), RESTART_SECONDS)

    def _give_up(self, why: str) -> None:
        say(f"overdb local: {why}", error=True)
        self._exit_code = 1
        self._stop.set()

    async def _start(self, plan: ProcessPlan) -> asyncio.subprocess.Process:
        log = plan.open_log()
        try:
            process = await asyncio.create_subprocess_exec(
                *plan.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "OVERDB_CLUSTER": self._layout.cluster,
                    "OVERDB_LISTEN": plan.address,
                    "OVERDB_METRICS_LISTEN": plan.metrics_address,
                    "OVERDB_PARENT_PID": str(os.getpid()),
                    **plan.environment,
                },
                # Ctrl-C on the terminal is for this process: it tells the others, in order.
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._running[plan.name] = process
        plan.pid = process.pid
        if self._stop.is_set():  # meanwhile, and nobody knew of this one yet
            process.terminate()
        self._write_layout()
        return process

    def _write_layout(self) -> None:
        try:
            self._layout.write()
        except OSError as error:  # a full disk: the cluster runs on without this file being right
            say(f"overdb local: cannot write {self._layout.file}: {error.strerror}", error=True)

    # --- all of them ------------------------------------------------------------------------------

    async def _say_when_ready(self) -> None:
        loop = asyncio.get_running_loop()
        start = time.monotonic()
        told = False
        with _progress() as show:
            for plan in self._layout.router_plans:
                while not await loop.run_in_executor(None, probe.is_serving, plan.address, "", 1.0):
                    seconds = time.monotonic() - start
                    show(f"waiting for every group to elect a leader, {seconds:.0f} s")
                    if seconds > READY_SECONDS_EXPECTED and not told:
                        told = True
                        say(f"Still not serving; the logs are in {self._layout.directory / 'logs'}")
                    await asyncio.sleep(READY_POLL_SECONDS)
        say(_welcome(self._layout, time.monotonic() - start))

    async def _end(self, keepers: list[asyncio.Task[None]]) -> None:
        say("Stopping (Ctrl-C again kills)")
        # Routers first: then nobody waits for an answer of a node that goes.
        plans = {plan.name for plan in self._layout.router_plans}
        for name in sorted(self._running, key=lambda name: name not in plans):
            with contextlib.suppress(ProcessLookupError):
                self._running[name].terminate()
        _, late = await asyncio.wait(keepers, timeout=STOP_SECONDS_MAX)
        for name, process in list(self._running.items()):
            say(f"{name} did not stop within {STOP_SECONDS_MAX:g} s: killed", error=True)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if late:
            await asyncio.wait(late)
        self._write_layout()
        say("Stopped")


def say(text: str, *, error: bool = False) -> None:
    """One thing told to the user; on stderr when it went wrong. Nobody there to read it is no failure."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a passing text: in place on a terminal, nowhere else."""
    if not sys.stdout.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415  # only on a terminal

    with Console().status("starting") as status:
        yield status.update


def _reason(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _program() -> str:
    """How the user starts this program again, as short as it can be written."""
    path = Path(sys.argv[0])
    if path.name != "overdb":
        return "overdb"
    found = shutil.which("overdb")
    if found is not None and Path(found).resolve() == path.resolve():
        return "overdb"
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


def _welcome(layout: Layout, seconds: float) -> str:
    endpoint = layout.router_plans[0].address
    endpoints = ",".join(plan.address for plan in layout.router_plans)
    is_default = endpoints == f"{HOST}:{DEFAULT_PORT}"
    overdb = _program() if is_default else f"{_program()} -e {endpoints}"
    serves = "The router listens" if layout.routers == 1 else "The routers listen"
    return f"""
Ready after {seconds:.1f} s. {serves} on {endpoints}. In another terminal:

  {overdb} put greeting hello
  {overdb} get greeting
  {overdb} status

  Python    from overdb.sync import Client; Client("{endpoint}").get(b"greeting")
  grpcurl   grpcurl -plaintext -d '{{"key": "Z3JlZXRpbmc="}}' {endpoint} overdb.v1.KV/Get
  logs      {layout.directory / "logs"}
  layout    {layout.file}

Ctrl-C stops everything; the data stays.
"""
