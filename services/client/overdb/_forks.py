"""Notices a fork: sockets, threads and ids of a client must not be used by two processes."""

from __future__ import annotations

import os

count = 0  # how many forks lie between this process and the one that was started


def check(count_at_creation: int) -> None:
    """Raise RuntimeError when the process was forked since."""
    if count_at_creation != count:
        raise RuntimeError(
            "this client was made before a fork: make one in each process, after the fork"
        )


def _forked() -> None:
    global count  # noqa: PLW0603  (a process has one history)
    count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
