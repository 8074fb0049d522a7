"""A replica whose every fdatasync takes 300 ms longer: run in place of ``overdb_node``."""

from __future__ import annotations

import os
import time

from overdb_node.__main__ import main

SLOW_SECONDS = 0.3
_fdatasync = os.fdatasync


def slow_fdatasync(descriptor: int) -> None:
    time.sleep(SLOW_SECONDS)
    _fdatasync(descriptor)


if __name__ == "__main__":
    os.fdatasync = slow_fdatasync  # type: ignore[assignment]
    main()
