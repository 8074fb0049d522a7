"""The asyncio client."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from overdb import _forks
from overdb._administration import Administration
from overdb._batch import Batcher
from overdb._call import (
    checked_bytes,
    checked_range,
    fill_delete,
    fill_get,
    fill_get_at,
    fill_put,
    fill_transact,
    transact_request,
    transact_result,
)
from overdb._copies import Uncopied
from overdb._endpoints import Routers, parse_endpoints
from overdb._limits import TIMEOUT_SECONDS_MAX, Limits
from overdb._tries import RUN_ATTEMPTS, RUN_SECONDS, Tries, outlived
from overdb._unary import Attempts, ask, scan_pages
from overdb.errors import ClientClosed, InvalidArgument
from overdb.ids import RequestId
from overdb.operations import Compare, Consistency, KeyValue, Operation
from overdb.status import (
    ClusterStatus,
    GroupMembers,
    GroupTransactions,
    Location,
    TransactionState,
    TransactionStatus,
    cluster_status,
    group_members,
    group_transactions,
    location,
)
from overdb.transaction import Transaction
from overdb.v1 import cluster_pb2, kv_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from overdb.operations import Deleted, TransactResult, Value

_VERSION_MAX = 2**64 - 1
_T = TypeVar("_T")


class Client(Administration, Uncopied):
    """A connection to an OverDB cluster, for asyncio.

        async with Client("localhost:7400") as client:
            version = await client.put(b"greeting", b"hello")
            found = await client.get(b"greeting")

    Calls may run at once, as many as you like, from any task of one event loop: what waits at the
    same moment travels in one message. Nothing is sent before the first call.

    Keys and values are bytes. Every call takes ``timeout`` in seconds, by default the client's;
    within it the client retries what is safe to retry, over all endpoints. Writes carry an id, so
    that a retry never runs twice. Raises (all are :class:`~overdb.errors.OverDBError`):

    - ``InvalidArgument``: empty or too long key, too long value, ...: the message says which limit;
    - ``Unavailable``: no router or no leader in time; certainly not run;
    - ``DeadlineExceeded``: a read without an answer, or a write that was never sent; not run;
    - ``OutcomeUnknown``: a write that was sent and not answered; repeat it with ``request_id``;
    - ``ResourceExhausted``: a queue or a disk is full (after retries); not run;
    - ``ClientClosed``: the client was closed before the call was sent.

    TypeError for a key or value that is not bytes. RuntimeError when the client is used from another
    event loop than the one of its first call, or in a forked child.

    Cancelling a call (also by ``asyncio.timeout``) stops the wait, not the write: once sent it may
    still run. Pass ``timeout`` instead where you need to know.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = "localhost:7400",
        *,
        timeout: float = 5.0,
        limits: Limits | None = None,
        direct: bool = False,
    ) -> None:
        """Prepare a client; connects at the first call.

        ``endpoints``: routers as ``host:port`` (port 7400 if left out), a list or one string with
        commas. One is used at a time, at first a random one; the others take over when it fails.
        ``timeout``: default deadline of a call in seconds, above 0 and at most 3600.
        ``direct``: send what a single group answers straight to its leader, for lower latency, where
        this process can reach the nodes at their own addresses. The rest, and everything that does not
        go smoothly there, travels through the router, with the same ids.
        """
        _forks.check_grpc()
        self._direct = direct
        self._batcher: Batcher | None = None
        self._routers: Routers | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._addresses = parse_endpoints(endpoints)
        self._limits = limits or Limits()
        self._timeout = _checked_timeout(timeout)
        self._forks = _forks.count

    # -- single keys --------------------------------------------------------------------------

    async def get(
        self,
        key: bytes,
        *,
        version: int | None = None,
        consistency: Consistency = Consistency.STRICT,
        timeout: float | None = None,
    ) -> Value | None:
        """Return what a key holds, None if nothing.

        With ``version``: what it held at that version (a SNAPSHOT read), for as long as old versions
        are kept; FailedPrecondition after that, InvalidArgument for a version of the future.
        """
        batcher = self._ready()
        checked_bytes("key", key)
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        value: Value | None
        if version is None and consistency is Consistency.STRICT:
            value = await batcher.read(fill_get, key, None, seconds)
        else:
            options = _read_options(version, consistency)
            value = await batcher.read(fill_get_at, key, options, seconds)
        return value

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        timeout: float | None = None,
        request_id: RequestId | None = None,
    ) -> int:
        """Write a key; return the version of the write.

        ``request_id``: that of an OutcomeUnknown for the same key and value, to repeat it safely.
        """
        batcher = self._ready()
        size = len(checked_bytes("key", key)) + len(checked_bytes("value", value))
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        if request_id is not None:
            _check_request_id(request_id)
        version: int = await batcher.write(fill_put, key, value, size, seconds, request_id)
        return version

    async def delete(
        self,
        key: bytes,
        *,
        timeout: float | None = None,
        request_id: RequestId | None = None,
    ) -> Deleted:
        """Delete a key; return the version of the delete and whether there was a value."""
        batcher = self._ready()
        size = len(checked_bytes("key", key))
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        if request_id is not None:
            _check_request_id(request_id)
        deleted: Deleted = await batcher.write(fill_delete, key, None, size, seconds, request_id)
        return deleted

    # -- many keys ----------------------------------------------------------------------------

    async def transact(
        self,
        compares: Sequence[Compare] = (),
        then: Sequence[Operation] = (),
        otherwise: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
        request_id: RequestId | None = None,
    ) -> TransactResult:
        """Run ``then`` if all compares hold, else ``otherwise``, as one atomic step.

            await client.transact(
                [Compare.value(b"owner", "==", b"me")],
                then=[Put(b"owner", b"you"), Add(b"moves")],
                otherwise=[Get(b"owner")],
            )

        Any keys, wherever they live. Compares see the state before; operations run in order and see
        each other. At most 1,024 compares and operations, and 4 MiB. The client gives it an id, and
        repeats it under that id, through another router too, until ``timeout`` seconds are over.

        InvalidArgument also for an ``Add`` to what is no number, OutOfRange for a sum outside of 64
        bits: nothing was done then. Aborted: a rival transaction was in the way (the message names
        it), nothing was done. OutcomeUnknown: it may have run, or run yet: ask
        ``transaction_status(error.request_id)``, or pass ``request_id=error.request_id`` with the
        same arguments to repeat it safely.
        """
        batcher = self._ready()
        try:
            request = transact_request(compares, then, otherwise)
        except ValueError as error:  # a number that its field cannot hold
            raise InvalidArgument(f"transaction: {error}") from None
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        if request_id is not None:
            _check_request_id(request_id)
        result: TransactResult = await batcher.write(
            fill_transact, b"", request, request.ByteSize(), seconds, request_id
        )
        return result

    def transaction(self, *, timeout: float | None = None) -> Transaction:
        """Begin a transaction that reads before it decides what to write.

            async with client.transaction() as t:
                stock = await t.get(b"stock")
                if stock is not None and int(stock.value) > 0:
                    t.put(b"stock", b"%d" % (int(stock.value) - 1))
                    t.put(b"order", b"1 piece")

        The writes travel at the end of the block, if nothing that was read has changed meanwhile:
        otherwise the block raises TransactionConflict, and nothing was written. An exception inside
        of the block discards them too. OutcomeUnknown at the end: see ``transact``. Nothing is sent
        before the first read. ``timeout``: seconds for each request. What is compared, and what a
        scan does not notice: :class:`~overdb.Transaction`. ``run`` also repeats the block.
        """
        self._ready()
        return Transaction(self, self._timeout if timeout is None else _checked_timeout(timeout))

    async def run(
        self,
        fn: Callable[[Transaction], Awaitable[_T]],
        *,
        timeout: float = RUN_SECONDS,
        attempts: int = RUN_ATTEMPTS,
    ) -> _T:
        """Run ``fn(t)`` in a transaction, again and again until it commits; return its result.

            async def take(t: Transaction) -> int:
                stock = await t.get(b"stock")
                left = int(stock.value) - 1 if stock else 0
                t.put(b"stock", b"%d" % left)
                return left

            left = await client.run(take)

        ``fn`` is called once per attempt, with a new transaction, so it should have no effects
        besides it; an exception of ``fn`` discards the writes and is raised as it is. After a
        conflict it waits (20 ms at first, doubling up to 1 s, with jitter, see ``Limits``) and calls
        ``fn`` again, also when the version that it reads at is no longer kept (the machine was
        suspended), for ``timeout`` seconds and ``attempts`` calls at most; then it raises that
        TransactionConflict (or Aborted): nothing was written. So it does when the time ends a
        request of a later attempt. An ``fn`` that is slow by itself is not interrupted.

        A commit whose answer is lost is never run anew: the same request is repeated under its id
        until it is known what became of it, and only when ``timeout`` comes first this raises
        OutcomeUnknown, whose ``request_id`` serves ``transaction_status``. Other errors are those
        of ``transact`` and ``get``.
        """
        self._ready()
        tries = Tries(timeout, attempts, self._limits)
        before: Transaction | None = None
        while True:
            transaction = Transaction(self, self._timeout, tries.deadline)
            try:
                result = await fn(transaction)
                pause = await transaction.settle(tries)
            except BaseException as error:
                transaction.discard()
                pause = tries.pause_seconds() if outlived(transaction, error) else None
                if pause is None:
                    if before is None or not tries.ended_by(error):
                        raise
                    raise await before.lost(tries) from error
                await asyncio.sleep(pause)
                continue
            if pause is None:
                return result
            before = transaction
            await asyncio.sleep(pause)

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
    ) -> AsyncIterator[KeyValue]:
        """Iterate over the keys in ``[start, end)``, in order, as of one version of the whole store.

        ``end`` empty: to the last key. ``prefix``: all keys that begin so, instead of start and end.
        ``limit`` 0: no limit. ``timeout``: seconds for each page, not for the scan. A scan that
        breaks goes on where it was, at the same version, through any router.
        """
        pages = self.scan_pages(
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
        return _items(pages)

    def scan_pages(
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
        on_version: Callable[[int], None] | None = None,
    ) -> AsyncIterator[list[KeyValue]]:
        """As ``scan``, by pages as they arrive: at most 1 MiB each, never empty.

        ``on_version`` is called with the version that is read at, before the first page is given;
        also where there is none because the range is empty.
        """
        batcher = self._ready()
        start, end = checked_range(start, end, prefix)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= _VERSION_MAX:
            raise InvalidArgument(f"scan: limit {limit!r} is not a number from 0 (no limit) on")
        request = kv_pb2.ScanRequest(
            start=start,
            end=end,
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
        )
        if version is not None or consistency is not Consistency.STRICT:
            read = request.read
            options = _read_options(version, consistency)
            read.consistency = kv_pb2.Consistency.ValueType(options[0])
            read.version = options[1]
        return scan_pages(
            self._attempts(timeout), batcher.unreachable, request, on_version or _ignore
        )

    # -- the cluster --------------------------------------------------------------------------

    async def status(self, *, timeout: float | None = None) -> ClusterStatus:
        """Ask how the cluster does. Replicas that are down are listed, they are no error."""
        batcher = self._ready()
        return cluster_status(
            await ask(
                self._attempts(timeout),
                batcher.unreachable,
                lambda router: router.cluster.Status,
                cluster_pb2.StatusRequest(),
            )
        )

    async def locate(self, key: bytes, *, timeout: float | None = None) -> Location:
        """Ask where a key lives: slot, group, leader."""
        batcher = self._ready()
        return location(
            await ask(
                self._attempts(timeout),
                batcher.unreachable,
                lambda router: router.cluster.Locate,
                cluster_pb2.LocateRequest(key=checked_bytes("key", key)),
            )
        )

    async def members(
        self, group: int | None = None, *, timeout: float | None = None
    ) -> tuple[GroupMembers, ...]:
        """Ask for the members of one group, or of all. NotFound for a group that does not exist."""
        batcher = self._ready()
        request = cluster_pb2.MembersRequest()
        if group is not None:
            request.group = _checked_group(group)
        return group_members(
            await ask(
                self._attempts(timeout),
                batcher.unreachable,
                lambda router: router.cluster.Members,
                request,
            )
        )

    async def transactions(
        self, group: int | None = None, *, timeout: float | None = None
    ) -> tuple[GroupTransactions, ...]:
        """Ask which transactions over several groups are open, in one group or in all of them.

        Each group is listed as its leader sees it; one without a leader that answers has
        ``reachable`` False. NotFound for a group that does not exist.
        """
        batcher = self._ready()
        request = cluster_pb2.TransactionsRequest()
        if group is not None:
            request.group = _checked_group(group)
        return group_transactions(
            await ask(
                self._attempts(timeout),
                batcher.unreachable,
                lambda router: router.cluster.Transactions,
                request,
            )
        )

    async def transaction_status(
        self, request_id: RequestId, *, timeout: float | None = None
    ) -> TransactionStatus:
        """Ask what became of a transaction, or of any write, by the id that OutcomeUnknown carries.

        ``state`` COMMITTED: it ran, ``result`` is what ``transact`` returned or would have. ABORTED:
        it did nothing and never will. OPEN: not decided yet, ask again. UNKNOWN: never seen, or
        forgotten, which says nothing: repeat the write with its id instead. Works for about an hour
        after the write, and only until later writes of the same client acknowledge it.
        """
        batcher = self._ready()
        _check_request_id(request_id)
        response = await ask(
            self._attempts(timeout),
            batcher.unreachable,
            lambda router: router.kv.TransactionStatus,
            kv_pb2.TransactionStatusRequest(id=kv_pb2.RequestId(**request_id._asdict())),
        )
        committed = response.HasField("response")
        return TransactionStatus(
            TransactionState(response.status or TransactionState.UNKNOWN),
            transact_result(response.response) if committed else None,
        )

    # -- the life of the client ---------------------------------------------------------------

    async def close(self) -> None:
        """End the connection. Open calls end now: OutcomeUnknown if sent, else ClientClosed."""
        if self._closed:
            return
        self._check_loop()
        self._closed = True
        if self._batcher is not None:
            await self._batcher.close()
            self._batcher = self._routers = None

    async def __aenter__(self) -> Client:
        self._ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        batcher = getattr(self, "_batcher", None)
        if batcher is None or self._closed or self._forks != _forks.count:
            return
        warnings.warn(
            f"{self!r} was not closed: use 'async with' or await its close()",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_close_later, loop, batcher)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {','.join(self._addresses)}>"

    def _ready(self) -> Batcher:
        """Return what carries the calls; on every call's path."""
        batcher = self._batcher
        if (
            batcher is None
            or self._closed
            or self._forks != _forks.count
            or asyncio.get_running_loop() is not self._loop
        ):
            return self._start()
        return batcher

    def _start(self) -> Batcher:
        """Bind the client to the running loop, or say why it cannot be used here."""
        if self._closed:
            raise ClientClosed("the client is closed: make a new one; not run")
        self._check_loop()
        if self._batcher is None:
            self._loop = asyncio.get_running_loop()
            self._routers = Routers(self._addresses, self._limits)
            self._batcher = Batcher(self._routers, self._limits, direct=self._direct)
        return self._batcher

    def _check_loop(self) -> None:
        _forks.check(self._forks)
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "this Client belongs to another event loop: make one in each loop, "
                "or use overdb.sync.Client, which any thread may call"
            )

    def _attempts(self, timeout: float | None) -> Attempts:
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        assert self._routers is not None  # set along with the batcher
        return Attempts(self._routers, self._limits, seconds)


async def _items(pages: AsyncIterator[list[KeyValue]]) -> AsyncIterator[KeyValue]:
    async for page in pages:
        for item in page:
            yield item


_closing: set[asyncio.Task[None]] = set()


def _close_later(loop: asyncio.AbstractEventLoop, batcher: Batcher) -> None:
    task = loop.create_task(batcher.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _ignore(_version: int) -> None:
    """Take a version that nobody asked for."""


def _checked_group(group: int) -> int:
    if isinstance(group, bool) or not isinstance(group, int) or not 0 <= group < 2**32:
        raise InvalidArgument(f"group {group!r} is not a number from 0 on")
    return group


def _checked_timeout(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidArgument(f"timeout {seconds!r} is not a number of seconds")
    if not 0 < seconds <= TIMEOUT_SECONDS_MAX:  # also refuses NaN
        raise InvalidArgument(
            f"timeout of {seconds} seconds: it must be above 0 and at most {TIMEOUT_SECONDS_MAX:g}"
        )
    return float(seconds)


def _read_options(version: int | None, consistency: Consistency) -> tuple[int, int]:
    """Return (consistency, version) as they travel; a version asks for a snapshot by itself."""
    if not isinstance(consistency, Consistency):
        raise InvalidArgument(f"consistency {consistency!r}: use Consistency.STRICT or another")
    if version is None:
        return int(consistency), 0
    if (
        isinstance(version, bool)
        or not isinstance(version, int)
        or not 1 <= version <= _VERSION_MAX
    ):
        raise InvalidArgument(f"version {version!r} is not a number from 1 on")
    if consistency is Consistency.STALE:
        raise InvalidArgument("a stale read has no version: leave one of the two out")
    return int(Consistency.SNAPSHOT), version


def _check_request_id(request_id: Any) -> None:
    if not isinstance(request_id, RequestId):
        raise TypeError(f"request_id must be a RequestId, not {type(request_id).__name__}")
    client_id, number, started_at, below = request_id
    numbers = all(isinstance(n, int) and 0 <= n <= _VERSION_MAX for n in request_id[1:])
    if len(checked_bytes("client_id of request_id", client_id)) != 16:
        raise InvalidArgument(f"request_id: client_id has {len(client_id)} bytes, it must have 16")
    if not numbers or number < 1 or below > number:
        raise InvalidArgument(
            f"request_id: number {number}, started_at {started_at}, acknowledged_below {below} "
            "do not belong together: pass on the id of an OutcomeUnknown as it is"
        )
