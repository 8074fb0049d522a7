"""Why a process cannot start."""

from __future__ import annotations

# sysexits.h EX_CONFIG: nothing would change if a supervisor started the process again.
EXIT_CONFIG = 78


class StartupError(Exception):
    """The process cannot work as it was started; nothing was changed.

    ``what`` names the thing and its value, ``remedy`` what to do about it. Both are one line; the
    process prints ``program: what: remedy`` and exits with ``EXIT_CONFIG``.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy
