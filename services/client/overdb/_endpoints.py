"""Which routers there are, and the connection to the one in use.

A client talks to one router at a time. Which one is settled by asking it for its health over the
connection that is then used: that tells refused, silent, not serving and serving apart, in one
round trip. A connection that failed is thrown away, and the next try resolves the name anew, so a
router that came back under another address is found at once.
"""

from __future__ import annotations

import asyncio
import random
import re
import string
import weakref
from collections.abc import Sequence
from enum import Enum
from typing import cast

import grpc
import grpc.aio

from overdb import _forks
from overdb._limits import Limits
from overdb.errors import InvalidArgument
from overdb.v1 import cluster_pb2_grpc, kv_pb2_grpc

DEFAULT_PORT = 7400
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_HOST_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-._")
_SYSTEM_ERROR = re.compile(r"remote host: (?:connect: )?([^()]+?)(?: \(\d+\))?$", re.MULTILINE)


def parse_endpoints(endpoints: str | Sequence[str]) -> list[str]:
    """Return ``host:port`` for each endpoint; a string may hold several, separated by commas.

    The port may be left out (7400); an IPv6 address stands in brackets. InvalidArgument otherwise.
    """
    parts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    names = [_parse_endpoint(part.strip()) for part in parts if part.strip()]
    if not names:
        raise InvalidArgument("no endpoints: name at least one router, such as localhost:7400")
    return list(dict.fromkeys(names))


def _parse_endpoint(text: str) -> str:
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        host += bracket
        good = bool(bracket) and len(host) > 2 and (not rest or rest.startswith(":"))
        port = rest[1:] if rest else str(DEFAULT_PORT)
    else:
        host, colon, port = text.partition(":")
        good = bool(host) and _HOST_CHARACTERS.issuperset(host)
        port = port if colon else str(DEFAULT_PORT)
    if not (good and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise InvalidArgument(
            f"endpoint {text!r} is not host:port: write it like localhost:7400 or [::1]:7400"
        )
    return f"{host}:{int(port)}"


class Health(Enum):
    """What a router says of itself."""

    SERVING = 1
    ANSWERING = 2  # it lives, but some group has no leader that it can reach
    SILENT = 3  # refused, or no answer in time


class Router:
    """One connection to one router."""

    __slots__ = (
        "__weakref__",
        "_check",
        "address",
        "channel",
        "closing",
        "cluster",
        "kv",
        "trouble",
    )

    def __init__(self, address: str, limits: Limits) -> None:
        self.address = address
        self.trouble = ""  # why the last health question had no answer
        self.closing = False
        self.channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", limits.received_bytes_max),
                ("grpc.max_send_message_length", limits.received_bytes_max),
                ("grpc.use_local_subchannel_pool", 1),  # a fresh channel is a fresh connection
                ("grpc.enable_retries", 0),  # retries are ours: they need the id and the deadline
                ("grpc.enable_http_proxy", 0),  # routers are neighbours, not web sites
            ],
        )
        self.kv = cast("kv_pb2_grpc.KVAsyncStub", kv_pb2_grpc.KVStub(self.channel))
        self.cluster = cast(
            "cluster_pb2_grpc.ClusterAsyncStub", cluster_pb2_grpc.ClusterStub(self.channel)
        )
        self._check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            HEALTH_METHOD
        )

    async def health(self, seconds: float) -> Health:
        """Ask for the health of the whole; connects first where that is still to be done."""
        try:
            answer = await self._check(b"", timeout=seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.trouble = f"no answer within {seconds:g} s"
                return Health.SILENT
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self.trouble = connection_trouble(error.details() or "")
                return Health.SILENT
            return Health.ANSWERING  # a server without the health service is judged by its answers
        except asyncio.CancelledError:
            if not self.closing or being_cancelled():
                raise
            return Health.SILENT  # the connection was given up under the question
        return Health.SERVING if answer == _SERVING else Health.ANSWERING

    @property
    def closed(self) -> bool:
        """Whether it holds nothing of gRPC's any more."""
        return not hasattr(self, "channel")

    async def close(self, grace_seconds: float | None = None) -> None:
        """End the connection and everything on it, and let go of all that is gRPC's (see ``_forks``)."""
        if not self.closed:
            channel = self.channel
            del self.channel, self.kv, self.cluster, self._check
            await channel.close(grace_seconds)


class Routers:
    """The list of routers and the one in use.

    ``connect`` gives the one in use or finds one; ``abandon`` gives it up; ``reconsider`` looks for
    a better one. They begin at a random place in the list, so that clients spread over the routers.
    """

    def __init__(self, addresses: Sequence[str], limits: Limits) -> None:
        self.addresses = tuple(addresses)
        self.trouble = ""  # of the last failed round over all routers; empty: none failed yet
        self._limits = limits
        self._next = random.randrange(len(self.addresses))
        self._current: Router | None = None
        self._searching = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._open: weakref.WeakSet[Router] = weakref.WeakSet()  # with a connection, in use or not
        self._may_connect = asyncio.Event()
        self._may_connect.set()

    @property
    def connected(self) -> bool:
        """Whether there is a router in use."""
        return self._current is not None

    async def connect(self) -> Router:
        """Return the router in use; without one, try them all in turn until one answers.

        Never gives up: the callers have deadlines.
        """
        if self._current is not None:
            return self._current
        await self._may_connect.wait()
        async with self._searching:
            failures = 0
            while self._current is None:
                await self._may_connect.wait()
                found = await self._search(None)
                self._current = None if found is None or found.closing else found
                if self._current is None:
                    await asyncio.sleep(backoff_seconds(self._limits, failures))
                    failures += 1
            return self._current

    def abandon(self, router: Router, trouble: str = "") -> None:
        """Give up a connection; the next ``connect`` goes to the next router of the list."""
        if trouble:
            self.trouble = f"{router.address}: {trouble}"
        if self._current is router:
            self._current = None
        if router.closing:
            return
        router.closing = True
        task = asyncio.get_running_loop().create_task(router.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def reconsider(self, router: Router) -> bool:
        """Ask a suspected router for its health; True when it is not, or no longer, the one in use.

        One that serves stays. One that lives but does not serve stays unless another one serves.
        """
        async with self._searching:
            if self._current is not router:
                return True
            health = await router.health(self._limits.probe_seconds_max)
            if self._current is not router:
                return True
            if health is Health.SERVING or (
                health is Health.ANSWERING and len(self.addresses) == 1
            ):
                return False
            found = await self._search(router if health is Health.ANSWERING else None)
            if found is not None and found.closing:
                found = None
            if self._current is not router or found is router or found is None:
                if found is not None and found is not router:
                    await found.close()
                return self._current is not router
            self._current = found
        self.abandon(router, router.trouble or "not serving")
        return True

    async def _search(self, fallback: Router | None) -> Router | None:
        """Go once over all routers: the first that serves, else one that lives, else None.

        ``fallback`` is one that is known to live; it is kept when no other serves.
        """
        spare: Router | None = None
        chosen: Router | None = None
        troubles = []
        try:
            for _ in self.addresses:
                if not self._may_connect.is_set():
                    break
                address = self.addresses[self._next % len(self.addresses)]
                self._next += 1
                router = self._opened(address)
                health = Health.SILENT
                try:
                    health = await router.health(self._limits.connect_seconds_max)
                finally:
                    if health is Health.SILENT or (health is Health.ANSWERING and spare):
                        await router.close()
                if health is Health.SERVING:
                    chosen = router
                    return chosen
                if health is Health.SILENT:
                    troubles.append(f"{address}: {router.trouble}")
                elif spare is None:
                    spare = router
            chosen = fallback or spare
            if chosen is None:
                self.trouble = "; ".join(troubles)
            return chosen
        finally:
            if spare is not None and spare is not chosen:
                await spare.close()

    def _opened(self, address: str) -> Router:
        router = Router(address, self._limits)
        self._open.add(router)
        return router

    def hold(self) -> None:
        """Make no connections until ``resume``."""
        self._may_connect.clear()

    async def pause(self) -> None:
        """End all connections, and make none until ``resume``: the process is about to fork."""
        self.hold()
        while any(not router.closed for router in self._open) or self._closing:
            for router in list(self._open):
                self.abandon(router)
            await asyncio.sleep(0)
        await _forks.calls_ended()

    def resume(self) -> None:
        """Connections may be made again."""
        self._may_connect.set()

    async def close(self) -> None:
        """End all connections."""
        self._may_connect.set()
        router, self._current = self._current, None
        if router is not None:
            await router.close()
        if self._closing:
            await asyncio.wait(self._closing)
        await _forks.calls_ended()


def backoff_seconds(limits: Limits, failures: int) -> float:
    """Return how long to wait after that many failures before this one: doubling, with jitter."""
    longest: float = min(
        limits.backoff_seconds_max, limits.backoff_seconds_min * 2 ** min(failures, 16)
    )
    return longest * random.uniform(0.5, 1.0)


def being_cancelled() -> bool:
    """Whether the running task itself was asked to end (a call's end looks the same)."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def connection_trouble(details: str) -> str:
    """Return the part of gRPC's text on a failed connection that helps a person."""
    system = _SYSTEM_ERROR.search(details)
    if system is not None:
        return system[1].strip().lower()
    if "DNS" in details or "name resolution" in details.lower():
        return "the name does not resolve"
    return details.partition("\n")[0][:200] or "connection lost"
