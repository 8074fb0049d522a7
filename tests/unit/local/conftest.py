"""Supervisors over pretending processes, ended after each test however it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_base_port
from tests.unit.local.supervised import Supervised

Start = Callable[..., Supervised]


@pytest.fixture
def base_port() -> int:
    return free_base_port()


@pytest.fixture
def start(tmp_path: Path, base_port: int) -> Iterator[Start]:
    """Start one: ``start(port=..., data=..., **environment)``."""
    started: list[Supervised] = []

    def start_one(
        port: int = base_port, data: Path = tmp_path / "data", **environment: str
    ) -> Supervised:
        command = ["-m", "tests.unit.local.fake_cluster", str(data), str(port)]
        started.append(Supervised(command, data, **environment))
        return started[-1]

    yield start_one
    for supervised in started:
        supervised.end()
