"""The proxy between the nodes: carries, stalls one way or both, heals without losing a byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from overdb_torture import control
from overdb_torture.control import LinkFaults
from overdb_torture.links import Links
from tests.unit.local.supervised import wait_until

CUT: dict[str, object] = {"cut": True}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Links, dict[str, str]]]:
    """Two nodes that say what they hear, and the links between them."""
    servers = [await asyncio.start_server(echo, "127.0.0.1", 0) for _ in range(2)]
    nodes = {
        number: f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for number, server in enumerate(servers, 1)
    }
    links = Links(nodes)
    try:
        yield links, await links.listen({})
    finally:
        await links.close()
        for server in servers:
            server.close()


class Connection:
    """From one node to the other, through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, address: str) -> Connection:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def say(self, words: bytes) -> None:
        self.writer.write(words)
        await self.writer.drain()

    async def has_ended(self) -> bool:
        """Wait for the end; return whether nothing came before it."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5.0) == b""
        except ConnectionError:
            return True

    async def hears(self, words: bytes, seconds: float = 5.0) -> bool:
        """Whether exactly this comes within the time."""
        try:
            return await asyncio.wait_for(self.reader.readexactly(len(words)), seconds) == words
        except TimeoutError:
            return False


async def test_one_way_is_cut_and_the_other_is_not_and_healing_loses_nothing() -> None:
    async with two_nodes() as (links, where):
        there, back = await Connection.to(where["1-2"]), await Connection.to(where["2-1"])
        for connection in (there, back):
            await connection.say(b"hello")
            assert await connection.hears(b"hello")

        links.take({"1-2": CUT})
        await there.say(b"into the dark")
        await back.say(b"as before")
        assert await back.hears(b"as before")
        assert not await there.hears(b"into the dark", 0.3)
        late = await Connection.to(where["1-2"])  # accepted, and nothing more
        await late.say(b"too")
        assert not await late.hears(b"too", 0.2)

        links.take({})
        assert await there.hears(b"into the dark")
        assert await late.hears(b"too")


async def test_what_is_under_way_on_a_link_that_is_closed_is_lost() -> None:
    async with two_nodes() as (links, where):
        there, back = await Connection.to(where["1-2"]), await Connection.to(where["2-1"])
        await there.say(b"hello")
        assert await there.hears(b"hello")
        links.take({"1-2": CUT})
        await there.say(b"into the dark")
        links.take({"1-2": {"closed": True}})
        assert await there.has_ended()
        assert await (await Connection.to(where["1-2"])).has_ended()
        await back.say(b"as before")
        assert await back.hears(b"as before")

        links.take({})
        again = await Connection.to(where["1-2"])
        await again.say(b"hello")
        assert await again.hears(b"hello")


async def test_much_that_waits_behind_a_cut_arrives_in_order() -> None:
    async with two_nodes() as (links, where):
        there = await Connection.to(where["1-2"])
        links.take({"1-2": CUT})
        words = bytes(range(256)) * 8_000
        saying = asyncio.create_task(there.say(words))
        assert not await there.hears(words[:1], 0.2)
        links.take({})
        assert await there.hears(words)
        await saying


async def test_a_link_that_lags() -> None:
    async with two_nodes() as (links, where):
        there = await Connection.to(where["1-2"])
        links.take({"1-2": {"delay_seconds": 0.2}})
        await there.say(b"slowly")
        began = asyncio.get_running_loop().time()
        assert await there.hears(b"slowly")
        assert asyncio.get_running_loop().time() - began >= 0.4  # there, and back


async def test_when_one_end_closes_the_other_one_is_told() -> None:
    async with two_nodes() as (_, where):
        there = await Connection.to(where["1-2"])
        await there.say(b"bye")
        assert await there.hears(b"bye")
        there.writer.write_eof()
        assert await asyncio.wait_for(there.reader.read(1), 5) == b""


async def test_a_node_that_is_down_is_a_connection_that_ends() -> None:
    links = Links({1: "127.0.0.1:1", 2: "127.0.0.1:1"})
    where = await links.listen({})
    there = await Connection.to(where["1-2"])
    assert await asyncio.wait_for(there.reader.read(1), 5) == b""
    await links.close()


def test_the_process_does_what_the_file_wants_and_comes_back_on_the_same_ports(
    tmp_path: Path,
) -> None:
    environment = {
        **os.environ,
        control.DIRECTORY_VARIABLE: str(tmp_path),
        control.NODES_VARIABLE: "1=127.0.0.1:1,2=127.0.0.1:1",
    }

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "overdb_torture.links"], env=environment)

    process = start()
    try:
        where = control.wait_for_links(tmp_path)
        assert set(where) == {"1-2", "2-1"}
        revision = control.ask_links(tmp_path, {(1, 2): LinkFaults(cut=True)})
        wait_until(lambda: control.is_taken(tmp_path, control.LINKS_WANTED, revision), "taken")
        assert not control.is_taken(tmp_path, control.LINKS_WANTED, revision + 1)
        process.terminate()
        assert process.wait(10) == 0

        (tmp_path / "links-wanted.taken.json").unlink()
        process = start()
        wait_until(lambda: control.is_taken(tmp_path, control.LINKS_WANTED, revision), "taken")
        assert control.wait_for_links(tmp_path) == where
    finally:
        process.kill()
        process.wait()
