"""Scans over all groups, merged in key order, at one version (PROTOCOL 2.7)."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Sequence
from operator import attrgetter

from overdb.v1 import kv_pb2
from overdb_router import refusals
from overdb_router.core import RouterCore
from overdb_router.refusals import Refusal, Refused
from overdb_router.scan_pages import GroupPages
from overdb_router.validation import STALE

_key = attrgetter("key")
_ITEM_OVERHEAD_BYTES = 24
# Of versions that turn out to be no longer kept. Each one is as new as the groups' entries.
CHOICES_MAX = 5
_NO_LONGER_KEPT = refusals.FAILED_PRECONDITION


async def scan(
    core: RouterCore, request: kv_pb2.ScanRequest, deadline: float
) -> AsyncIterator[kv_pb2.ScanResponse]:
    """Yield pages in key order; each carries the version that the scan reads at.

    A strict scan reads at the largest clock of all groups, asked for now. At least one page comes, empty
    when there is nothing in the range. ``deadline`` bounds all of it and may be infinite; each page has
    ``request_seconds_max`` besides. Raises Refused.
    """
    loop = asyncio.get_running_loop()
    version, sources = await _begun(core, request, deadline)
    try:
        left = request.limit or float("inf")
        while left > 0:
            await _fill(sources)
            items = _take_merged(sources, reverse=request.reverse)
            if not items:
                break
            if len(items) > left:
                del items[int(left) :]
            left -= len(items)
            read_at = version or min(source.version for source in sources)
            for page in _pages(core, items, read_at):
                if loop.time() > deadline:
                    raise Refused(_too_late())
                yield page
        if left == (request.limit or float("inf")):
            read_at = version or min(source.version for source in sources)
            yield kv_pb2.ScanResponse(version=read_at)
    finally:
        for source in sources:
            await source.close()


async def _begun(
    core: RouterCore, request: kv_pb2.ScanRequest, deadline: float
) -> tuple[int, list[GroupPages]]:
    """Return the version to read at, 0 of a stale scan, and all groups' pages, the first ones filled in.

    A version that is chosen here is the largest clock of all groups. After a quiet time, or a suspend of the
    machines, that is the time of their last entry, and the next entry, the scan's own Advance for one, may
    put it beyond what is kept. Then it is chosen anew: nobody has asked for that version.
    """
    loop = asyncio.get_running_loop()
    choice_deadline = min(deadline, loop.time() + core.settings.request_seconds_max)
    stale = request.read.consistency == STALE
    chosen = not request.read.version and not stale
    if not chosen and not core.topology.discovered:
        await core.snapshots.newest(choice_deadline)  # returns once all groups are known
    for tries_left in reversed(range(CHOICES_MAX)):
        version = await core.snapshots.newest(choice_deadline) if chosen else request.read.version
        groups = core.topology.groups
        sources = [
            GroupPages(
                core,
                group,
                request,
                version,
                deadline,
                stale=stale,
                issued=chosen,
                groups=len(groups),
            )
            for group in groups
        ]
        try:
            await _fill(sources)
        except BaseException as error:
            for source in sources:
                await source.close()
            too_old = isinstance(error, Refused) and error.refusal.code == _NO_LONGER_KEPT
            if not (chosen and too_old and tries_left):
                raise
        else:
            return version, sources
    raise AssertionError("the last choice ends otherwise")


async def _fill(sources: Sequence[GroupPages]) -> None:
    """Have the next items of every group. When one fails, the others are stopped by their owner."""
    for source in sources:
        await source.fill()


def _take_merged(sources: Sequence[GroupPages], *, reverse: bool) -> list[kv_pb2.KeyValue]:
    """Remove and return, in order, all items up to where every group's next items are known.

    That is the nearest last key among the groups that have more behind it. At least one group's page is
    used up by it, so each call makes progress.
    """
    open_ends = [source.items[-1].key for source in sources if source.items and source.more]
    merged: list[kv_pb2.KeyValue] = []
    if not open_ends:
        for source in sources:
            merged += source.items
            source.items = []
    elif not reverse:
        bound = min(open_ends)
        for source in sources:
            cut = bisect_right(source.items, bound, key=_key)
            merged += source.items[:cut]
            source.items = source.items[cut:]
    else:
        bound = max(open_ends)
        for source in sources:
            # Descending: those at or above the bound come first.
            cut = len(source.items) - bisect_left(source.items[::-1], bound, key=_key)
            merged += source.items[:cut]
            source.items = source.items[cut:]
    merged.sort(key=_key, reverse=reverse)
    return merged


def _pages(
    core: RouterCore, items: Sequence[kv_pb2.KeyValue], version: int
) -> list[kv_pb2.ScanResponse]:
    """Cut items into pages bounded in bytes and in number."""
    bytes_max = core.settings.scan_page_bytes_max
    items_max = core.settings.scan_page_items_max
    pages = []
    begin = size = 0
    for position, item in enumerate(items):
        item_size = len(item.key) + len(item.value) + _ITEM_OVERHEAD_BYTES
        if position > begin and (size + item_size > bytes_max or position - begin >= items_max):
            pages.append(kv_pb2.ScanResponse(items=items[begin:position], version=version))
            begin, size = position, 0
        size += item_size
    pages.append(kv_pb2.ScanResponse(items=items[begin:], version=version))
    return pages


def _too_late() -> Refusal:
    return Refusal(
        refusals.DEADLINE_EXCEEDED,
        "the scan took longer than its deadline; go on from the last key that came, at the same version",
    )
