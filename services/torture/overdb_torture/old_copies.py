"""A node's directory travels back in time: a copy taken while it ran is put in its place (FAULTS 82).

The node must find out by the others, and take part in nothing. In the end it gets its own directory back.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from overdb.internal.v1 import shard_pb2

SAID = "is an old copy"  # in the problem of a node that has found out
_LOCK = "LOCK"
_NUMBERS = ("node.json", "starts.json")
_CALL_SECONDS_MAX = 1.0
_COPIES_MAX = 20


class OldCopy:
    """The directory of a node, and a copy of it as it was at the beginning."""

    def __init__(self, directory: Path, store: Path) -> None:
        """``store`` is an empty place for the copy, on the same file system.

        The copy is one that a tool for backups would make: of one set of files. Raises FileNotFoundError
        when files come and go too fast for that.
        """
        self._directory = directory
        self._copy, self._newest = store / "copy", store / "newest"
        for _ in range(_COPIES_MAX):
            shutil.rmtree(store, ignore_errors=True)
            if _copied(directory, self._copy):
                break
        else:
            raise FileNotFoundError(f"{directory} changes while it is copied")
        self.start_number = max(_start_number(self._copy / name) for name in _NUMBERS)

    def put_back(self) -> None:
        """Replace the directory by the copy. Nobody may use it: raises BlockingIOError."""
        with self._locked():
            _move(self._directory, self._newest)
            _move(self._copy, self._directory)

    def undo(self) -> None:
        """Give the directory back that was there. Raises BlockingIOError."""
        with self._locked():
            _move(self._directory, self._copy)
            _move(self._newest, self._directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the node's process: one that is started meanwhile refuses to run."""
        with (self._directory / _LOCK).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


def _start_number(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["start_number"])
    except (OSError, ValueError, KeyError):
        return 0


def _copied(source: Path, target: Path) -> bool:
    """Copy a directory; return whether no file appeared or vanished meanwhile, by a snapshot for instance."""
    try:
        before = _files(source)
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        return _files(source) == before
    except (FileNotFoundError, shutil.Error):
        return False  # removed while it was being copied


def _files(directory: Path) -> set[tuple[str, int]]:
    """Names and inodes: one that was replaced is another one."""
    return {
        (str(path.relative_to(directory)), path.stat().st_ino)
        for path in directory.rglob("*")
        if path.name not in _NUMBERS
    }


def _move(source: Path, target: Path) -> None:
    """All but the lock, which stays where it is."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name != _LOCK:
            path.rename(target / path.name)


async def described(address: str) -> shard_pb2.DescribeResponse | None:
    """What a node says of itself; None when it does not answer."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        describe: Any = channel.unary_unary(
            "/overdb.internal.v1.Shard/Describe",
            request_serializer=shard_pb2.DescribeRequest.SerializeToString,
            response_deserializer=shard_pb2.DescribeResponse.FromString,
        )
        try:
            answer: shard_pb2.DescribeResponse = await describe(
                shard_pb2.DescribeRequest(), timeout=_CALL_SECONDS_MAX
            )
        except grpc.aio.AioRpcError:
            return None
        return answer
