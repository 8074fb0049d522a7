"""Keeps one Exchange stream open to the replica that a group's requests go to now.

It knows nothing of requests: it asks its ``Traffic`` for messages while the window has room, hands it
the answers, and tells it when a stream is over, after which everything unanswered is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Protocol

import grpc
import structlog

from overdb.internal.v1 import shard_pb2
from overdb_router.channels import Channels, ExchangeCall
from overdb_router.targets import Targets
from overdb_router.topology import Leader

_log = structlog.get_logger()

# Waits between attempts to find and reach a leader.
BACKOFF_SECONDS_MIN = 0.02
BACKOFF_SECONDS_MAX = 0.25


class Traffic(Protocol):
    """What goes over the stream."""

    def next_message(self) -> shard_pb2.ShardRequest | None:
        """Return what to send now, None while there is nothing or the window is full."""

    def take(self, response: shard_pb2.ShardResponse) -> shard_pb2.Failure | None:
        """Take in an answer; return the failure when it says that this replica cannot serve."""

    def stream_ended(self) -> None:
        """What was sent and not answered must be sent again."""

    def answer_too_large(self, details: str) -> None:
        """The stream ended because an answer did not fit into a message."""


class Exchange:
    """Runs until ``close``. ``stir`` is called when there may be something to send."""

    def __init__(self, targets: Targets, channels: Channels, traffic: Traffic, name: str) -> None:
        self._targets = targets
        self._channels = channels
        self._traffic = traffic
        self._name = name
        self._stirred = asyncio.Event()
        self._changed = asyncio.Event()
        self._progress = False
        self._target: Leader | None = None
        self.task = asyncio.create_task(self._run(), name=name)

    def stir(self) -> None:
        """There may be something to send."""
        self._stirred.set()

    def reconsider(self) -> None:
        """There may be another replica to talk to."""
        self._changed.set()

    def abandon(self) -> None:
        """The present replica owes answers for too long: go on with another one."""
        if self._target is not None:
            self._targets.lost(self._target)
            self._changed.set()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    # --- one replica after the other ------------------------------------------------------------

    async def _run(self) -> None:
        backoff = BACKOFF_SECONDS_MIN
        while True:
            self._changed.clear()
            target = self._targets.choose()
            if target is None:
                self._targets.look_around()
            else:
                self._progress = False
                await self._serve(target)
                self._traffic.stream_ended()
                if self._progress:
                    backoff = BACKOFF_SECONDS_MIN
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff):
                    await self._changed.wait()
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    async def _serve(self, target: Leader) -> None:
        """Exchange with one replica until it is lost or another one is to be used."""
        if self._targets.stale:
            await self._stirred.wait()  # rare: no stream is kept for it beforehand
        self._target = target
        try:
            await self._while_current(target, self._connect_and_exchange(target))
        finally:
            self._target = None

    async def _while_current(self, target: Leader, work: Coroutine[None, None, bool]) -> None:
        """Run ``work`` to its end, or until ``target`` is not the one to talk to any more.

        ``work`` returns whether the target is still as good as before.
        """
        working = asyncio.create_task(work)
        try:
            while True:
                changing = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait([working, changing], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changing.cancel()
                if working.done():
                    if not working.result():
                        self._targets.lost(target)
                    return
                self._changed.clear()
                if not self._targets.is_current(target):
                    return
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    # --- one stream -----------------------------------------------------------------------------

    async def _connect_and_exchange(self, target: Leader) -> bool:
        """Return when the replica cannot be reached or the stream is over.

        True when the replica is well and only an answer was too large.
        """
        replica = self._channels.replica(target.address)
        if not await replica.connected():
            return False
        call = replica.exchange()
        writing = asyncio.create_task(self._write(call), name=f"{self._name}-write")
        try:
            while isinstance(response := await call.read(), shard_pb2.ShardResponse):
                failure = self._traffic.take(response)
                if failure is None:
                    self._progress = True
                else:
                    self._targets.lost(target, failure)
                    self._changed.set()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._traffic.answer_too_large(error.details() or "")
                return True
        finally:
            call.cancel()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        return False

    async def _write(self, call: ExchangeCall) -> None:
        """Send what there is, all that waited while the last message was written in the next one."""
        next_message, stirred = self._traffic.next_message, self._stirred
        # The reader learns of a broken stream too, and says so.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                message = next_message()
                if message is None:
                    stirred.clear()
                    await stirred.wait()
                else:
                    await call.write(message)
