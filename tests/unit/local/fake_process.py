"""Stands in for node and router: ``python -m tests.unit.local.fake_process``, in a mode that a file names.

The file ``mode`` + name lies in the directory OVERDB_TEST_MODES; without it the process just runs.
  stubborn   ignores SIGTERM
  slow       takes four seconds to end
  refuse     cannot work as configured (exit code 78)
  fail       ends with exit code 1
A router answers health checks as the real one does, so the supervisor finds it ready.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from overdb_common.parent import end_with_parent

_SECONDS_MAX = 240  # no test takes longer, so nothing stays behind whatever happens to the test


def main() -> int:
    """Run until told to end, in the mode of the file, and return the exit code."""
    end_with_parent()
    node_id = os.environ.get("OVERDB_NODE_ID")
    name = f"node-{node_id}" if node_id else "router-0"
    mode_file = Path(os.environ["OVERDB_TEST_MODES"]) / f"mode-{name}"
    mode = mode_file.read_text() if mode_file.exists() else ""
    # Waited for, not handled: a handler that sets an Event may wait for a lock that it interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print(f"{name} runs {mode}", flush=True)
    if mode == "refuse":
        print(f"overdb-fake: {name} dislikes its setting: change it", file=sys.stderr)
        return 78
    if mode == "fail":
        return 1
    server = None if node_id else _serve_health(os.environ["OVERDB_LISTEN"])
    signal.sigtimedwait([] if mode == "stubborn" else [signal.SIGTERM], _SECONDS_MAX)
    if server is not None:
        server.stop(None)
    if mode == "slow":
        time.sleep(4)
    return 0


def _serve_health(address: str) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    server.start()
    return server


if __name__ == "__main__":
    sys.exit(main())
