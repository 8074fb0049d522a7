"""Starts programs by forking a process that has imported them: 0.15 CPU seconds instead of 0.7 each.

The process that forks has only imported: it has no second thread, no event loop, and gRPC has not begun. A
child runs what ``python -m overdb_node`` runs. The tests of containers, ``overdb local`` and ``torture``
start programs as users do.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What a program imports when it begins to serve, and what decides how it does.
_IMPORTED = (
    "overdb_node.__main__",
    "overdb_node.node",
    "overdb_router.__main__",
    "overdb_router.router",
)
_MESSAGE_BYTES_MAX = 1 << 20


FORKERS = 2


@functools.cache
def preloaded(number: int = 0) -> Preloaded:
    """Returns one of the FORKERS of this process; made when it is first asked for.

    Programs that one of them has started share the seed of Python's hashes, so replicas of a group come from
    several: a state that depends on the order of a set must show.
    """
    assert number in range(FORKERS)
    return Preloaded()


class Started:
    """A started program, with those methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, preloaded: Preloaded, pid: int) -> None:
        self._preloaded = preloaded
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Returns the exit code, a signal's as its negative number; None while the program runs."""
        with self._lock:
            if self.returncode is None and _is_over(self._pidfd, 0.0):
                self.returncode = self._preloaded.exit_code(self.pid)
                os.close(self._pidfd)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            _is_over(self._pidfd, timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"program {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens when the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _is_over(pidfd: int, timeout: float | None) -> bool:
    """Wait until the process has ended; returns whether it has. Unlike ``select`` for any number of files."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(None if timeout is None else timeout * 1000))


class Preloaded:
    """The process that forks. It ends with the one that made it."""

    def __init__(self) -> None:
        own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("OVERDB_")
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        its.close()
        self._socket = own
        self._lock = threading.Lock()

    def start(self, module: str, environment: dict[str, str], log_file: Path) -> Started:
        """Run a module with this environment and nothing of the present one. Its output goes to the log."""
        request = {"module": module, "environment": environment, "log": str(log_file)}
        return Started(self, self._ask(request))

    def exit_code(self, pid: int) -> int:
        """Returns the exit code of a program that has ended."""
        return self._ask({"ended": pid})

    def _ask(self, request: Mapping[str, object]) -> int:
        with self._lock:
            self._socket.send(json.dumps(request).encode())
            answer = self._socket.recv(_MESSAGE_BYTES_MAX)
        assert answer, "the process that starts programs has ended"
        return int(json.loads(answer))


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for each request. Returns the request in a child, and {} in the parent at end of input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: for the one that asks
    while request := connection.recv(_MESSAGE_BYTES_MAX):
        asked: dict[str, Any] = json.loads(request)
        if "ended" in asked:
            _, status = os.waitpid(asked["ended"], 0)
            connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            connection.close()
            return asked
        connection.send(json.dumps(pid).encode())
    return {}


def _become(module: str, environment: dict[str, str], log_file: str) -> None:
    """Run the program's main function in this process; how it ends is left to Python."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module]
    log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    importlib.import_module(f"{module}.__main__").main()


def _main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    from overdb_common import process  # what it sets is read by what is imported next

    process.set_grpc_defaults()
    for module in _IMPORTED:
        importlib.import_module(module)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread does not live in a child"
    gc.collect()
    gc.freeze()
    asked = _serve(connection)
    if asked:
        _become(asked["module"], asked["environment"], asked["log"])


if __name__ == "__main__":
    _main()
