"""``python -m overdb_router`` as a process: starts, is checked, stops; or says in one line why not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest


def environment(**variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OVERDB_")}
    return inherited | {f"OVERDB_{name}": value for name, value in variables.items()}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "overdb_router", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_starts_without_a_cluster_does_not_serve_and_stops() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        seed = f"127.0.0.1:{free.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "overdb_router"],
            env=environment(LISTEN="127.0.0.1:0", SEEDS=seed, LOG_FORMAT="json"),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        started = json.loads(process.stderr.readline())
        assert started["event"] == "started"
        checked = run("--check", LISTEN=f"127.0.0.1:{started['port']}", SEEDS=seed)
        assert checked.returncode == 1
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert json.loads(errors.splitlines()[-1])["event"] == "stopped"


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "OVERDB_SEEDS is not set"),
        ({"SEEDS": ","}, "OVERDB_SEEDS=,: at least one host:port is needed"),
        ({"SEEDS": "a:1", "LISTEN": "x"}, "OVERDB_LISTEN=x: 'x' is not of the form host:port"),
        ({"SEEDS": "a:1", "SEED": "a:1"}, "did you mean OVERDB_SEEDS"),
        ({"SEEDS": "a:1", "QUEUED_BYTES_MAX": "1"}, "OVERDB_QUEUED_BYTES_MAX=1"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_78(variables: dict[str, str], text: str) -> None:
    refused = run(**variables)
    assert refused.returncode == 78
    assert refused.stderr.startswith("overdb-router: ")
    assert refused.stderr.count("\n") == 1
    assert text in refused.stderr


def test_a_port_in_use_is_one_line_and_exit_78() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = run(LISTEN=address, SEEDS="127.0.0.1:1")
    assert refused.returncode == 78
    lines = [line for line in refused.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert f"cannot listen on {address} (Address already in use)" in lines[0]
