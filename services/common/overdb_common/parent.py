"""A process that another one supervises ends when that one does, however it does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

VARIABLE = "OVERDB_PARENT_PID"  # set by the supervisor: its own pid
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the supervisor dies. Nothing without a supervisor."""
    supervisor = os.environ.get(VARIABLE, "")
    if not supervisor.isdigit() or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)
