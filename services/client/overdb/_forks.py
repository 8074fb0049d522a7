"""Forks: a child may use clients of its own if gRPC was not in use when it was forked.

gRPC's threads do not survive a fork, and its state in the child is that of threads in mid-work: a new
channel there crashes or never connects. So just before a fork, in the process that forks, every client lets
go of its connections (``Pausable.pause``), after which gRPC ends its threads; in the parent they connect
again, and what was under way is sent again under its id. A client that cannot do so in time, because its
event loop does not run or is the one that forks, leaves gRPC in use: then clients in the child are refused,
with the reason.

A closed client holds no gRPC object, also not in a reference cycle that waits for the collector: nobody has
to call ``gc.collect()`` before a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Protocol

# gRPC's own work around a fork crashes some children when it is in use, and what is done here needs none of
# it. This is read when grpc is imported, so clients import this module first.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# Each of these takes a millisecond as a rule, and much longer on a machine that has too much to do.
PAUSE_SECONDS_MAX = 5.0  # for all clients together
CALLS_SECONDS_MAX = 2.0  # for calls that were cancelled
ENDING_SECONDS_MAX = 5.0  # for gRPC's threads, once our clients have let go of it
OTHERS_SECONDS_MAX = 1.0  # the same where none of them has: others may use gRPC, and go on doing so
_POLL_SECONDS = 0.0005
# Threads of gRPC's core, as Linux shows their names (at most 15 characters), and of its Python part.
_CORE_THREADS = (
    "event_engine",
    "grpc_",
    "lifeguard",
    "timer_manager",
    "resolver-execut",
    "default-executo",
)
_POLLER = "_poll_wrapper"
_TASKS = "/proc/self/task"

IN_USE = (
    "this process was forked while gRPC was in use, which does not survive that: before a fork, close the "
    "clients whose event loop does not run or is the one that forks, or start processes with 'spawn' or "
    "'forkserver'"
)
MADE_BEFORE = "this client was made before a fork: make one in each process, after the fork"

count = 0  # how many forks lie between this process and the one that was started


class Pausable(Protocol):
    """A client with connections."""

    async def pause(self) -> None:
        """Let go of all that is gRPC's until ``resume``. Runs on the client's loop."""

    def resume(self) -> None:
        """Connect again where needed. Called on the client's loop."""


class _Forking:
    """The state of this process. Its methods before and after a fork run in the thread that forks."""

    def __init__(self) -> None:
        self.in_use = False  # gRPC was, when this process or an ancestor of it was forked
        self._pausable: weakref.WeakKeyDictionary[Pausable, asyncio.AbstractEventLoop]
        self._pausable = weakref.WeakKeyDictionary()
        self._paused: list[tuple[Pausable, asyncio.AbstractEventLoop]] = []
        self._was_in_use = False
        self._lock = threading.RLock()

    def add(self, client: Pausable, loop: asyncio.AbstractEventLoop) -> None:
        self._pausable[client] = loop

    def remove(self, client: Pausable) -> None:
        self._pausable.pop(client, None)

    def before(self) -> None:
        self._lock.acquire()
        self._was_in_use = False
        with contextlib.suppress(Exception):  # a fork must not fail over this
            self._pause_all()
            seconds_max = ENDING_SECONDS_MAX if self._paused else OTHERS_SECONDS_MAX
            self._was_in_use = not _ended(seconds_max)

    def _pause_all(self) -> None:
        running = asyncio._get_running_loop()  # noqa: SLF001  # the public one raises where there is none
        pausing: list[Future[None]] = []
        for client, loop in list(self._pausable.items()):
            if loop is running or loop.is_closed() or not loop.is_running():
                continue
            pausing.append(asyncio.run_coroutine_threadsafe(client.pause(), loop))
            self._paused.append((client, loop))
        if pausing:
            wait(pausing, PAUSE_SECONDS_MAX)

    def after_in_parent(self) -> None:
        paused, self._paused = self._paused, []
        for client, loop in paused:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(client.resume)
        self._lock.release()

    def after_in_child(self) -> None:
        global count  # noqa: PLW0603  (a process has one history)
        count += 1
        self.in_use = self.in_use or self._was_in_use
        self._pausable = weakref.WeakKeyDictionary()
        self._paused = []
        self._lock = threading.RLock()


_forking = _Forking()
add = _forking.add
remove = _forking.remove


def check(count_at_creation: int) -> None:
    """Raise RuntimeError when the process was forked since, or gRPC cannot work in it."""
    if count_at_creation != count:
        raise RuntimeError(f"{MADE_BEFORE}; {IN_USE}" if _forking.in_use else MADE_BEFORE)
    check_grpc()


def check_grpc() -> None:
    """Raise RuntimeError when gRPC cannot work in this process."""
    if _forking.in_use:
        raise RuntimeError(IN_USE)


async def calls_ended() -> None:
    """Wait until gRPC has taken note of the end of calls on this loop: until then it holds them."""
    own = asyncio.current_task()
    tasks = [
        task for task in asyncio.all_tasks() if task is not own and _is_of_a_call(task.get_coro())
    ]
    if tasks:  # others of the same loop may have calls that go on
        await asyncio.wait(tasks, timeout=CALLS_SECONDS_MAX)


def _is_of_a_call(coroutine: object) -> bool:
    return getattr(coroutine, "__qualname__", "").startswith("_AioCall.")


def _ended(seconds_max: float) -> bool:
    """Wait until gRPC has ended its threads; return whether it has."""
    if not any(_grpc_threads()):
        return True
    collected = False
    began = time.monotonic()
    while time.monotonic() < began + seconds_max:
        time.sleep(_POLL_SECONDS)
        if not any(_grpc_threads()):
            return True
        if not collected and time.monotonic() > began + OTHERS_SECONDS_MAX / 2:
            collected = True
            gc.collect()  # channels of others that wait for the collector
    return False


def _grpc_threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if _POLLER in thread.name:
            yield thread.name
    if not sys.platform.startswith("linux"):
        return
    for task in Path(_TASKS).iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if (name := (task / "comm").read_text()).startswith(_CORE_THREADS):
                yield name


def _registered(register: Callable[..., Any] | None) -> None:
    if register is not None:
        register(
            before=_forking.before,
            after_in_parent=_forking.after_in_parent,
            after_in_child=_forking.after_in_child,
        )


_registered(getattr(os, "register_at_fork", None))
