"""A fake router, and the program run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.unit.client.fake_router import RouterThread

Finished = subprocess.CompletedProcess[bytes]
Run = Callable[..., Finished]


@pytest.fixture
def router_thread() -> Iterator[RouterThread]:
    with RouterThread() as thread:
        yield thread


@pytest.fixture
def run(router_thread: RouterThread) -> Run:
    """Run ``overdb`` with arguments against the fake router, in a process of its own."""

    def run(*arguments: str | bytes, given: bytes = b"", **environment: str) -> Finished:
        return subprocess.run(
            [sys.executable, "-c", "from overdb.cli import main; main()", *arguments],
            input=given,
            capture_output=True,
            timeout=60,
            check=False,
            env={
                **os.environ,
                "OVERDB_ENDPOINTS": router_thread.router.address,
                "COLUMNS": "80",
                **environment,
            },
        )

    return run
