"""A supervisor as a process of its own, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def wait_until(condition: Callable[[], object], what: str, seconds_max: float = 40.0) -> None:
    """Poll until it holds; fail with ``what`` after the time."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds_max} s: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


class Supervised:
    """Starts a command that supervises, and collects its output."""

    def __init__(self, command: Sequence[str], directory: Path, **environment: str) -> None:
        self.directory = directory
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "OVERDB_TEST_MODES": str(directory.parent), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, seconds_max: float = 40.0) -> None:
        """Until the supervisor has said ``text``."""

        def said() -> bool:
            assert text in self.text or self.popen.poll() is None, f"it ended:\n{self.text}"
            return text in self.text

        wait_until(said, f"'{text}' in:\n{self.text}", seconds_max)

    def wait(self, seconds_max: float = 40.0) -> int:
        """Until it ends; returns the exit code."""
        code = self.popen.wait(seconds_max)
        self._reader.join(5)
        return code

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def cluster(self) -> Any:
        """The content of ``cluster.json``."""
        return json.loads((self.directory / "cluster.json").read_text())

    def pids(self) -> dict[str, int]:
        """The running processes by the names of their log files."""
        content = self.cluster()
        entries = [*content["nodes"], *content["routers"]]
        return {Path(entry["log_file"]).stem: entry["pid"] for entry in entries if entry["pid"]}

    def end(self) -> None:
        """Whatever state it is in: end it and what it started."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(15)
            except subprocess.TimeoutExpired:
                pids = self.pids().values()
                self.popen.kill()
                self.popen.wait()
                for pid in filter(is_alive, pids):
                    os.kill(pid, signal.SIGKILL)
