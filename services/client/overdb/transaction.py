"""Transactions that read first and decide then: one snapshot, buffered writes, one commit.

The servers only know one-shot transactions (PROTOCOL 2). So the commit is one: *if every key that was
read is still at the version that was read, write*. Everything before it only reads, at one version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from overdb._call import checked_bytes, checked_range
from overdb._copies import Uncopied
from overdb._workspace import Workspace, hidden_by, merged
from overdb.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    OutcomeUnknown,
    OutOfRange,
    OverDBError,
    TransactionConflict,
    Unimplemented,
)
from overdb.operations import KeyValue, Value
from overdb.status import TransactionState

if TYPE_CHECKING:
    from types import TracebackType

    from overdb._tries import Tries
    from overdb.client import Client
    from overdb.ids import RequestId
    from overdb.operations import Compare, Operation, TransactResult

_BLAME_AT_ONCE = 16  # keys read in one go to find the one that changed
_BLAME_KEYS_MAX = 64


class Transaction(Uncopied):
    """One transaction of a client; made by :meth:`overdb.Client.transaction`, or given by ``run``.

    Reads are all at one version of the whole store, taken at the first of them (it covers all that
    was acknowledged before), and see the transaction's own writes. Writes are kept here, and travel
    at the end: they are written, at once and over any keys, if **no key that was read has changed**
    since (a key that was missing: is missing still). Then the transaction is strictly serializable.
    Otherwise it is a :class:`~overdb.errors.TransactionConflict`, and nothing was written.

    A transaction that writes nothing ends without a request: its reads were one moment already.

    **Limit: keys that appear in a scanned range are not noticed.** Each key that a scan *gave* is
    compared at the commit; a key that another transaction newly inserts into the range is not, and
    neither is a range that was empty. Where that matters keep a marker key per range: who inserts
    also writes it, who scans also gets it. (A transaction that only reads has no such limit.)

    Reads and writes together count for the limits of a commit: 1,024 of them and 4 MiB, keys with
    values; InvalidArgument beyond. Old versions are kept for an hour: reads of a transaction that is
    older raise FailedPrecondition. One task, or thread, at a time.
    """

    def __init__(self, client: Client, seconds: float, deadline: float = float("inf")) -> None:
        """``seconds``: of each request; ``deadline``: of all, on the monotonic clock."""
        self._client = client
        self._seconds = seconds
        self._deadline = deadline
        self._pinning = asyncio.Lock()
        self._read_version: int | None = None
        self._commit_version: int | None = None
        # A read was refused because the version that is read at is no longer kept.
        self.outlived = False
        self._ended = ""
        self._lost: Aborted | None = None
        self._work = Workspace()
        self._compares: list[Compare] = []
        self._operations: list[Operation] = []

    @property
    def read_version(self) -> int | None:
        """The version that is read at; None before the first read."""
        return self._read_version

    @property
    def commit_version(self) -> int | None:
        """The version of all its writes; None before the commit, or if it wrote nothing."""
        return self._commit_version

    # -- reads --------------------------------------------------------------------------------

    async def get(self, key: bytes) -> Value | None:
        """Return what a key holds, None if nothing. Of a write of one's own the version is 0.

        Errors are those of :meth:`overdb.Client.get`; RuntimeError when the transaction has ended.
        """
        self._check_open()
        if not checked_bytes("key", key):
            raise InvalidArgument("key is empty: a key has at least 1 byte")
        if key in self._work.writes:
            written = self._work.writes[key]
            return None if written is None else Value(written, 0)
        async with self._pinning:
            if self._read_version is None:
                value = await self._first_get(key)
                self._work.versions[key] = 0 if value is None else value.version
                return value
        with self._noticing_its_end():
            value = await self._client.get(key, version=self._read_version, timeout=self._timeout())
        self._work.versions[key] = 0 if value is None else value.version
        return value

    async def _first_get(self, key: bytes) -> Value | None:
        """Read a key as a range of one: that takes a version over all groups in the same request."""
        pages = self._client.scan_pages(
            key, key + b"\0", timeout=self._timeout(), on_version=self._pin
        )
        found = [item async for page in pages for item in page]
        return Value(found[0].value, found[0].version) if found else None

    def scan(
        self,
        start: bytes = b"",
        end: bytes = b"",
        *,
        prefix: bytes | None = None,
        limit: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> AsyncIterator[KeyValue]:
        """Iterate over the keys in ``[start, end)``, in order, merged with the own writes.

        Arguments and errors are those of :meth:`overdb.Client.scan`. Own writes are those made
        before this call; they have version 0. What is iterated over counts as read (see
        the class for what does not: keys that others insert into the range).
        """
        pages = self.scan_pages(
            start, end, prefix=prefix, limit=limit, reverse=reverse, keys_only=keys_only
        )
        return self._items(pages)

    async def _items(self, pages: AsyncIterator[list[KeyValue]]) -> AsyncIterator[KeyValue]:
        async for page in pages:
            for item in page:
                self.note(item)
                yield item

    def scan_pages(
        self,
        start: bytes = b"",
        end: bytes = b"",
        *,
        prefix: bytes | None = None,
        limit: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> AsyncIterator[list[KeyValue]]:
        """As ``scan``, by pages; what is used of them must be noted (``note``) to count as read."""
        self._check_open()
        start, end = checked_range(start, end, prefix)
        own = self._work.own(start, end, reverse=reverse)

        def stored() -> AsyncIterator[list[KeyValue]]:
            return self._client.scan_pages(
                start,
                end,
                limit=limit + hidden_by(own) if limit else 0,
                reverse=reverse,
                keys_only=keys_only,
                version=self._read_version,
                timeout=self._timeout(),
                on_version=self._pin,
            )

        def pages() -> AsyncGenerator[list[KeyValue], None]:
            return merged(stored(), own, limit=limit, reverse=reverse, keys_only=keys_only)

        return self._pages(pages)

    async def _pages(
        self, begin: Callable[[], AsyncGenerator[list[KeyValue], None]]
    ) -> AsyncIterator[list[KeyValue]]:
        async with self._pinning:
            self._check_open()
            pages = begin()
            with self._noticing_its_end():
                page = await anext(pages, None)  # when it is here the version is known
        async with aclosing(pages):
            while page is not None:
                yield page
                self._check_open()
                with self._noticing_its_end():
                    page = await anext(pages, None)

    @contextmanager
    def _noticing_its_end(self) -> Iterator[None]:
        try:
            yield
        except FailedPrecondition:
            self.outlived = True
            raise

    def note(self, item: KeyValue) -> None:
        """Count an item of ``scan_pages`` as read."""
        self._work.note(item)

    def _pin(self, version: int) -> None:
        if self._read_version is None:
            self._read_version = version

    # -- writes -------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        """Write a key, at the commit. TypeError for what is not bytes."""
        self._check_open()
        self._work.writes[checked_bytes("key", key)] = checked_bytes("value", value)

    def delete(self, key: bytes) -> None:
        """Delete a key, at the commit; one that is missing is no error."""
        self._check_open()
        self._work.writes[checked_bytes("key", key)] = None

    # -- the end ------------------------------------------------------------------------------

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
        else:
            await self.commit()

    def discard(self) -> None:
        """End it without writing anything. Ended already: nothing."""
        self._ended = self._ended or "was discarded"

    async def commit(self) -> None:
        """Write what was put and deleted, if nothing that was read has changed.

        The end of an ``async with`` does it. TransactionConflict: something has changed (``key``
        names the first that has, where it can be told), nothing was written; Aborted: a rival was
        in the way, nothing was written. OutcomeUnknown: no answer, it may be written or not;
        ``transaction_status(error.request_id)`` tells.
        """
        if not self._prepared():
            return
        try:
            await self._send(None)
        except TransactionConflict:
            raise await self._conflict() from None

    async def settle(self, tries: Tries) -> float | None:
        """Commit for ``run``: None when that is done, else the pause in seconds before trying anew.

        An unknown outcome is found out first, with the same id. Raises the conflict after the last
        try, OutcomeUnknown when the time is over before it is known.
        """
        if not self._prepared():
            return None
        try:
            try:
                await self._send(None)
            except OutcomeUnknown as unknown:
                await self._find_out(unknown, tries)
        except Aborted as lost:
            self._lost = lost
            pause = tries.pause_seconds()
            if pause is None:
                raise await self.lost(tries) from None
            return pause
        return None

    async def lost(self, tries: Tries) -> Aborted:
        """Return why ``settle`` asked for another try: a conflict, or a rival in the way."""
        if isinstance(self._lost, TransactionConflict):
            return await self._conflict(tries)
        assert self._lost is not None
        return self._lost

    def _prepared(self) -> bool:
        """End reading and writing; return whether there is anything to send."""
        self._check_open()
        self._ended = "has ended"
        self._operations = self._work.operations()
        self._compares = self._work.compares()
        return bool(self._operations)

    async def _send(self, request_id: RequestId | None) -> None:
        """Send the commit, or repeat it under its id."""
        self._take(
            await self._client.transact(
                self._compares, self._operations, timeout=self._timeout(), request_id=request_id
            )
        )

    def _take(self, result: TransactResult) -> None:
        if not result.succeeded:
            raise TransactionConflict("a key that was read has changed")
        self._commit_version = result.version

    async def _find_out(self, unknown: OutcomeUnknown, tries: Tries) -> None:
        """Repeat the same request, and ask for it, until it is known what became of it.

        Returns when it is written. Raises what says that it is not, or the OutcomeUnknown.
        """
        request_id, failures = unknown.request_id, 0
        while (pause := tries.backoff_seconds(failures)) < tries.remaining_seconds():
            await asyncio.sleep(pause)
            failures += 1
            try:
                await self._send(request_id)
            except (TransactionConflict, InvalidArgument, OutOfRange, Unimplemented):
                raise  # the same for every copy: it did nothing
            except OverDBError:
                if await self._is_known(request_id):
                    return
            else:
                return
        raise unknown

    async def _is_known(self, request_id: RequestId) -> bool:
        """Ask what became of the commit; True: it is written. Aborted: it is not, and will not be."""
        try:
            status = await self._client.transaction_status(request_id, timeout=self._timeout())
        except OverDBError:
            return False
        if status.state is TransactionState.ABORTED:
            raise Aborted("the commit was aborted: a rival transaction was in the way; not run")
        if status.state is not TransactionState.COMMITTED or status.result is None:
            return False
        self._take(status.result)
        return True

    async def _conflict(self, tries: Tries | None = None) -> TransactionConflict:
        """Return the error, with the key to blame if one of the first that were read has changed."""
        try:
            key = await self._changed_key()
        except OverDBError:
            key = None
        which = "a key that was read" if key is None else f"key {key!r}"
        often = "" if tries is None else f" in each of {tries.made} attempts"
        return TransactionConflict(
            f"transaction conflict{often}: {which} was changed by another transaction meanwhile; "
            "nothing was written: run it again, on new reads",
            key=key,
        )

    async def _changed_key(self) -> bytes | None:
        seconds = min(self._seconds, 1.0)  # it is only for the message
        versions = list(self._work.versions.items())[:_BLAME_KEYS_MAX]
        for at in range(0, len(versions), _BLAME_AT_ONCE):
            some = versions[at : at + _BLAME_AT_ONCE]
            reads = (self._client.get(key, timeout=seconds) for key, _ in some)
            found = await asyncio.gather(*reads)
            for (key, version), value in zip(some, found, strict=True):
                if (0 if value is None else value.version) != version:
                    return key
        return None

    def _timeout(self) -> float:
        """Return the seconds for the next request, at least a little."""
        return max(0.001, min(self._seconds, self._deadline - time.monotonic()))

    def _check_open(self) -> None:
        if self._ended:
            raise RuntimeError(f"this transaction {self._ended}: begin another one")
