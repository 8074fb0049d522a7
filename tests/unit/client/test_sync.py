"""The blocking client: the same calls, from any thread."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import threading
import warnings

import pytest

import overdb
import overdb.sync
from overdb import (
    ClientClosed,
    Compare,
    Get,
    InvalidArgument,
    OutcomeUnknown,
    Put,
    Unavailable,
    Value,
)
from tests.unit.client.fake_router import RouterThread


def test_all_calls_work(router_thread: RouterThread) -> None:
    with overdb.sync.Client(router_thread.router.address) as client:
        assert client.get(b"a") is None
        version = client.put(b"a", b"1")
        assert client.get(b"a") == Value(b"1", version)
        assert client.transact([Compare.exists(b"a")], [Put(b"b", b"2")], [Get(b"a")]).succeeded
        for i in range(10):
            client.put(b"k%d" % i, b"v")
        assert [item.key for item in client.scan(prefix=b"k", limit=8)][-1] == b"k7"
        assert client.delete(b"a").existed
        assert client.status().serving
        assert client.locate(b"k").slot == 7
        assert client.members(0)[0].group == 0


def test_signatures_are_those_of_the_asyncio_client() -> None:
    for name, method in inspect.getmembers(overdb.sync.Client, inspect.isfunction):
        if not name.startswith("_"):
            twin = inspect.signature(getattr(overdb.Client, name))
            if (
                name == "run"
            ):  # what it runs is a coroutine function in one, a plain one in the other
                assert list(inspect.signature(method).parameters) == list(twin.parameters)
                continue
            assert inspect.signature(method).parameters == twin.parameters, name
    blocking, waiting = (
        {name for name in vars(kind) if not name.startswith("_")}
        for kind in (overdb.sync.Client, overdb.Client)
    )
    assert waiting - blocking == {"scan_pages"}


def test_calls_of_many_threads_share_messages(router_thread: RouterThread) -> None:
    router = router_thread.router
    threads, puts = 16, 40
    with overdb.sync.Client(router.address) as client:
        client.get(b"connected")
        versions: list[int] = []

        def work(thread: int) -> None:
            versions.extend(client.put(b"%d-%d" % (thread, i), b"v") for i in range(puts))

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(set(versions)) == threads * puts
    assert router.messages < threads * puts


def test_an_abandoned_scan_ends_at_the_server(router_thread: RouterThread) -> None:
    with overdb.sync.Client(router_thread.router.address) as client:
        for i in range(30):
            client.put(b"k%02d" % i, b"v")
        items = client.scan()
        assert next(items).key == b"k00"
        del items
        gc.collect()
        assert client.get(b"k00") is not None


def test_errors_are_those_of_the_asyncio_client(router_thread: RouterThread) -> None:
    router = router_thread.router
    with overdb.sync.Client(router.address) as client:
        with pytest.raises(InvalidArgument, match="key is empty"):
            client.get(b"")
        with pytest.raises(TypeError, match="must be bytes"):
            client.put("k", b"v")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="either prefix"):
            client.scan(b"a", prefix=b"b")
        router_thread.do(lambda: setattr(router, "rule", lambda _: None))
        with pytest.raises(OutcomeUnknown):
            client.put(b"k", b"v", timeout=2.0)
    with (
        overdb.sync.Client("127.0.0.1:1") as client,
        pytest.raises(Unavailable, match="connection refused"),
    ):
        client.put(b"k", b"v", timeout=2.0)


def test_close_ends_the_calls_of_other_threads(router_thread: RouterThread) -> None:
    router = router_thread.router
    router_thread.do(lambda: setattr(router, "rule", lambda _: None))
    client = overdb.sync.Client(router.address)
    caught: list[Exception] = []

    def put() -> None:
        try:
            client.put(b"k", b"v")
        except overdb.OverDBError as error:
            caught.append(error)

    worker = threading.Thread(target=put)
    worker.start()
    router_thread.call(router.until(lambda: len(router.entries) == 1))
    client.close()
    worker.join(5)
    assert [type(error) for error in caught] == [OutcomeUnknown]
    client.close()
    with pytest.raises(ClientClosed, match="make a new one"):
        client.get(b"k")


def test_ctrl_c_ends_a_call(router_thread: RouterThread) -> None:
    router = router_thread.router
    router_thread.do(lambda: setattr(router, "rule", lambda _: None))

    def interrupt() -> None:
        router_thread.call(router.until(lambda: len(router.entries) == 1))
        os.kill(os.getpid(), signal.SIGINT)

    with overdb.sync.Client(router.address) as client:
        worker = threading.Thread(target=interrupt)
        worker.start()
        with pytest.raises(KeyboardInterrupt):
            client.put(b"k", b"v", timeout=20)  # its deadline would be another exception
        worker.join()


def test_it_works_inside_a_running_loop(router_thread: RouterThread) -> None:
    async def main() -> int:
        with overdb.sync.Client(router_thread.router.address) as client:
            return client.put(b"k", b"v")

    assert asyncio.run(main()) > 0


def test_a_client_that_is_not_closed_warns_and_its_thread_ends(router_thread: RouterThread) -> None:
    client = overdb.sync.Client(router_thread.router.address)
    client.put(b"k", b"v")
    assert client._loop is not None
    thread = client._loop._thread
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client
        gc.collect()
    assert any("sync.Client" in str(w.message) for w in caught)
    thread.join(5)
    assert not thread.is_alive()
