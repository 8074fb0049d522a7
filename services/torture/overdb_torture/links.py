"""The network between the nodes of a cluster with faults: ``python -m overdb_torture.links``.

For every ordered pair of nodes there is a *link*, a port on loopback: what node 1 sends to node 2 goes
through the link 1-2, and what node 2 sends to node 1 through 2-1. So cutting 1-2 alone leaves node 1 able
to hear node 2 and unable to tell it anything. A cut loses nothing: bytes wait here, or in buffers of the
kernel, and arrive late once it is healed, unless gRPC has given up the connection by then (after 8 s).
That is what TCP over a cut cable does, and late messages are the ones that catch a protocol out. A link
that is closed loses what is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from overdb_common import parent
from overdb_torture import control
from overdb_torture.control import LinkFaults

_PIECE_BYTES_MAX = 65_536
_CONNECT_SECONDS = 0.1


@dataclass
class Link:
    """From one node to another. ``open`` is set unless it is cut. ``serving``: its connections."""

    name: str
    target: str
    delay_seconds: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    carried_bytes: int = 0
    closed: bool = False
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    def take(self, faults: LinkFaults) -> None:
        self.delay_seconds = faults.delay_seconds
        self.closed = faults.closed
        if faults.closed:
            for connection in self.serving:
                connection.cancel()
        if faults.cut:
            self.open.clear()
        else:
            self.open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it. While cut, it is accepted and nothing more."""
        host, _, port = self.target.rpartition(":")
        there_writer: asyncio.StreamWriter | None = None
        ways: list[asyncio.Task[None]] = []
        try:
            if self.closed:
                return
            await self.open.wait()
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
            ways = [
                asyncio.create_task(self._carry(reader, there_writer)),
                asyncio.create_task(self._carry(there_reader, writer)),
            ]
            # Whichever end closes, the other one is told: TCP's half-closed state is not for gRPC.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # nobody listens there: the one who connected here sees its connection end
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, there_writer):
                if end is None:
                    continue
                if self.closed:
                    end.transport.abort()
                else:
                    end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES_MAX):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self.open.wait()
                self.carried_bytes += len(piece)
                writer.write(piece)
                await writer.drain()


class Links:
    """All links of a cluster."""

    def __init__(self, nodes: dict[int, str]) -> None:
        """``nodes``: where each listens, by id."""
        self.links = {
            f"{a}-{b}": Link(f"{a}-{b}", nodes[b]) for a in nodes for b in nodes if a != b
        }
        self._servers: list[asyncio.Server] = []

    async def listen(self, known: dict[str, str]) -> dict[str, str]:
        """Listen, on the ports of ``known`` where there are some, and return where, by link."""
        where: dict[str, str] = {}
        for name, link in self.links.items():
            link.open.set()
            port = int(known.get(name, ":0").rpartition(":")[2])
            server = await asyncio.start_server(partial(self._accept, link), "127.0.0.1", port)
            self._servers.append(server)
            where[name] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return where

    def _accept(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = asyncio.create_task(link.serve(reader, writer))
        link.serving.add(connection)
        connection.add_done_callback(link.serving.discard)

    def take(self, wanted: dict[str, dict[str, object]]) -> None:
        """Do this to the links that are named, and nothing to the others."""
        for name, link in self.links.items():
            link.take(LinkFaults(**wanted.get(name, {})))  # type: ignore[arg-type]

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        for server in self._servers:
            server.close()
        connections = [one for link in self.links.values() for one in link.serving]
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def run(directory: Path, nodes: dict[int, str]) -> None:
    """Listen, say where, and do what the control file wants, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    links = Links(nodes)
    file = directory / control.LINKS_FILE
    control.write_json(file, dict(await links.listen(control.read_json(file))))
    wishes = control.Watched(directory, control.LINKS_WANTED)
    while not stop.is_set():
        content = wishes.changed()
        if content is not None:
            links.take(content.get("links", {}))
            wishes.taken(content)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), control.POLL_SECONDS)
    await links.close()


def main() -> None:
    """Run the proxy of one cluster."""
    import uvloop  # noqa: PLC0415  # a process of its own: nobody else pays for it

    parent.end_with_parent()
    nodes = control.parse_nodes(os.environ[control.NODES_VARIABLE])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(Path(os.environ[control.DIRECTORY_VARIABLE]), nodes))


if __name__ == "__main__":
    main()
