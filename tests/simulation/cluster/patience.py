"""A client that takes a refusal by a group's wrong time for what it is: nothing was done, try again later."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import overdb

# The last one is of groups that have not come to level 1 yet.
_WORDS = ("expired", "clock", "no longer kept", "too far ahead: the latest that is taken is")


class _Patient:
    def __init__(self, client: overdb.Client, time_was_wrong: Callable[[], bool]) -> None:
        self._client = client
        self._time_was_wrong = time_was_wrong

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name == "scan":
            return self._scan
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: Any, **options: Any) -> Any:
            try:
                return await method(*arguments, **options)
            except (overdb.FailedPrecondition, overdb.InvalidArgument) as error:
                # Of a repeated request it says that its outcome is not known any more.
                if "request_id" in options:
                    raise
                raise self._translated(error) from error

        return call

    async def _scan(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        try:
            async for item in self._client.scan(*arguments, **options):
                yield item
        except (overdb.FailedPrecondition, overdb.InvalidArgument) as error:
            raise self._translated(error) from error

    def _translated(self, error: overdb.OverDBError) -> overdb.OverDBError:
        wrong = self._time_was_wrong() and _by_time(error)
        return overdb.Unavailable(str(error)) if wrong else error


def patient(client: overdb.Client, time_was_wrong: Callable[[], bool]) -> overdb.Client:
    """Return the client with refusals of expired ids as Unavailable, while a group's time was wrong."""
    return cast("overdb.Client", _Patient(client, time_was_wrong))


def _by_time(error: overdb.OverDBError) -> bool:
    return any(words in str(error) for words in _WORDS)
