"""The blocking twin of the client, for threads.

It runs the asyncio client on one background thread with an event loop of its own. Calls of many
threads that wait at the same moment travel in one message, as with the asyncio client.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from overdb import _forks
from overdb import client as asynchronous
from overdb._copies import Uncopied
from overdb._limits import Limits
from overdb._sync_administration import Administration
from overdb._sync_transaction import Transaction
from overdb._tries import RUN_ATTEMPTS, RUN_SECONDS, Tries, outlived
from overdb.errors import ClientClosed
from overdb.operations import Compare, Consistency, KeyValue, Operation
from overdb.transaction import Transaction as AsyncTransaction

if TYPE_CHECKING:
    from types import TracebackType

    from overdb.ids import RequestId
    from overdb.operations import Deleted, TransactResult, Value
    from overdb.status import (
        ClusterStatus,
        GroupMembers,
        GroupTransactions,
        Location,
        TransactionStatus,
    )

__all__ = ["Client", "Transaction"]

_T = TypeVar("_T")


class _Loop:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_report)
        self.closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="overdb-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the loop and wait for it; Ctrl-C ends the wait and cancels it."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("overdb.sync.Client called from its own event loop")
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # does nothing where it is done, and the error is its own
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the last coroutine, then end loop and thread. Again: nothing."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
            try:
                self.run(self._ended(last))
            finally:
                self.loop.call_soon_threadsafe(self.loop.stop)
                self._thread.join()

    async def _ended(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await last()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # calls of other threads: their answers, or errors, are set by now
            await asyncio.wait(others, timeout=1.0)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out one harmless report: two loops of a process both wake up for a gRPC event."""
    if isinstance(context.get("exception"), BlockingIOError):
        return
    loop.default_exception_handler(context)


_open: weakref.WeakSet[Client] = weakref.WeakSet()


class Client(Administration, Uncopied):
    """A connection to an OverDB cluster, for blocking code; any number of threads may share it.

        with Client("localhost:7400") as client:
            version = client.put(b"greeting", b"hello")
            found = client.get(b"greeting")

    Methods, arguments, units and errors are those of :class:`overdb.Client`. RuntimeError in a
    forked child: make the client after the fork.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = "localhost:7400",
        *,
        timeout: float = 5.0,
        limits: Limits | None = None,
        direct: bool = False,
    ) -> None:
        """See :class:`overdb.Client`. Starts the background thread; connects at the first call."""
        self._loop: _Loop | None = None
        _forks.check_grpc()
        self._forks = _forks.count
        self._limits = limits or Limits()
        self._timeout = timeout
        self._client = asynchronous.Client(
            endpoints, timeout=timeout, limits=self._limits, direct=direct
        )
        self._loop = _Loop()
        _open.add(self)

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        loop = self._loop
        try:
            _forks.check(self._forks)
            if loop is None or loop.closed:
                raise ClientClosed("the client is closed: make a new one; not run")
        except BaseException:
            coroutine.close()
            raise
        return loop.run(coroutine)

    def get(
        self,
        key: bytes,
        *,
        version: int | None = None,
        consistency: Consistency = Consistency.STRICT,
        timeout: float | None = None,
    ) -> Value | None:
        """Return what a key holds, None if nothing. See :meth:`overdb.Client.get`."""
        return self._run(
            self._client.get(key, version=version, consistency=consistency, timeout=timeout)
        )

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        timeout: float | None = None,
        request_id: RequestId | None = None,
    ) -> int:
        """Write a key; return the version of the write. See :meth:`overdb.Client.put`."""
        return self._run(self._client.put(key, value, timeout=timeout, request_id=request_id))

    def delete(
        self,
        key: bytes,
        *,
        timeout: float | None = None,
        request_id: RequestId | None = None,
    ) -> Deleted:
        """Delete a key. See :meth:`overdb.Client.delete`."""
        return self._run(self._client.delete(key, timeout=timeout, request_id=request_id))

    def transact(
        self,
        compares: Sequence[Compare] = (),
        then: Sequence[Operation] = (),
        otherwise: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
        request_id: RequestId | None = None,
    ) -> TransactResult:
        """Run one of two lists of operations atomically. See :meth:`overdb.Client.transact`."""
        return self._run(
            self._client.transact(compares, then, otherwise, timeout=timeout, request_id=request_id)
        )

    def transaction(self, *, timeout: float | None = None) -> Transaction:
        """Begin a transaction that reads before it decides what to write.

            with client.transaction() as t:
                stock = t.get(b"stock")
                if stock is not None:
                    t.put(b"stock", b"%d" % (int(stock.value) - 1))

        See :meth:`overdb.Client.transaction`.
        """

        async def begin() -> AsyncTransaction:
            return self._client.transaction(timeout=timeout)

        return Transaction(self._run(begin()), self._run, self._items)

    def run(
        self,
        fn: Callable[[Transaction], _T],
        *,
        timeout: float = RUN_SECONDS,
        attempts: int = RUN_ATTEMPTS,
    ) -> _T:
        """Run ``fn(t)`` in a transaction, again until it commits; return its result.

        ``fn`` is called in this thread. See :meth:`overdb.Client.run`.
        """
        tries = Tries(timeout, attempts, self._limits)
        while True:
            inner = AsyncTransaction(self._client, self._timeout, tries.deadline)
            transaction = Transaction(inner, self._run, self._items)
            try:
                result = fn(transaction)
            except BaseException as error:
                transaction.discard()
                pause = tries.pause_seconds() if outlived(inner, error) else None
                if pause is None:
                    raise
                time.sleep(pause)
                continue
            pause = transaction.settle(tries)
            if pause is None:
                return result
            time.sleep(pause)

    def scan(
        self,
        start: bytes = b"",
        end: bytes = b"",
        *,
        prefix: bytes | None = None,
        limit: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
        version: int | None = None,
        consistency: Consistency = Consistency.STRICT,
        timeout: float | None = None,
    ) -> Iterator[KeyValue]:
        """Iterate over keys in order. See :meth:`overdb.Client.scan`."""

        async def begin() -> Any:
            return self._client.scan_pages(
                start,
                end,
                prefix=prefix,
                limit=limit,
                reverse=reverse,
                keys_only=keys_only,
                version=version,
                consistency=consistency,
                timeout=timeout,
            )

        return self._items(self._run(begin()))

    def _items(self, pages: Any) -> Iterator[KeyValue]:
        async def following() -> list[KeyValue]:
            page: list[KeyValue] = await anext(pages, [])
            return page

        async def end() -> None:
            await pages.aclose()

        try:
            while page := self._run(following()):
                yield from page
        finally:
            loop = self._loop
            if loop is not None and not loop.closed and self._forks == _forks.count:
                loop.submit(end())  # nobody waits: the iterator may end while it is collected

    def status(self, *, timeout: float | None = None) -> ClusterStatus:
        """Ask how the cluster does. See :meth:`overdb.Client.status`."""
        return self._run(self._client.status(timeout=timeout))

    def locate(self, key: bytes, *, timeout: float | None = None) -> Location:
        """Ask where a key lives. See :meth:`overdb.Client.locate`."""
        return self._run(self._client.locate(key, timeout=timeout))

    def members(
        self, group: int | None = None, *, timeout: float | None = None
    ) -> tuple[GroupMembers, ...]:
        """Ask for the members of one group, or of all. See :meth:`overdb.Client.members`."""
        return self._run(self._client.members(group, timeout=timeout))

    def transactions(
        self, group: int | None = None, *, timeout: float | None = None
    ) -> tuple[GroupTransactions, ...]:
        """Ask which transactions are open. See :meth:`overdb.Client.transactions`."""
        return self._run(self._client.transactions(group, timeout=timeout))

    def transaction_status(
        self, request_id: RequestId, *, timeout: float | None = None
    ) -> TransactionStatus:
        """Ask what became of a transaction. See :meth:`overdb.Client.transaction_status`."""
        return self._run(self._client.transaction_status(request_id, timeout=timeout))

    def close(self) -> None:
        """End the connection and the thread. Open calls of other threads fail clearly."""
        loop = self._loop
        if loop is None or loop.closed:
            return
        _forks.check(self._forks)
        _open.discard(self)
        loop.close(self._client.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)
        if loop is None or loop.closed or self._forks != _forks.count:
            return
        warnings.warn(
            f"{self!r} was not closed: use 'with' or its close()",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        # The collector may run in any thread, the client's own included: nobody may wait here.
        client = self._client
        threading.Thread(target=loop.close, args=(client.close,), daemon=True).start()

    def __repr__(self) -> str:
        return f"<overdb.sync.{self._client!r}>".replace("<Client", "Client", 1).replace(">>", ">")


@atexit.register
def _close_all() -> None:
    """End the threads of clients that were not closed, before the interpreter takes itself apart."""
    for client in list(_open):
        if client._forks == _forks.count:  # noqa: SLF001  (of this module)
            client.close()
