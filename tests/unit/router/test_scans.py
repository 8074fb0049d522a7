"""Scans over all groups against a model: a sorted dictionary."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb.internal.v1 import shard_pb2
from overdb.v1 import kv_pb2
from overdb_router import scan_pages
from overdb_router.scan_pages import GroupPages, share
from overdb_router.scans import CHOICES_MAX, _take_merged
from tests.unit.router.fakes import FakeCluster, running


async def collect(
    cluster: FakeCluster, timeout: float | None = None, **request: Any
) -> tuple[list[tuple[bytes, bytes]], list[kv_pb2.ScanResponse]]:
    pages = [page async for page in cluster.kv.Scan(kv_pb2.ScanRequest(**request), timeout=timeout)]
    return [(item.key, item.value) for page in pages for item in page.items], pages


def fill(cluster: FakeCluster, count: int, seed: int = 1) -> dict[bytes, bytes]:
    """Write keys straight into the groups; return the model."""
    random = Random(seed)
    model: dict[bytes, bytes] = {}
    for number in random.sample(range(10_000), count):
        key = b"%05d" % number
        model[key] = b"value of " + key
        group = next(group for group in cluster.groups if group.owns(key))
        group.state.write(key, model[key])
    return model


def level_clocks(cluster: FakeCluster) -> None:
    """Let no group be behind a version that is read at: it would be asked twice for its first page."""
    for group in cluster.groups:
        group.state.clock = 100_000


def expected(
    model: dict[bytes, bytes], start: bytes, end: bytes, limit: int, reverse: bool
) -> list[tuple[bytes, bytes]]:
    items = [(k, v) for k, v in model.items() if k >= start and (not end or k < end)]
    items.sort(reverse=reverse)
    return items[:limit] if limit else items


@pytest.mark.parametrize("page_items", [1, 7, 1000])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_equal_the_model(page_items: int, reverse: bool) -> None:
    async def scenario() -> None:
        async with running(groups=3, replicas=1, scan_page_items_max=page_items) as cluster:
            model = fill(cluster, 60)
            ranges = [(b"", b""), (b"03", b"07"), (b"05", b""), (b"", b"00500"), (b"99999", b"")]
            for start, end in ranges:
                for limit in (0, 1, 10):
                    items, pages = await collect(
                        cluster, start=start, end=end, limit=limit, reverse=reverse
                    )
                    assert items == expected(model, start, end, limit, reverse)
                    assert all(len(page.items) <= page_items for page in pages)
                    assert len({page.version for page in pages}) == 1

    asyncio.run(scenario())


def test_pages_are_bounded_in_bytes() -> None:
    async def scenario() -> None:
        async with running(replicas=1, scan_page_bytes_max=2000) as cluster:
            model = fill(cluster, 200)
            items, pages = await collect(cluster)
            assert dict(items) == model
            assert max(page.ByteSize() for page in pages) <= 2100
            assert len(pages) > 4

    asyncio.run(scenario())


def test_keys_only_brings_no_values_and_an_empty_range_brings_a_version() -> None:
    async def scenario() -> None:
        async with running(replicas=1) as cluster:
            fill(cluster, 10)
            items, _ = await collect(cluster, keys_only=True)
            assert len(items) == 10
            assert all(value == b"" for _, value in items)
            items, pages = await collect(cluster, start=b"x", end=b"y")
            assert items == []
            assert [len(page.items) for page in pages] == [0]
            assert pages[0].version >= 1000

    asyncio.run(scenario())


def test_a_scan_sees_one_version_while_writes_go_on() -> None:
    async def scenario() -> None:
        async with running(groups=2, replicas=1, scan_page_items_max=5) as cluster:
            model = fill(cluster, 50)
            seen: list[tuple[bytes, bytes]] = []
            async for page in cluster.kv.Scan(kv_pb2.ScanRequest()):
                seen += [(item.key, item.value) for item in page.items]
                for key in list(model):
                    group = next(group for group in cluster.groups if group.owns(key))
                    group.state.write(key, b"later")
            assert dict(seen) == model

    asyncio.run(scenario())


def test_a_group_that_is_behind_is_brought_to_the_version() -> None:
    """PROTOCOL 2.7: the version is the largest clock of all groups."""

    async def scenario() -> None:
        async with running() as cluster:
            model = fill(cluster, 10)
            cluster.groups[1].state.clock = 70_000
            items, pages = await collect(cluster)
            assert dict(items) == model
            assert pages[0].version == 70_000
            assert cluster.groups[0].state.clock == 70_000

    asyncio.run(scenario())


def test_a_group_that_was_brought_to_the_version_is_asked_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scan behind any write meets it: waiting for something then would be most of what it takes."""
    monkeypatch.setattr(scan_pages, "BACKOFF_SECONDS_MIN", 60.0)

    async def scenario() -> None:
        async with running() as cluster:
            model = fill(cluster, 10)
            cluster.groups[1].state.clock = 70_000
            items, _ = await collect(cluster, timeout=5)
            assert dict(items) == model

    asyncio.run(scenario())


def test_a_future_version_is_refused() -> None:
    async def scenario() -> None:
        async with running() as cluster:
            read = kv_pb2.ReadOptions(consistency=kv_pb2.CONSISTENCY_SNAPSHOT, version=1 << 60)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await collect(cluster, read=read)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "in the future" in str(refused.value.details())

    asyncio.run(scenario())


def test_a_version_that_one_group_does_not_keep_any_more_is_refused() -> None:
    """Retention is each group's own: one group's refusal is the whole scan's."""

    async def scenario() -> None:
        async with running(groups=3, replicas=1) as cluster:
            fill(cluster, 30)
            for group in cluster.groups:
                group.state.clock = 9000
            cluster.groups[2].state.oldest = 5000
            read = kv_pb2.ReadOptions(consistency=kv_pb2.CONSISTENCY_SNAPSHOT, version=4999)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await collect(cluster, read=read)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "the oldest is 5000" in str(refused.value.details())
            read.version = 5000
            items, pages = await collect(cluster, read=read)
            assert len(items) == 30
            assert {page.version for page in pages} == {5000}

    asyncio.run(scenario())


def test_a_version_that_the_router_chose_is_chosen_anew_when_it_is_no_longer_kept() -> None:
    """After a quiet time the clocks are old, and the first entry moves what is kept (FAULTS 81)."""

    async def scenario() -> None:
        async with running(groups=3, replicas=1) as cluster:
            fill(cluster, 30)
            state, replica = cluster.groups[2].state, cluster.groups[2].replicas[0]

            def an_entry_comes() -> None:  # hours after the one before
                state.clock, state.oldest = 9000, 5000

            replica.before_page = an_entry_comes
            items, pages = await collect(cluster)
            assert len(items) == 30
            assert {page.version for page in pages} == {9000}

    asyncio.run(scenario())


def test_choosing_a_version_ends() -> None:
    async def scenario() -> None:
        async with running(groups=1, replicas=1) as cluster:
            fill(cluster, 3)
            cluster.groups[0].state.oldest = 1 << 60
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await collect(cluster)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert len(cluster.groups[0].replicas[0].pages) == CHOICES_MAX

    asyncio.run(scenario())


def test_a_future_version_moves_no_clock_in_any_group() -> None:
    async def scenario() -> None:
        async with running(groups=3) as cluster:
            cluster.groups[1].state.clock = 5000
            read = kv_pb2.ReadOptions(consistency=kv_pb2.CONSISTENCY_SNAPSHOT, version=5001)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await collect(cluster, read=read)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "5001 is in the future, the newest is 5000" in str(refused.value.details())
            assert [group.state.clock for group in cluster.groups] == [1000, 5000, 1000]

    asyncio.run(scenario())


def test_a_leader_change_in_the_middle_repeats_a_page_and_nothing_else() -> None:
    async def scenario() -> None:
        async with running(scan_page_items_max=3, poll_seconds=60.0) as cluster:
            model = fill(cluster, 40)
            seen: list[bytes] = []
            async for page in cluster.kv.Scan(kv_pb2.ScanRequest()):
                seen += [item.key for item in page.items]
                if len(seen) <= 6:
                    cluster.groups[0].elect((cluster.groups[0].leader + 1) % 3)
                    cluster.leader(1).page_failures += 1
            assert seen == sorted(model)

    asyncio.run(scenario())


def test_a_group_is_asked_for_its_share_of_a_limit_and_for_no_more() -> None:
    """What every group would have to read of a short scan is otherwise the whole limit."""

    async def scenario() -> None:
        async with running(groups=3, replicas=1) as cluster:
            model = fill(cluster, 3000)
            level_clocks(cluster)
            items, _ = await collect(cluster, limit=900)
            assert items == expected(model, b"", b"", 900, reverse=False)
            asked = [page.max_items for replica in cluster.replicas for page in replica.pages]
            assert asked == [share(900, 3)] * 3 == [370] * 3

    asyncio.run(scenario())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 40, 300, 1000])
def test_a_range_that_tags_keep_in_one_group_is_scanned_to_its_limit(
    limit: int, reverse: bool
) -> None:
    async def scenario() -> None:
        async with running(groups=3, replicas=1) as cluster:
            model = {b"{tag}%05d" % number: b"value" for number in range(600)}
            group = next(group for group in cluster.groups if group.owns(b"{tag}"))
            for key, value in model.items():
                group.state.write(key, value)
            level_clocks(cluster)
            items, _ = await collect(cluster, limit=limit, reverse=reverse)
            assert items == expected(model, b"", b"", limit, reverse)
            pages = [page for replica in cluster.replicas for page in replica.pages]
            assert len(pages) <= 2 + 3  # one each of the others; its share, then the rest

    asyncio.run(scenario())


def test_a_stale_scan_needs_no_leader() -> None:
    async def scenario() -> None:
        async with running(scan_page_items_max=4) as cluster:
            model = fill(cluster, 30)
            for group in cluster.groups:
                group.leader = -1
            read = kv_pb2.ReadOptions(consistency=kv_pb2.CONSISTENCY_STALE)
            items, _ = await collect(cluster, timeout=3, read=read)
            assert dict(items) == model
            assert all(page.stale for replica in cluster.replicas for page in replica.pages)

    asyncio.run(scenario())


def test_a_scan_without_a_leader_says_unavailable() -> None:
    async def scenario() -> None:
        async with running(request_seconds_max=0.4) as cluster:
            cluster.groups[1].leader = -1
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await collect(cluster)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "group 1" in str(refused.value.details())

    asyncio.run(scenario())


class Paged(GroupPages):
    """A group whose pages end by bytes, behind ``size`` items."""

    def __init__(self, count: int, size: int, limit: int, groups: int) -> None:
        self.asked: list[int] = []
        self._left, self._size = count, size
        core: Any = SimpleNamespace(
            settings=SimpleNamespace(scan_page_bytes_max=1 << 20, scan_page_items_max=1000)
        )
        request = kv_pb2.ScanRequest(limit=limit)
        super().__init__(core, 0, request, 5, float("inf"), stale=False, issued=True, groups=groups)

    async def _fetch(self, request: shard_pb2.ScanPageRequest) -> shard_pb2.ScanPageResponse:
        self.asked.append(request.max_items)
        count = min(self._left, self._size, request.max_items)
        self._left -= count
        items = [kv_pb2.KeyValue(key=b"k")] * count
        return shard_pb2.ScanPageResponse(items=items, more=self._left > 0, version=5)


def test_pages_that_end_by_bytes_are_still_fetched_ahead_up_to_the_share() -> None:
    async def scenario() -> None:
        source = Paged(count=5000, size=100, limit=600, groups=2)
        assert share(600, 2) == 370
        for taken in range(4):
            await source.fill()
            assert len(source.items) == (100, 100, 100, 70)[taken]
            source.items = []
            await asyncio.sleep(0)  # let what is fetched ahead be asked for
        assert source.asked == [370, 270, 170, 70], "no more than the share"
        await source.fill()  # it is needed after all: the rest, again a page ahead
        await asyncio.sleep(0)
        assert source.asked[4:] == [230, 130]
        await source.close()

    asyncio.run(scenario())


class Source(GroupPages):
    """Pages of given items, without a group."""

    def __init__(self, pages: list[list[bytes]]) -> None:
        self._pages = pages
        self.items = []
        self.more = True
        self.refill()

    def refill(self) -> None:
        while not self.items and self._pages:
            self.items = [kv_pb2.KeyValue(key=key) for key in self._pages.pop(0)]
        self.more = bool(self._pages)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.binary(max_size=3), unique=True, max_size=12), min_size=1, max_size=4),
    st.integers(1, 4),
    st.booleans(),
)
def test_merging_pages_gives_the_sorted_whole(
    groups: list[list[bytes]], page: int, reverse: bool
) -> None:
    taken: set[bytes] = set()
    sources = []
    for keys in groups:
        own = sorted({key for key in keys if key not in taken}, reverse=reverse)
        taken.update(own)
        sources.append(Source([own[i : i + page] for i in range(0, len(own), page)]))
    merged: list[bytes] = []
    while items := _take_merged(sources, reverse=reverse):
        merged += [item.key for item in items]
        for source in sources:
            source.refill()
    assert merged == sorted(taken, reverse=reverse)
