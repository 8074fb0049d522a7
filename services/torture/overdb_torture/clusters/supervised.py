"""The processes of ``overdb local``, by their names in ``cluster.json``: stopped, continued, killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from overdb_torture import control
from overdb_torture.clusters.base import NotCarriedOut, Process

RESTARTED_SECONDS_MAX = 20.0
_POLL_SECONDS = 0.02


class Supervised:
    """Signals to processes that a supervisor of ours has started, and to no others."""

    def __init__(self, file: Path) -> None:
        """``file`` is the supervisor's ``cluster.json``."""
        self._file = file
        self._paused: set[int] = set()
        self._killed: dict[str, int] = {}  # since the last ``wait_for_restart``

    def pids(self) -> dict[str, int | None]:
        content = control.read_json(self._file)
        entries: list[dict[str, Any]] = [*content.get("nodes", []), *content.get("routers", [])]
        return {
            entry["name"] if "name" in entry else f"node-{entry['node_id']}": entry.get("pid")
            for entry in entries
        }

    def addresses(self, group: int) -> dict[int, str]:
        """Of the nodes of a group, by id."""
        nodes = control.read_json(self._file)["nodes"]
        return {int(n["node_id"]): str(n["address"]) for n in nodes if n["group"] == group}

    def kill(self, victims: Sequence[Process]) -> None:
        """Raises NotCarriedOut when one does not run."""
        for victim in victims:
            self._killed[victim.name] = self._signal(victim, signal.SIGKILL)

    async def wait_for_restart(self) -> None:
        """Return when everything that was killed runs again. Raises NotCarriedOut."""
        killed, self._killed = self._killed, {}

        def restarted() -> bool:
            pids = self.pids()
            return all(pids.get(name) not in (None, pid) for name, pid in killed.items())

        if not await until(restarted, RESTARTED_SECONDS_MAX):
            raise NotCarriedOut("what was killed was not started again")

    async def until_dead(self, victim: Process, seconds_max: float) -> None:
        """Return when the process that was killed has ended, or the time is over."""
        await until(lambda: not is_supervised(self._killed[victim.name]), seconds_max)

    def pause(self, victims: Sequence[Process]) -> None:
        """Raises NotCarriedOut when one does not run."""
        for victim in victims:
            self._paused.add(self._signal(victim, signal.SIGSTOP))

    def paused(self, among: Sequence[Process]) -> list[Process]:
        pids = self.pids()
        return [process for process in among if pids.get(process.name) in self._paused]

    def continue_all(self) -> None:
        """Continue whatever is paused."""
        for pid in self._paused:
            if is_supervised(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self._paused.clear()

    def _signal(self, victim: Process, number: signal.Signals) -> int:
        pid = self.pids().get(victim.name)
        if not pid or not is_supervised(pid):
            raise NotCarriedOut(f"{victim.name} does not run")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return pid


def is_supervised(pid: int) -> bool:
    """Whether the process runs and a supervisor of ours started it: pids are used again."""
    try:
        return b"OVERDB_PARENT_PID=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


async def until(condition: Callable[[], bool], seconds_max: float) -> bool:
    """Wait for a condition; return whether it holds in time."""

    async def holds() -> bool:
        return condition()

    return await until_async(holds, seconds_max)


async def until_async(condition: Callable[[], Awaitable[bool]], seconds_max: float) -> bool:
    """Wait for a condition; return whether it holds in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds_max
    while not await condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
