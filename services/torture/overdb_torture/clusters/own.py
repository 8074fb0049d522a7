"""A cluster that is started for one run, and stopped behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from overdb_torture import control
from overdb_torture.clusters.base import Unusable
from overdb_torture.clusters.local import LocalCluster
from overdb_torture.faults import Kind

# A few seconds of load are a log to take a snapshot of. It is kept for followers that are silent no longer
# than a pause, a partition or a restart takes: after those they catch up from the log, as anywhere else.
_SETTINGS = {"OVERDB_SNAPSHOT_LOG_BYTES": "65536", "OVERDB_KEEP_SILENT_SECONDS": "5"}
_START_SECONDS_MAX = 90.0
_STOP_SECONDS_MAX = 20.0
_OVERDB = ["-c", "from overdb.cli import main; main()"]
_HOST = "127.0.0.1"
_PORTS = 120  # a block: more than a small layout takes from its base port on
_PORT_MIN, _PORT_END = 12_000, 31_920  # below those that the kernel hands out


@contextlib.asynccontextmanager
async def own_cluster(
    directory: Path, *, groups: int = 2, replicas: int = 3, routers: int = 2
) -> AsyncIterator[LocalCluster]:
    """Run ``overdb local --faults`` on ``directory`` inside. Raises Unusable when it does not come up."""
    said = directory / "supervisor.log"
    arguments = ["local", "--faults", "--data", str(directory / "data")]
    arguments += ["--groups", str(groups), "--replicas", str(replicas), "--routers", str(routers)]
    base_port, claim = _claim_ports()
    arguments += ["--base-port", str(base_port)]
    with claim, _created(said) as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *_OVERDB,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **_SETTINGS, "OVERDB_PARENT_PID": str(os.getpid())},
            start_new_session=True,  # Ctrl-C is for us: there is something to be checked first
        )
        try:
            await _until_ready(process, said)
            cluster = LocalCluster(directory / "data")
            cluster.description = (
                f"a cluster of its own, {groups} groups x {replicas} replicas, {routers} routers"
            )
            cluster.possible = frozenset(Kind)
            yield cluster
        finally:
            await _stop(process, directory / "data")


async def _until_ready(process: asyncio.subprocess.Process, said: Path) -> None:
    deadline = asyncio.get_running_loop().time() + _START_SECONDS_MAX
    while "Ready after" not in (text := _text_of(said)):
        if process.returncode is not None:
            last = (text.strip().splitlines() or [f"see {said}"])[-1]
            raise Unusable(f"the cluster did not start: {last}")
        if asyncio.get_running_loop().time() > deadline:
            raise Unusable(f"the cluster did not start within {_START_SECONDS_MAX:g} s: see {said}")
        await asyncio.sleep(0.1)


async def _stop(process: asyncio.subprocess.Process, data: Path) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS_MAX)
    except TimeoutError:
        pids = [
            entry.get("pid")
            for kind in ("nodes", "routers", "helpers")
            for entry in control.read_json(data / "cluster.json").get(kind, [])
        ]
        process.kill()
        for pid in filter(None, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()


def _created(file: Path) -> IO[bytes]:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("wb")


def _text_of(file: Path) -> str:
    return file.read_text(errors="replace")


def _claim_ports() -> tuple[int, socket.socket]:
    """Returns the first port of a block that nobody uses, and a socket that keeps the block while it is open.

    The socket holds the last port of the block, so two that start at once take different blocks.
    """
    blocks = (_PORT_END - _PORT_MIN) // _PORTS
    for attempt in range(blocks):
        base = _PORT_MIN + (os.getpid() * 7 + attempt) % blocks * _PORTS
        if not all(_is_free(port) for port in range(base, base + _PORTS - 1)):
            continue
        claim = socket.socket()
        try:
            claim.bind((_HOST, base + _PORTS - 1))
        except OSError:
            claim.close()
            continue
        return base, claim
    raise Unusable("there is no block of free ports for a cluster")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
