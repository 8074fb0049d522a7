"""Processes on the virtual loop: what is due while one is paused."""

from __future__ import annotations

import pytest

from overdb_simulation.loop import Process, SpinningError, VirtualLoop


def test_what_is_cancelled_before_a_paused_process_goes_on_never_runs() -> None:
    """As in asyncio, where a handle that is cancelled in the queue is skipped."""
    loop, process = VirtualLoop(), Process("p")  # type: ignore[abstract]  # methods that are never called are left out
    ran: list[str] = []

    def begin() -> None:
        late = loop.call_later(1.0, ran.append, "late")

        def early() -> None:
            ran.append("early")
            late.cancel()

        loop.call_later(0.5, early)

    loop.inside(process, begin)
    process.paused = True
    loop.run_for(5.0)
    assert ran == []
    loop.resume(process)
    loop.run_for(0.1)
    assert ran == ["early"]


def test_a_paused_process_takes_up_everything_in_its_order() -> None:
    loop, process = VirtualLoop(), Process("p")  # type: ignore[abstract]  # methods that are never called are left out
    ran: list[int] = []
    loop.inside(process, lambda: [loop.call_later(0.1 * n, ran.append, n) for n in range(5)])
    process.paused = True
    loop.run_for(1.0)
    loop.resume(process)
    loop.run_for(0.0)
    assert ran == [0, 1, 2, 3, 4]


def test_callbacks_that_schedule_one_another_without_end_are_named() -> None:
    """A process that does so takes a whole core, and time stands still in a simulation."""
    loop = VirtualLoop()  # type: ignore[abstract]  # methods that are never called are left out

    def again() -> None:
        loop.call_soon(again)

    loop.inside(Process("p"), again)
    with pytest.raises(SpinningError, match="again"):
        loop.run_for(1.0)
    loop.run_for(1.0)  # what is left of it is gone
