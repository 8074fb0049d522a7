"""An asyncio event loop over virtual time, shared by many simulated processes.

Production's coroutines, futures and timers run on it as they are. Nothing waits: when no callback is
ready the clock jumps to the next timer. Every callback belongs to the process in whose context it was
scheduled, so that a process can be killed between any two callbacks (nothing of it runs again, no
``finally`` either, as after SIGKILL) or paused (what is due runs when it goes on).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future as ThreadFuture
from contextvars import Context, ContextVar, copy_context
from typing import Any

from overdb_simulation.disk import PowerLoss

ENDING_ROUNDS_MAX = 8
STEPS_AT_ONCE_MAX = 100_000  # without time going on
_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class Process:
    """What is killed or paused as one; has a wall clock of its own."""

    __slots__ = (
        "alive",
        "busy_until",
        "clock_drift",
        "clock_offset_ns",
        "clock_rate",
        "context",
        "drift_since",
        "held",
        "name",
        "paused",
        "watched",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.busy_until = 0.0  # its one thread works until then: whatever is due waits
        self.watched = False  # whether the step hook is called for it
        self.clock_offset_ns = 0
        self.clock_drift = 0.0  # seconds a second, since ``drift_since``
        self.drift_since = 0.0
        self.clock_rate = 1.0  # of the clock that nobody sets
        self.held: list[Timer | Handle] = []  # what was due meanwhile, and may still be cancelled
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)

    def __repr__(self) -> str:
        return self.name


def current_process() -> Process | None:
    """Whose callback is running; None: the harness's."""
    return _PROCESS.get()


class Timer:
    """What ``call_later`` and ``call_at`` return."""

    __slots__ = ("_when", "args", "callback", "context")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self._when = when
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None


class Handle:
    """What ``call_soon`` returns."""

    __slots__ = ("args", "callback", "context")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None


class SpinningError(Exception):
    """Callbacks schedule one another at once, without end: a process of its own would take a whole core."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Time is seconds since the run began. ``step_hook`` is called after every callback that ran."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._outside = copy_context()  # of no process
        self._ready: deque[Timer | Handle] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = 0
        self._tasks: list[asyncio.Task[Any]] = []  # kept: a killed one must not be collected
        self.step_hook: Callable[[Process], None] | None = None
        self.on_power_loss: Callable[[Process], None] | None = None
        self.failures: list[str] = []
        self._ending = False
        self.steps = 0

    # --- what asyncio and production call -------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Timer:
        timer = Timer(when, callback, args, copy_context() if context is None else context)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, timer))
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Timer:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        if len(self._tasks) > 4096:
            self._tasks = [task for task in self._tasks if not task.done()]
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """A thread's work is one moment, a little later."""
        del executor
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(0.0005, work)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A task that fails unseen is a failure of the run."""
        error = context.get("exception")
        self.failures.append(f"{context.get('message')}: {error!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    # --- running ----------------------------------------------------------------------------------

    def run_for(self, seconds: float) -> None:
        """Run everything that is due within the next ``seconds`` of virtual time."""
        self.run_until(self._now + seconds)

    def run_until(self, end: float) -> None:
        """Run everything that is due until then; time does not go back."""
        asyncio._set_running_loop(self)
        try:
            self._run_until(max(self._now, end))
        finally:
            asyncio._set_running_loop(None)

    def next_due(self) -> float:
        """When something is to be run next; infinity when nothing is."""
        if self._ready:
            return self._now
        return self._timers[0][0] if self._timers else float("inf")

    def inside(self, process: Process, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function at once, as code of a process."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            return process.context.copy().run(function, *args)
        finally:
            asyncio._set_running_loop(before)

    def _run_until(self, end: float) -> None:
        ready, timers, run = self._ready, self._timers, self._run
        pop = heapq.heappop
        steps = 0  # since time went on
        while True:
            while ready:
                handle = ready.popleft()
                if handle.callback is not None:
                    run(handle)
                    steps += 1
                    if steps > STEPS_AT_ONCE_MAX:
                        ready.clear()
                        raise SpinningError(
                            f"time stands still: {handle.callback!r} is run again and again"
                        )
            if not timers or timers[0][0] > end:
                break
            when, _, timer = pop(timers)
            if timer.callback is None:
                continue
            if when > self._now:
                self._now, steps = when, 0
            run(timer)
        self._now = end

    def _run(self, handle: Timer | Handle) -> None:
        callback, args, context = handle.callback, handle.args, handle.context
        assert callback is not None
        process: Process | None = context.get(_PROCESS)
        if process is None:
            context.run(callback, *args)
            return
        if self._ending:
            with contextlib.suppress(Exception, PowerLoss):
                context.run(callback, *args)
            return
        if not process.alive:
            return
        if process.paused or process.busy_until > self._now:
            process.held.append(handle)
            return
        self.steps += 1
        try:
            context.run(callback, *args)
        except Exception as error:
            self.failures.append(f"{process.name}: {error!r} in {callback!r}")
        except PowerLoss:
            assert self.on_power_loss is not None
            self.on_power_loss(process)
        if process.watched and self.step_hook is not None:
            self.step_hook(process)

    def resume(self, process: Process) -> None:
        """Let a paused process go on: all that was due in the meantime runs now, in its order."""
        process.paused = False
        if process.busy_until <= self._now:
            self._release(process)

    def work(self, process: Process, seconds: float) -> None:
        """The running callback of a process keeps its thread for so long."""
        process.busy_until = max(process.busy_until, self._now + seconds)
        self.call_at(process.busy_until, self._worked, process, context=self._outside)

    def _worked(self, process: Process) -> None:
        if not process.paused and process.busy_until <= self._now:
            self._release(process)

    def _release(self, process: Process) -> None:
        held, process.held = process.held, []
        self._ready += held

    def end(self) -> None:
        """The run is over: let every coroutine come to its end, those of killed processes too."""
        self._ending = True
        self.step_hook = None
        asyncio._set_running_loop(self)
        try:
            for _ in range(ENDING_ROUNDS_MAX):
                self._tasks = [task for task in self._tasks if not task.done()]
                if not self._tasks:
                    break
                for task in self._tasks:
                    task.cancel()
                self._run_until(self._now + 1.0)
        finally:
            asyncio._set_running_loop(None)
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]


def run_thread_work(work: Callable[[], Any]) -> ThreadFuture[Any]:
    """Do a thread's work now."""
    future: ThreadFuture[Any] = ThreadFuture()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future
