"""The blocking twin of a transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from overdb import transaction as asynchronous
from overdb._copies import Uncopied
from overdb.operations import KeyValue, Value

if TYPE_CHECKING:
    from types import TracebackType

    from overdb._tries import Tries

_T = TypeVar("_T")
_Pages = AsyncIterator[list[KeyValue]]


class Run(Protocol):
    """Runs a coroutine on the client's loop and waits for it."""

    def __call__(self, coroutine: Coroutine[Any, Any, _T]) -> _T: ...


class Transaction(Uncopied):
    """One transaction of a blocking client; made by :meth:`overdb.sync.Client.transaction`.

    What is read, compared and promised, with all limits: :class:`overdb.Transaction`.
    """

    def __init__(
        self,
        transaction: asynchronous.Transaction,
        run: Run,
        items: Callable[[_Pages], Iterator[KeyValue]],
    ) -> None:
        """``items``: gives the items of pages one by one."""
        self._transaction = transaction
        self._run = run
        self._given = items

    @property
    def read_version(self) -> int | None:
        """The version that is read at; None before the first read."""
        return self._transaction.read_version

    @property
    def commit_version(self) -> int | None:
        """The version of all its writes; None before the commit, or if it wrote nothing."""
        return self._transaction.commit_version

    def get(self, key: bytes) -> Value | None:
        """Return what a key holds, None if nothing. See :meth:`overdb.Transaction.get`."""
        return self._run(self._transaction.get(key))

    def scan(
        self,
        start: bytes = b"",
        end: bytes = b"",
        *,
        prefix: bytes | None = None,
        limit: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> Iterator[KeyValue]:
        """Iterate over keys in order. See :meth:`overdb.Transaction.scan`."""

        async def begin() -> _Pages:
            return self._transaction.scan_pages(
                start, end, prefix=prefix, limit=limit, reverse=reverse, keys_only=keys_only
            )

        return self._noted(self._given(self._run(begin())))

    def _noted(self, items: Iterator[KeyValue]) -> Iterator[KeyValue]:
        for item in items:
            self._transaction.note(item)
            yield item

    def put(self, key: bytes, value: bytes) -> None:
        """Write a key, at the commit. See :meth:`overdb.Transaction.put`."""
        self._transaction.put(key, value)

    def delete(self, key: bytes) -> None:
        """Delete a key, at the commit. See :meth:`overdb.Transaction.delete`."""
        self._transaction.delete(key)

    def discard(self) -> None:
        """End it without writing anything. Ended already: nothing."""
        self._transaction.discard()

    def commit(self) -> None:
        """Write what was put and deleted. See :meth:`overdb.Transaction.commit`."""
        self._run(self._transaction.commit())

    def settle(self, tries: Tries) -> float | None:
        """Commit for ``run``. See :meth:`overdb.Transaction.settle`."""
        return self._run(self._transaction.settle(tries))

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
        else:
            self.commit()
