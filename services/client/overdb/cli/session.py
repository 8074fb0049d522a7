"""What the commands of one run share: the options, one client, the console."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

from overdb.cli.console import Console

if TYPE_CHECKING:
    import overdb.sync
    from overdb.errors import OverDBError

PROGRESS_AFTER_SECONDS = 1.0


class ExitCode(IntEnum):
    """How the process ends."""

    OK = 0
    NO = 1  # get: no such key; txn: the else branch ran; txn status: aborted
    USAGE = 2
    UNAVAILABLE = 3
    UNKNOWN = 4
    REFUSED = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class UsageError(Exception):
    """The command cannot be run as it was given."""


class Session:
    """One run of the program, or one shell."""

    def __init__(self) -> None:
        self.endpoints = ""
        self.console = Console(json_lines=False)
        self.in_shell = False
        self._timeout = 5.0
        self._client: overdb.sync.Client | None = None

    def configure(self, endpoints: str, timeout: float, *, json_lines: bool) -> None:
        """Take the program's options in."""
        self.endpoints = endpoints
        self._timeout = timeout
        self.console = Console(json_lines=json_lines)

    @property
    def client(self) -> overdb.sync.Client:
        """The client, made at first use."""
        if self._client is None:
            from overdb.sync import Client  # noqa: PLC0415  (help and local need no gRPC)

            self._client = Client(self.endpoints, timeout=self._timeout)
        return self._client

    def close(self) -> None:
        """End the client's connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def progress(self, text: str) -> Iterator[Progress]:
        """Show what is going on, on a terminal, once it takes longer than a second."""
        progress = Progress(text)
        try:
            yield progress
        finally:
            progress.stop()


class Progress:
    """A spinner with a line of text, on stderr; nothing where that is no terminal."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._stopped = False
        self._lock = threading.Lock()
        self._spinner: object | None = None
        self._timer: threading.Timer | None = None
        if sys.stderr.isatty():
            self._timer = threading.Timer(PROGRESS_AFTER_SECONDS, self._show)
            self._timer.daemon = True
            self._timer.start()

    def _show(self) -> None:
        from rich.console import Console as Rich  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        with self._lock:
            if self._stopped:
                return
            bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=Rich(stderr=True),
                transient=True,
            )
            self._task = bar.add_task(self.text, total=None)
            bar.start()
            self._spinner = bar

    def update(self, text: str) -> None:
        """Change the text."""
        self.text = text
        spinner = self._spinner
        if spinner is not None:
            spinner.update(self._task, description=text)  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Take it off the screen; also before anything else is printed there."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._stopped = True
            spinner, self._spinner = self._spinner, None
        if spinner is not None:
            spinner.stop()  # type: ignore[attr-defined]


def exit_code_of(error: OverDBError) -> ExitCode:
    """Return how the process ends after an error of a request."""
    from overdb import errors  # noqa: PLC0415

    if isinstance(error, errors.OutcomeUnknown):
        return ExitCode.UNKNOWN
    if isinstance(error, errors.InvalidArgument):
        return ExitCode.USAGE
    if isinstance(error, errors.Unavailable | errors.DeadlineExceeded):
        return ExitCode.UNAVAILABLE
    return ExitCode.REFUSED
