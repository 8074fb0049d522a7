"""Runs ``async def`` tests, each on a loop of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from tests.unit.client.fake_router import RouterThread

TEST_SECONDS_MAX = 30.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def bounded() -> None:
        async with asyncio.timeout(TEST_SECONDS_MAX):
            await function(**arguments)

    asyncio.run(bounded())
    return True


@pytest.fixture
def router_thread() -> Iterator[RouterThread]:
    with RouterThread() as thread:
        yield thread
