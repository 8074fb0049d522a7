"""One node of a PySyncObj cluster: ``python -m bench.pysyncobj_node DIRECTORY CLIENT_PORT OWN PEER...``

PySyncObj lives inside of a program; this is the least program that lets another process use it. Over TCP it
takes MessagePack arrays (number, "put", key, value), (number, "get", key) or (number, "leader") and answers
(number, error or None, value), in any order. Its journal is written through a memory map and never fsynced.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any

import msgpack
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.batteries import ReplDict


class Node:
    """The replicated dictionary, and the connections to it."""

    def __init__(self, directory: str, own: str, peers: list[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._own = own
        self._data = ReplDict()
        configuration = SyncObjConf(
            journalFile=f"{directory}/journal", fullDumpFile=f"{directory}/dump"
        )
        self._sync = SyncObj(own, peers, consumers=[self._data], conf=configuration)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        unpacker = msgpack.Unpacker()
        while data := await reader.read(1 << 16):
            unpacker.feed(data)
            for number, kind, *arguments in unpacker:
                self._take(functools.partial(_answer, writer, number), kind, *arguments)
            await writer.drain()

    def _take(
        self,
        answer: Callable[[str | None, Any], None],
        kind: str,
        key: bytes = b"",
        value: bytes = b"",
    ) -> None:
        if kind == "put":

            def done(_: object, error: int) -> None:  # in a thread of PySyncObj
                failed = None if error == FAIL_REASON.SUCCESS else f"reason {error}"
                self._loop.call_soon_threadsafe(answer, failed, None)

            self._data.set(key, value, callback=done)
        elif kind == "get":
            answer(None, self._data.get(key))
        else:
            leader = self._sync._getLeader()  # noqa: SLF001  # it has no other name
            answer(None, leader is not None and leader.address == self._own)


def _answer(writer: asyncio.StreamWriter, number: int, error: str | None, value: Any) -> None:
    if not writer.is_closing():
        writer.write(msgpack.packb((number, error, value)))


async def main(directory: str, port: str, own: str, *peers: str) -> None:
    node = Node(directory, own, list(peers))
    server = await asyncio.start_server(node.serve, "127.0.0.1", int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
