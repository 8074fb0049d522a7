"""PySyncObj and OxideDB, three nodes each, as far as they are installed; neither fsyncs a write."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import itertools
import socket
import subprocess
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import msgpack

from tests.integration.cluster import wait_until
from tests.ports import free_ports

PYSYNCOBJ, OXIDEDB = "pysyncobj", "oxidedb"
INSTALL = "{} is left out: to have it, run scripts/setup.sh bench"
THREADS = 256


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _listens(popen: subprocess.Popen[bytes], port: int) -> bool:
    """Raises ChildProcessError when the process has ended."""
    if popen.poll() is not None:
        raise ChildProcessError(f"the node at port {port} has ended")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Nodes:
    """Three processes, each with a port; ``with`` waits until all are served, leaving ends them."""

    ports: list[int]

    def __init__(self, commands: list[list[str]], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "log").open("ab") as log:
            self.popens = [
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
                for command in commands
            ]

    def __enter__(self) -> Self:
        try:
            for popen, port in zip(self.popens, self.ports, strict=True):
                wait_until(functools.partial(_listens, popen, port), f"port {port} is served", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for popen in self.popens:
            popen.kill()
            popen.wait()


class PySyncObjNodes(Nodes):
    """Each with a journal on disk and a port for clients (``ports``)."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(6)
        own = [f"127.0.0.1:{port}" for port in ports[:3]]
        self.ports = ports[3:]
        commands = []
        for number, (address, port) in enumerate(zip(own, self.ports, strict=True)):
            home = directory / str(number)
            home.mkdir(parents=True)
            peers = [other for other in own if other != address]
            module = [sys.executable, "-m", "bench.pysyncobj_node"]
            commands.append([*module, str(home), str(port), address, *peers])
        super().__init__(commands, directory)


class OxideDBNodes(Nodes):
    """Each with two shards and its data on disk (SQLite, synchronous=NORMAL)."""

    def __init__(self, directory: Path) -> None:
        from oxidedb.launcher import block_width  # noqa: PLC0415  # it may not be installed

        width = block_width()
        first = free_ports(1)[0]
        self.ports = [first + number * (width + 1) for number in range(3)]
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        commands = []
        for number, address in enumerate(self.addresses, start=1):
            peers = ",".join(
                f"{n}@{other}"
                for n, other in enumerate(self.addresses, start=1)
                if other != address
            )
            arguments = ["--node-id", str(number), "--port", address.rpartition(":")[2]]
            arguments += ["--peers", peers, "--data-dir", str(directory / str(number))]
            module = [sys.executable, "-m", "oxidedb.launcher", "--no-stdin-watch"]
            commands.append([*module, *arguments])
        super().__init__(commands, directory)


class PySyncObj:
    """Many requests under way on one connection to the leader. Reads are of its memory, unconfirmed."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def _connect(self) -> None:
        """Ask one node after the other until one leads."""
        for port in itertools.islice(itertools.cycle(self._ports), 300):
            try:
                reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            self._reading = asyncio.create_task(self._read(reader))
            if await self._ask("leader"):
                return
            await self._disconnect()
            await asyncio.sleep(0.1)
        raise TimeoutError("PySyncObj has no leader")

    async def _disconnect(self) -> None:
        if self._writer is not None and self._reading is not None:
            self._writer.close()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._writer = None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        unpacker = msgpack.Unpacker()
        while data := await reader.read(1 << 16):
            unpacker.feed(data)
            for number, error, value in unpacker:
                future = self._open.pop(number)
                if future.done():
                    continue
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(RuntimeError(error))
        for future in self._open.values():
            if not future.done():
                future.set_exception(ConnectionError("the node has closed the connection"))

    async def _ask(self, *request: str | bytes) -> Any:
        if self._writer is None:
            await self._connect()
        assert self._writer is not None
        number = next(self._numbers)
        future = self._open[number] = asyncio.get_running_loop().create_future()
        self._writer.write(msgpack.packb((number, *request)))
        return await future

    async def put(self, key: bytes, value: bytes) -> None:
        await self._ask("put", key, value)

    async def get(self, key: bytes) -> bytes | None:
        found: bytes | None = await self._ask("get", key)
        return found

    async def close(self) -> None:
        await self._disconnect()


class Refused(RuntimeError):  # noqa: N818  # as it is called on the page
    """A put that OxideDB says it has not done."""


class OxideDB:
    """Its own client, which waits in threads: as many as there are callers, up to THREADS."""

    def __init__(self, addresses: list[str]) -> None:
        from oxidedb.cli import ClusterStore  # noqa: PLC0415  # it may not be installed

        self._threads = ThreadPoolExecutor(THREADS)
        self._store = ClusterStore(addresses)
        self._store.wait_until_routable(30)

    def _run(self, call: Any, *arguments: bytes) -> Coroutine[Any, Any, Any]:
        async def wait() -> Any:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, call, *arguments)

        return wait()

    async def put(self, key: bytes, value: bytes) -> None:
        if await self._run(self._store.set, key, value) is False:
            raise Refused

    async def get(self, key: bytes) -> bytes | None:
        found: bytes | None = await self._run(self._store.get, key)
        return found

    async def close(self) -> None:
        self._threads.shutdown(wait=True)
        self._store.close()
