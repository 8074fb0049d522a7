"""Programs that fork: children with clients of their own work, or are told why not; parents go on.

Each script runs in a process of its own, against a router in this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.sizes import Sizes
from tests.unit.client.fake_router import RouterThread

PRELUDE = """
import asyncio, gc, multiprocessing, os, sys, threading, time
import overdb.sync
import grpc, grpc.aio
ENDPOINT = sys.argv[1]
HELD = {"StreamStreamCall", "UnaryUnaryCall", "UnaryStreamCall", "_AioCall", "AioChannel", "Channel"}

def held():
    "gRPC's objects of this process that are alive."
    return sorted(type(o).__name__ for o in gc.get_objects() if type(o).__name__ in HELD)

def child():
    "Use a client of its own; 0: it works."
    with overdb.sync.Client(ENDPOINT, timeout=20) as client:
        client.put(b"child", b"1")
        return 0 if client.get(b"child").value == b"1" else 1

def forked(work):
    "The exit code of a child that does the work."
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        except RuntimeError as error:
            code = 2 if "fork" in str(error) else 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def refused():
    "0: making a client is refused, and says what to do."
    for kind in (overdb.Client, overdb.sync.Client):
        try:
            kind(ENDPOINT)
            return 1
        except RuntimeError as error:
            if "'spawn'" not in str(error): return 3
    return 0
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with RouterThread() as router:
        yield router.router.address


def run(endpoint: str, code: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, endpoint],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


# What the pages recommend to programs that call much, and nothing.
EXPERIMENTS = [{}, {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}]


def test_a_closed_client_holds_nothing_of_grpc(endpoint: str) -> None:
    """Also not in a cycle that waits for the collector, or in an exception that its user keeps."""
    run(
        endpoint,
        """
gc.disable()
with overdb.sync.Client(ENDPOINT) as client:
    client.put(b"k", b"v")
    list(client.scan(prefix=b"k"))
    with client.transaction() as t:
        t.put(b"k", t.get(b"k").value)
    try: client.put(b"", b"")
    except overdb.OverDBError as error: kept = error
    assert held()
assert not held(), held()

async def main():
    async with overdb.Client(ENDPOINT) as client:
        await asyncio.gather(*(client.put(b"k%d" % n, b"v") for n in range(50)))
        [item async for item in client.scan(prefix=b"k")]
        await client.status()
        waiting = asyncio.create_task(client.get(b"k"))
        await asyncio.sleep(0)
    assert not held(), held()
    await asyncio.gather(waiting, return_exceptions=True)
asyncio.run(main())
""",
    )


@pytest.mark.parametrize("experiments", EXPERIMENTS)
def test_children_of_a_parent_that_closed_its_clients_work(
    endpoint: str, experiments: dict[str, str]
) -> None:
    run(
        endpoint,
        """
gc.disable()
with overdb.sync.Client(ENDPOINT) as client:
    client.put(b"k", b"v")
assert [forked(child) for _ in range(3)] == [0, 0, 0]

async def main():
    async with overdb.Client(ENDPOINT) as client:
        await client.put(b"k", b"v")
asyncio.run(main())
assert [forked(child) for _ in range(3)] == [0, 0, 0]
""",
        **experiments,
    )


@pytest.mark.parametrize("experiments", EXPERIMENTS)
def test_with_an_open_client_children_work_and_the_parent_goes_on(
    endpoint: str, experiments: dict[str, str]
) -> None:
    """Its connections are closed before the fork; calls of its threads meanwhile are answered, once each."""
    run(
        endpoint,
        """
client = overdb.sync.Client(ENDPOINT, timeout=20)
client.put(b"k", b"v")
stopping, done, failed = [], [], []
def load():
    while not stopping:
        try: done.append(client.transact(then=[overdb.Add(b"n")]))
        except Exception as error: failed.append(error)
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads: thread.start()
while len(done) < 20: time.sleep(0.001)
codes = [forked(child) for _ in range(4)]
stopping.append(True)
for thread in threads: thread.join()
assert codes == [0, 0, 0, 0], codes
assert not failed, failed
assert int(client.get(b"n").value) == len(done)
def inherited():
    client.get(b"k")
assert forked(inherited) == 2
assert client.transact(then=[overdb.Delete(b"n")]).succeeded
client.close()
""",
        **experiments,
    )


def test_a_fork_beside_the_loop_of_an_asyncio_client(endpoint: str) -> None:
    run(
        endpoint,
        """
async def main():
    async with overdb.Client(ENDPOINT, timeout=20) as client:
        await client.put(b"k", b"v")
        calls = [asyncio.create_task(client.put(b"k", b"%d" % n)) for n in range(50)]
        code = await asyncio.to_thread(forked, child)
        await asyncio.gather(*calls)
        await client.put(b"k", b"after")
        return code
assert asyncio.run(main()) == 0
""",
    )


@pytest.mark.parametrize("experiments", EXPERIMENTS)
def test_a_child_that_was_forked_while_grpc_was_in_use_is_told_what_to_do(
    endpoint: str, experiments: dict[str, str], sizes: Sizes
) -> None:
    """The loop that would have to close the connections is the one that forks. So in grandchildren.

    Many children: without the refusal about one in six crashes.
    """
    run(
        endpoint,
        f"CHILDREN = {sizes.pick(quick=5, full=20)}\n"
        """
async def main():
    async with overdb.Client(ENDPOINT, timeout=20) as client:
        await client.put(b"k", b"v")
        codes = [forked(child) for _ in range(CHILDREN)]
        assert codes == [2] * CHILDREN, codes
        assert forked(refused) == 0
        assert forked(lambda: forked(refused)) == 0
        await client.put(b"k", b"the parent goes on")
    assert forked(child) == 0, "closed, in the very loop that forks"
asyncio.run(main())

async def left_open():
    global kept
    kept = overdb.Client(ENDPOINT)
    await kept.put(b"k", b"v")
asyncio.run(left_open())
assert forked(refused) == 0
""",
        **experiments,
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(endpoint: str, method: str, tmp_path: object) -> None:
    program = f"{tmp_path}/program.py"
    with open(program, "w") as file:  # noqa: PTH123  # what spawn imports again
        file.write(
            PRELUDE
            + f"""
def work(_):
    return child()

if __name__ == "__main__":
    client = overdb.sync.Client(ENDPOINT, timeout=20)
    client.put(b"k", b"v")
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        assert pool.map(work, range(4)) == [0, 0, 0, 0]
    assert client.get(b"k").value == b"v"
    client.close()
"""
        )
    done = subprocess.run(
        [sys.executable, program, endpoint], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
