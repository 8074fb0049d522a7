"""Writes of the container tests: keys that must be kept, and a load."""

from __future__ import annotations

from overdb.sync import Client
from tests.containers.stack import Stack
from tests.integration.workload import PAUSE_SECONDS, QUICK_PAUSE_SECONDS, Writers
from tests.sizes import Sizes

KEYS = {b"kept-%d" % number: b"value-%d" % number for number in range(50)}


def put_all(stack: Stack) -> None:
    """Write the keys of which ``assert_all_kept`` expects that none is lost."""
    with Client(stack.endpoints) as client:
        for key, value in KEYS.items():
            client.put(key, value)


def assert_all_kept(stack: Stack) -> None:
    """Fail when a key of ``put_all`` is missing or has another value."""
    with Client(stack.endpoints, timeout=20.0) as client:
        for key, value in KEYS.items():
            found = client.get(key)
            assert found is not None, f"{key!r} is lost"
            assert found.value == value


def writers(stack: Stack, sizes: Sizes) -> Writers:
    """Return writers for the routers of ``stack``; in the quick size one direct, one routed."""
    count, pause = sizes.pick(quick=(2, QUICK_PAUSE_SECONDS), full=(24, PAUSE_SECONDS))
    return Writers(stack.endpoints, count, pause_seconds=pause)
