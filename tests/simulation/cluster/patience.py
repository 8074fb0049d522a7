"""A client that takes a refusal by time for what it is: nothing was done, try again later.

A group's time was wrong; or a call took longer than old versions are kept, and its version is gone.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import overdb

_GONE = "no longer kept"
# The last one is of groups that have not come to level 1 yet.
_WORDS = ("expired", "clock", _GONE, "too far ahead: the latest that is taken is")


class _Patient:
    def __init__(
        self, client: overdb.Client, time_was_wrong: Callable[[], bool], kept_seconds: float
    ) -> None:
        self._client = client
        self._kept_seconds = kept_seconds
        self._time_was_wrong = time_was_wrong

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name == "scan":
            return self._scan
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: Any, **options: Any) -> Any:
            began = _now()
            try:
                return await method(*arguments, **options)
            except (overdb.FailedPrecondition, overdb.InvalidArgument) as error:
                # Of a repeated request it says that its outcome is not known any more.
                if "request_id" in options:
                    raise
                raise self._translated(error, began) from error

        return call

    async def _scan(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        began = _now()
        try:
            async for item in self._client.scan(*arguments, **options):
                yield item
        except (overdb.FailedPrecondition, overdb.InvalidArgument) as error:
            raise self._translated(error, began) from error

    def _translated(self, error: overdb.OverDBError, began: float) -> overdb.OverDBError:
        wrong = self._time_was_wrong() and _by_time(error)
        took_too_long = _GONE in str(error) and _now() - began > self._kept_seconds
        return overdb.Unavailable(str(error)) if wrong or took_too_long else error


def patient(
    client: overdb.Client, time_was_wrong: Callable[[], bool], kept_seconds: float
) -> overdb.Client:
    """Return the client with such refusals as Unavailable.

    ``kept_seconds``: for how long the servers keep old versions.
    """
    return cast("overdb.Client", _Patient(client, time_was_wrong, kept_seconds))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _by_time(error: overdb.OverDBError) -> bool:
    return any(words in str(error) for words in _WORDS)
