"""One cluster in containers for all tests here; without a Docker engine they are skipped, loudly."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException

from tests.containers.stack import Stack
from tests.ports import free_ports

REQUIRED = os.environ.get("OVERDB_REQUIRE_DOCKER", "") not in ("", "0")


@functools.cache
def _engine_answers() -> bool:
    try:
        docker.from_env(timeout=20).close()  # it asks for the version of the engine
    except DockerException:
        return False
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip here and not in a fixture: one place, so that pytest tells of all of them in one line."""
    if item.get_closest_marker("docker") is None or _engine_answers():
        return
    reason = "NO DOCKER ENGINE ANSWERS, SO NO CONTAINER WAS TESTED ('docker version' may say why)"
    if REQUIRED:
        pytest.fail(f"{reason}, and OVERDB_REQUIRE_DOCKER is set", pytrace=False)
    pytest.skip(f"{reason}; OVERDB_REQUIRE_DOCKER=1 makes this a failure")


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The Docker engine of this machine."""
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="package")
def shared_stack(engine: docker.DockerClient) -> Iterator[Stack]:
    """2 groups x 3 replicas and a router, as ``make up`` starts them; forgotten at the end."""
    # The port behind it is for a second router.
    port = next(a for a, b in itertools.pairwise(free_ports(20)) if b == a + 1)
    stack = Stack(f"overdb-test-{os.getpid()}", port, engine)
    try:
        stack.up()
        yield stack
    finally:
        stack.forget()


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The cluster with all its replicas up, whatever the test before did to it."""
    if shared_stack.altered:
        shared_stack.forget()
        shared_stack.up()
        shared_stack.altered = False
    shared_stack.wait_until_whole()
    return shared_stack
