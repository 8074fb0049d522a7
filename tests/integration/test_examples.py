"""The examples of ``examples/``, run as they are, and under the contention that they are about."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import overdb
import overdb.sync
from examples import bank_transfer, job_queue, unique_username
from tests.integration.cluster import LocalCluster
from tests.sizes import Sizes

pytestmark = pytest.mark.processes
EXAMPLES = Path(bank_transfer.__file__).parent


@pytest.fixture(scope="module")
def client(shared_cluster: LocalCluster) -> Iterator[overdb.sync.Client]:
    with overdb.sync.Client(shared_cluster.endpoints, timeout=10.0) as connected:
        yield connected


def printed(cluster: LocalCluster, name: str) -> list[str]:
    """What an example prints when it is run by hand."""
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--endpoint", cluster.endpoints[0]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def cleared(client: overdb.sync.Client, *prefixes: bytes) -> None:
    for prefix in prefixes:
        for item in list(client.scan(prefix=prefix, keys_only=True)):
            client.delete(item.key)


def test_the_bank_transfer_prints_what_happened(shared_cluster: LocalCluster) -> None:
    assert printed(shared_cluster, "bank_transfer.py") == [
        "30 from ann to bob: moved",
        "80 from ann to bob: not enough",
        "ann has 70 and bob has 30",
    ]


def test_transfers_at_once_keep_the_total(client: overdb.sync.Client) -> None:
    names = [f"at-once-{number}" for number in range(4)]
    for name in names:
        client.put(f"account/{name}".encode(), b"100")
    assert len({client.locate(f"account/{name}".encode()).group for name in names}) == 2

    def transfers(seed: int) -> None:
        for turn in range(10):
            source, target = names[(seed + turn) % 4], names[(seed + turn * 3 + 1) % 4]
            bank_transfer.transfer(client, source, target, 7)

    def total() -> int:
        with client.transaction() as t:
            return sum(bank_transfer.balance(t, name) for name in names)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(transfers, seed) for seed in range(4)]
        while not all(one.done() for one in running):
            assert total() == 400
        for one in running:
            one.result()
    assert total() == 400


def test_the_signup_prints_what_is_taken(
    shared_cluster: LocalCluster, client: overdb.sync.Client
) -> None:
    cleared(client, b"user/", b"email/")
    assert printed(shared_cluster, "unique_username.py") == [
        "ann, a@x.org: welcome",
        "ann, b@x.org: the name ann is taken",
        "bob, a@x.org: the address a@x.org is taken",
    ]


def test_a_name_is_given_once_to_many_who_want_it(client: overdb.sync.Client) -> None:
    cleared(client, b"user/", b"email/")

    def try_it(number: int) -> str:
        return unique_username.sign_up(client, "wanted", f"{number}@x.org")

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(try_it, range(8)))
    winner = taken.index("")
    assert sorted(taken) == ["", *["the name wanted"] * 7]
    found = client.get(b"user/wanted")
    assert found is not None
    assert found.value == f"{winner}@x.org".encode()
    assert [item.key for item in client.scan(prefix=b"email/")] == [b"email/" + found.value]


def test_the_queue_prints_every_job_once(
    shared_cluster: LocalCluster, client: overdb.sync.Client
) -> None:
    cleared(client, b"todo/", b"claimed/")
    lines = printed(shared_cluster, "job_queue.py")
    jobs = sorted(word for line in lines for word in line.split()[2:])
    assert jobs == [f"{number:02d}" for number in range(10)]


def test_every_job_is_claimed_once_through_two_routers(
    shared_cluster: LocalCluster, client: overdb.sync.Client, sizes: Sizes
) -> None:
    cleared(client, b"todo/", b"claimed/")
    names = [b"job-%02d" % number for number in range(sizes.pick(quick=12, full=20))]
    for name in names:
        client.put(b"todo/" + name, b"")

    async def all_workers() -> list[list[bytes]]:
        async with (
            overdb.Client(shared_cluster.endpoints[0], timeout=10.0) as first,
            overdb.Client(shared_cluster.endpoints[1], timeout=10.0) as second,
        ):
            workers = [(first, "a"), (second, "b"), (first, "c"), (second, "d")]
            return await asyncio.gather(*(job_queue.work(*worker) for worker in workers))

    jobs = [job for claimed in asyncio.run(all_workers()) for job in claimed]
    assert sorted(jobs) == names
    claimed = [item.key for item in client.scan(prefix=b"claimed/")]
    assert claimed == [b"claimed/" + name for name in names]
    assert list(client.scan(prefix=b"todo/")) == []
