"""Which tests pytest-xdist gives to one worker, one after the other.

Tests of a file that share a costly fixture, or that carry the mark ``xdist_group``, stay together, and so do
all tests on the shared containers. The scheduler sees the names of the tests only, so files are looked into.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
_TOGETHER = re.compile(r"\b(shared_cluster|xdist_group)\b")
_SHARED_CONTAINERS = re.compile(r"^def test_\w+\(\s*stack\b", re.MULTILINE)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Hands out the tests in their order, each alone or with its group."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        # It would sort the groups by their number of tests; ours come in the order of conftest.py.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Returns the name of a test's group: its own where it may run anywhere."""
    file = nodeid.partition("::")[0]
    if file.startswith("tests/containers/"):
        return "containers" if _has(file, _SHARED_CONTAINERS) else file
    return file if _has(file, _TOGETHER) else nodeid


@functools.cache
def _has(file: str, pattern: re.Pattern[str]) -> bool:
    return pattern.search((ROOT / file).read_text()) is not None
