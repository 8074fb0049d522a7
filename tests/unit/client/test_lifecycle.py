"""Cancelling, closing, and using a client where it does not belong."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import warnings

import pytest

import overdb
from overdb import (
    Client,
    ClientClosed,
    InvalidArgument,
    Limits,
    OutcomeUnknown,
    RequestId,
    Unavailable,
)
from overdb.errors import from_status
from tests.unit.client.fake_router import FakeRouter
from tests.unit.client.store import Answer, Entry


async def test_a_call_cancelled_before_it_is_sent_never_is() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        await client.get(b"connected")
        put = asyncio.ensure_future(client.put(b"k", b"v"))
        after = asyncio.ensure_future(client.put(b"after", b"v"))
        await asyncio.sleep(0)  # both have queued their request, neither was sent
        put.cancel()
        await after
        assert [entry.put.key for entry in router.entries if entry.HasField("put")] == [b"after"]
        await client.put(b"last", b"v")
        assert router.entries[-1].put.id.acknowledged_below == 3  # the cancelled number is closed


async def test_a_call_cancelled_after_it_was_sent_leaves_nothing_behind() -> None:
    async with FakeRouter() as router, Client(router.address) as client:
        held: list[Entry] = []

        def hold(entry: Entry) -> Answer | None:
            held.append(entry)
            return None

        router.rule = hold
        put = asyncio.ensure_future(client.put(b"k", b"v"))
        await router.until(lambda: bool(held))
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        # The write runs, as documented, and its answer closes its number.
        waiting = iter([held[0]])
        router.rule = lambda entry: router.store.answer(next(waiting, entry))
        with pytest.raises(overdb.DeadlineExceeded):  # its turn brought the answer of the put
            await client.get(b"k", timeout=1.0)
        assert router.store.values[b"k"][0] == b"v"
        await client.put(b"k2", b"v")
        assert router.entries[-1].put.id.acknowledged_below == 2
        batcher = client._batcher
        assert batcher is not None
        assert not batcher._open
        assert batcher._open_bytes == 0


async def test_close_ends_open_calls_clearly() -> None:
    async with FakeRouter() as router:
        client = Client(router.address)
        router.rule = lambda _: None
        sent = asyncio.ensure_future(client.put(b"k", b"v"))
        reading = asyncio.ensure_future(client.get(b"k"))
        await router.until(lambda: len(router.entries) == 2)
        queued = asyncio.ensure_future(client.put(b"queued", b"v"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(OutcomeUnknown, match="client was closed"):
            await sent
        with pytest.raises(ClientClosed, match="client was closed"):
            await reading
        with pytest.raises(ClientClosed, match="not run"):
            await queued
        await client.close()  # again: nothing
        with pytest.raises(ClientClosed, match="make a new one"):
            await client.put(b"k", b"v")
        with pytest.raises(ClientClosed):
            client.scan()


async def test_close_while_no_router_answers_is_quick() -> None:
    never = Limits(backoff_seconds_min=1000.0, backoff_seconds_max=1000.0, close_seconds_max=1000.0)
    async with asyncio.timeout(10):
        client = Client("127.0.0.1:1", limits=never)
        put = asyncio.ensure_future(client.put(b"k", b"v", timeout=60))
        while client._batcher is None or not client._batcher._routers.trouble:
            await asyncio.sleep(0.01)  # until the pause behind the first search
        await client.close()
        with pytest.raises(ClientClosed):
            await put


async def test_no_task_and_no_timer_outlives_a_client() -> None:
    before = asyncio.all_tasks()
    async with FakeRouter() as router:
        serving = asyncio.all_tasks()
        client = Client(router.address)
        await client.put(b"k", b"v")
        await client.close()
        await asyncio.sleep(0)
        names = {task.get_name() for task in asyncio.all_tasks() - serving}
        assert not {name for name in names if name.startswith("overdb")}
    assert before <= asyncio.all_tasks()


def test_a_client_belongs_to_the_loop_of_its_first_call() -> None:
    client = Client("127.0.0.1:1")

    async def first() -> None:
        with pytest.raises(Unavailable):
            await client.get(b"k", timeout=0.05)

    async def second() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await client.get(b"k")
        with pytest.raises(RuntimeError, match="another event loop"):
            await client.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    asyncio.run(second())
    loop.run_until_complete(client.close())
    loop.close()


async def test_a_client_that_is_not_closed_warns_and_ends() -> None:
    async with FakeRouter() as router:
        client = Client(router.address)
        await client.put(b"k", b"v")
        carrier = client._batcher._carrier  # type: ignore[union-attr]
        assert carrier is not None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del client
            gc.collect()
        assert any(issubclass(w.category, ResourceWarning) for w in caught)
        with pytest.raises(asyncio.CancelledError):
            await carrier


def test_a_client_that_was_never_used_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = Client("localhost")
        del client
        gc.collect()


def test_a_forked_child_is_told_so() -> None:
    code = """
import os, sys
from overdb import Client
import overdb.sync, asyncio
client, sync = Client(), overdb.sync.Client()
pid = os.fork()
if pid == 0:
    told = 0
    try: asyncio.run(client.get(b"k"))
    except RuntimeError as error: told += "before a fork" in str(error)
    try: sync.get(b"k")
    except RuntimeError as error: told += "before a fork" in str(error)
    os._exit(told)
sync.close()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 2


def test_importing_overdb_needs_no_cli_and_no_server_packages() -> None:
    code = (
        "import sys, overdb, overdb.sync, overdb.client\n"
        "banned = {'typer', 'rich', 'prompt_toolkit', 'uvloop', 'structlog', 'pydantic'}\n"
        "sys.exit(', '.join(banned & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_had() -> None:
    for name in overdb.__all__:
        assert getattr(overdb, name) is not None
        assert name in dir(overdb)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        overdb.Nothing  # noqa: B018


@pytest.mark.parametrize(
    ("given", "addresses"),
    [
        ("localhost", ["localhost:7400"]),
        ("a:1,b:2, c", ["a:1", "b:2", "c:7400"]),
        (["a:1", "a:1", "[::1]"], ["a:1", "[::1]:7400"]),
        ("[fe80::1]:99", ["[fe80::1]:99"]),
    ],
)
def test_endpoints_are_read(given: str | list[str], addresses: list[str]) -> None:
    assert Client(given)._addresses == addresses


@pytest.mark.parametrize(
    "bad", ["", ",", "http://a:1", "a:0", "a:65536", "a:x", ":7400", "[::1", "[]:1", "::1", "a b:1"]
)
def test_bad_endpoints_are_named(bad: str) -> None:
    with pytest.raises(InvalidArgument, match="endpoint"):
        Client(bad)


def test_errors_survive_pickling() -> None:
    request_id = RequestId(b"x" * 16, 3, 4, 1)
    for error in (
        from_status(5, "no group 9"),
        from_status(77, ""),
        OutcomeUnknown("lost", request_id=request_id),
    ):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
        assert type(again) is type(error)
        assert (str(again), again.code) == (str(error), error.code)
    assert again.request_id == request_id
