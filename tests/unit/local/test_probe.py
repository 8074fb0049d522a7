"""The health check that needs no gRPC says what the real one says."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from overdb_common import probe, serving


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A health service: "" and "up" serve, "down" does not."""
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    response = health_pb2.HealthCheckResponse
    servicer.set("", response.SERVING)
    servicer.set("up", response.SERVING)
    servicer.set("down", response.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize(
    ("service", "serves"), [("", True), ("up", True), ("down", False), ("nobody", False)]
)
def test_it_agrees_with_grpc(address: str, service: str, serves: bool) -> None:
    assert serving.is_serving(address, service) == serves
    assert probe.is_serving(address, service) == serves


def test_it_runs_by_itself_and_its_exit_code_is_the_answer(address: str) -> None:
    for service, code in (("", 0), ("up", 0), ("down", 1)):
        command = [sys.executable, "-I", "-S", probe.__file__, address, service]
        assert subprocess.run(command, timeout=10, check=False).returncode == code


def test_nobody_there_is_not_serving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert not probe.is_serving(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + b"\x00" * 8,  # GOAWAY
        b"\x00\x00\x04\x03\x00\x00\x00\x00\x01" + b"\x00" * 4,  # the stream is reset
        b"\x00\x00\x00\x01\x05\x00\x00\x00\x01",  # the stream ends without a message
        b"\x00\x00\x07\x00\x01\x00\x00\x00\x01" + b"\x00\x00\x00\x00\x02\x08\x02",  # NOT_SERVING
        b"\x00\x00\x07\x00\x01\x00\x00\x00\x01" + b"\x01\x00\x00\x00\x02\x08\x01",  # compressed
        b"\xff" * 100_000,
    ],
)
def test_any_other_answer_is_not_serving(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_one() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one, daemon=True)
        thread.start()
        assert not probe.is_serving(f"127.0.0.1:{server.getsockname()[1]}", seconds_max=5)
        thread.join(5)


def test_silence_is_not_serving_after_the_time(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert not probe.is_serving(f"127.0.0.1:{silent.getsockname()[1]}", seconds_max=0.3)
        assert time.monotonic() - start > 0.25
