"""A fake router, and the program run as a user runs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.unit.cli.programs import run_program
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
        endpoints = {"OVERDB_ENDPOINTS": router_thread.router.address}
        return run_program(
            arguments, {**os.environ, **endpoints, "COLUMNS": "80", **environment}, given
        )

    return run
