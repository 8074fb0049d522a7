"""The life of a process: flags, settings, logs, the event loop, signals, the exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

import structlog
import uvloop

from overdb_common import logs, parent
from overdb_common.errors import EXIT_CONFIG, StartupError
from overdb_common.settings import S, load, print_help
from overdb_common.version import version

# The hot paths make many short-lived objects and no cycles: look for cycles less often.
_GC_THRESHOLDS = (20_000, 20, 50)
# gRPC's older way to poll: the thread that waits for the socket handles what arrives. The newer one, its
# "event engine", hands it to a second thread and that to a third, which costs half as much again for each
# message. It is read when grpc is imported; a release that does not know it ignores it.
_GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener"
_USAGE = "usage: {program} [--help | --version | --check]"


def run(
    program: str,
    settings_class: type[S],
    amain: Callable[[S, asyncio.Event], Awaitable[None]],
    check: Callable[[S], bool],
    argv: Sequence[str] | None = None,
) -> int:
    """Run ``amain(settings, stop)`` until it returns and return the exit code of the process.

    ``stop`` is set by SIGTERM and SIGINT; ``amain`` then ends what it runs and returns. ``check`` is
    what ``--check`` does: it returns whether the process that these settings configure serves. Neither may
    have imported grpc before.

    Exit codes: 0 ended as asked (or the check holds), 1 failed (or the check does not hold), 2 wrong
    flag, 78 cannot work as configured (StartupError, told in one line on stderr).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments not in ([], ["--help"], ["-h"], ["--version"], ["--check"]):
        sys.stderr.write(_USAGE.format(program=program) + "\n")
        return 2
    if arguments in (["--help"], ["-h"]):
        print_help(settings_class, program)
        return 0
    if arguments == ["--version"]:
        sys.stdout.write(f"{program} {version()}\n")
        return 0
    set_grpc_defaults()
    try:
        parent.end_with_parent()
        settings = load(settings_class, program)
        if arguments == ["--check"]:
            return 0 if check(settings) else 1
        return _serve(program, settings, amain)
    except StartupError as refused:
        sys.stderr.write(f"{program}: {refused.what}: {refused.remedy}\n")
        return EXIT_CONFIG


def set_grpc_defaults() -> None:
    """Set what gRPC reads from the environment when it is imported, unless it is set already."""
    # gRPC writes lines of its own about refused connections, which are everyday life in a cluster.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_EXPERIMENTS", _GRPC_EXPERIMENTS)


def _serve(program: str, settings: S, amain: Callable[[S, asyncio.Event], Awaitable[None]]) -> int:
    logs.configure(settings.log_format, settings.log_level, process=program)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_stopped(settings, amain))
    except StartupError:
        raise
    except KeyboardInterrupt:  # before the handlers were set
        return 0
    except Exception as failure:  # the last line of defence: the log says what it was
        structlog.get_logger().critical("failed", error=str(failure), exc_info=failure)
        return 1
    return 0


async def _until_stopped(settings: S, amain: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    await amain(settings, stop)
