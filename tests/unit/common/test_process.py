"""The life of a process, by a small real one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
import grpc
from pydantic import Field
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio
from overdb_common import grpc_options, logs, metrics, process, serving
from overdb_common.settings import ProcessSettings

class Settings(ProcessSettings):
    mode: str = Field("serve", description="what to do")

async def amain(settings, stop):
    if settings.mode == "crash":
        raise RuntimeError("something broke")
    registry = metrics.new_registry("example")
    server = grpc.aio.server(options=grpc_options.server_options())
    health = aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    port = serving.bind(server, settings.listen)
    await server.start()
    stop_metrics = metrics.start_server(registry, settings.metrics_listen)
    logs.get_logger().info("started", port=port)
    await stop.wait()
    await server.stop(0)
    stop_metrics()
    logs.get_logger().info("stopped")

sys.exit(process.run("overdb-example", Settings, amain, lambda s: serving.is_serving(s.listen)))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "example.py"
    path.write_text(PROGRAM)
    return path


def environment(**variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OVERDB_")}
    return inherited | {f"OVERDB_{name}": value for name, value in variables.items()}


def run(program: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start(program: Path, **variables: str) -> tuple[subprocess.Popen[str], int]:
    """Start the program and return it with the port that it says it serves on."""
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env=environment(LISTEN="127.0.0.1:0", **variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    started = json.loads(process.stderr.readline())
    assert started["event"] == "started"
    return process, started["port"]


def test_flags(program: Path) -> None:
    helped = run(program, "--help")
    assert helped.returncode == 0
    assert "OVERDB_MODE" in helped.stdout
    versioned = run(program, "--version")
    assert versioned.returncode == 0
    assert versioned.stdout.startswith("overdb-example ")
    wrong = run(program, "--hlep")
    assert wrong.returncode == 2
    assert wrong.stderr == "usage: overdb-example [--help | --version | --check]\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(program: Path, number: signal.Signals) -> None:
    process, port = start(program)
    assert run(program, "--check", LISTEN=f"127.0.0.1:{port}").returncode == 0
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    last = json.loads(errors.splitlines()[-1])
    assert last["event"] == "stopped"
    assert last["level"] == "info"
    assert last["process"] == "overdb-example"
    assert last["timestamp"].endswith("Z")
    assert run(program, "--check", LISTEN=f"127.0.0.1:{port}").returncode == 1


def test_what_cannot_start_says_why_in_one_line(program: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for variables in (
            {"LISTEN": address},
            {"LISTEN": "127.0.0.1:0", "METRICS_LISTEN": address},
        ):
            refused = run(program, **variables)
            assert refused.returncode == 78
            lines = refused.stderr.splitlines()
            assert len(lines) == 1, refused.stderr
            assert lines[0].startswith("overdb-example: cannot ")
            assert address in lines[0]
    wrong = run(program, LOG_LEVEL="loud")
    assert wrong.returncode == 78
    assert wrong.stderr.count("\n") == 1
    assert "OVERDB_LOG_LEVEL=loud" in wrong.stderr


def test_a_failure_is_logged_and_exits_with_1(program: Path) -> None:
    failed = run(program, MODE="crash", LISTEN="127.0.0.1:0")
    assert failed.returncode == 1
    line = json.loads(failed.stderr.splitlines()[-1])
    assert line["event"] == "failed"
    assert line["error"] == "something broke"


def test_metrics_are_served(program: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process, _ = start(program, METRICS_LISTEN=address)
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            text = page.read().decode()
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert 'overdb_build_info{process="example"' in text
    assert "process_cpu_seconds_total" in text
