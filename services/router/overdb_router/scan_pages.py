"""The part of a scan that one group answers, page after page, the next one fetched ahead."""

from __future__ import annotations

import asyncio
import math

import grpc

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_router import refusals
from overdb_router.core import RouterCore
from overdb_router.exchange import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN
from overdb_router.refusals import Refusal, Refused
from overdb_router.targets import AnyTarget


def share(limit: int, groups: int) -> int:
    """How many of the next ``limit`` keys of a range one of ``groups`` has at most, nearly always.

    Keys are spread by hash, so that it is the mean and four standard deviations of a binomial distribution.
    Where tags keep a range together it is not: then what lacks is asked for when it is needed.
    """
    if groups == 1:
        return limit
    mean = limit / groups
    return min(limit, math.ceil(mean + 4 * math.sqrt(mean)))


class GroupPages:
    """Items of one group in order. At most one page is fetched ahead of what was taken, and with a limit no
    more than this group's share of it: what is read and not needed is the dearest part of a short scan.

    A page at a fixed version is the same whoever answers it and however often, so a page that fails
    is asked for again, at the leader of that moment, until the deadline.
    """

    def __init__(
        self,
        core: RouterCore,
        group: int,
        request: kv_pb2.ScanRequest,
        version: int,
        deadline: float,
        *,
        stale: bool,
        issued: bool,
        groups: int,
    ) -> None:
        """``issued`` says that a group is known to have given out ``version``; ``groups`` is the number of
        those that the scan goes over."""
        self._core = core
        self._group = group
        self._deadline = deadline
        self._issued = issued
        self._caught_up = False  # the group is at the version since the last try
        self._loop = asyncio.get_running_loop()
        self._any = AnyTarget(core.topology, group) if stale else None
        self._remaining = request.limit  # 0: no limit
        self._share = share(request.limit, groups)  # of it, not asked for yet
        settings = core.settings
        self._wire = shard_pb2.ScanPageRequest(
            group=group,
            start=request.start,
            end=request.end,
            reverse=request.reverse,
            keys_only=request.keys_only,
            version=version,
            max_bytes=settings.scan_page_bytes_max,
            stale=stale,
        )
        self._items_max = settings.scan_page_items_max
        self._fetching: asyncio.Task[shard_pb2.ScanPageResponse] | None = None
        self.items: list[kv_pb2.KeyValue] = []
        self.more = True  # behind `items`
        self._fetch_ahead()

    @property
    def version(self) -> int:
        """What is read at; 0 while a stale scan has no page yet."""
        return self._wire.version

    async def fill(self) -> None:
        """Have at least one item, or none because there are no more. Raises Refused."""
        while not self.items and self.more:
            if self._fetching is None:
                self._share = self._remaining  # there was more here than this group's share
                self._fetch_ahead()
            assert self._fetching is not None
            page = await self._fetching
            self._fetching = None
            self.items = list(page.items)
            self.more = page.more
            self._wire.version = page.version
            if self._remaining:
                self._share += self._wire.max_items - len(self.items)  # pages end by bytes too
                self._remaining -= min(len(self.items), self._remaining)
                self.more = self.more and self._remaining > 0
            if self.more:
                self._go_on_from(page)
                if self._share or not self._remaining:
                    self._fetch_ahead()

    def _go_on_from(self, page: shard_pb2.ScanPageResponse) -> None:
        if self._wire.reverse:
            self._wire.end = page.resume
        else:
            self._wire.start = page.resume

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    # --- fetching -------------------------------------------------------------------------------

    def _fetch_ahead(self) -> None:
        items = self._items_max
        if self._remaining:
            items = min(items, self._share)
            self._share -= items
        self._wire.max_items = items
        request = shard_pb2.ScanPageRequest()
        request.CopyFrom(self._wire)
        self._fetching = asyncio.create_task(self._fetch(request), name=f"scan-{self._group}")

    async def _fetch(self, request: shard_pb2.ScanPageRequest) -> shard_pb2.ScanPageResponse:
        backoff = BACKOFF_SECONDS_MIN
        deadline = min(self._deadline, self._loop.time() + self._core.settings.request_seconds_max)
        while (remaining := deadline - self._loop.time()) > 0:
            page = await self._try(request, remaining, deadline)
            if page is not None:
                return page
            if self._caught_up:
                self._caught_up = False
                continue  # there is nothing to wait for
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
        raise Refused(
            Refusal(
                refusals.UNAVAILABLE,
                f"group {self._group} gave no page in time; a scan changes nothing: retry from the last "
                "key that came, at the same version",
            )
        )

    async def _try(
        self, request: shard_pb2.ScanPageRequest, seconds: float, deadline: float
    ) -> shard_pb2.ScanPageResponse | None:
        """Ask once; return None to try again. Raises Refused."""
        core, group = self._core, self._group
        leader = core.topology.leader_of(group) if self._any is None else self._any.choose()
        if leader is None:
            await core.topology.search(group)
            return None
        replica = core.channels.replica(leader.address)
        try:
            page = await replica.scan_page(request, min(seconds, self._page_seconds_max))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                request.max_items = max(1, request.max_items // 4)  # too large for one message
            elif self._any is not None:
                self._any.lost(leader)
            else:
                await core.topology.search(group)
            return None
        if page.HasField("failure"):
            if self._any is not None:
                self._any.lost(leader)
            else:
                core.topology.lost(group, leader)
                core.topology.hinted(group, page.failure)
            return None
        if page.HasField("behind"):
            await self._catch_up(request, deadline)
            return None
        if page.HasField("error"):
            raise Refused(refusals.from_error(page.error))
        return page

    @property
    def _page_seconds_max(self) -> float:
        """A page that takes longer is asked for again: its replica may have been stopped."""
        return 2 * self._core.settings.describe_seconds_max

    async def _catch_up(self, request: shard_pb2.ScanPageRequest, deadline: float) -> None:
        """The group has not reached the version (PROTOCOL 2.7)."""
        if self._any is not None:
            request.version = 0  # another replica than before, and it lags: take what it has
            return
        if not self._issued:
            await self._core.snapshots.check_issued(request.version, deadline)
            self._issued = True
        await self._core.snapshots.advance(self._group, request.version, deadline)
        self._caught_up = True
