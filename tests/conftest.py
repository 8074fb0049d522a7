"""For all tests."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# No bound on the time of one example: a stall of the machine is no finding.
settings.register_profile("overdb", deadline=None)
settings.load_profile("overdb")

# A shell starts its background jobs with SIGINT ignored, and so do some CI machines. Programs that are
# started from here inherit that, and Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--schedules", default="100000", help="schedules of transactions that are searched"
    )
    parser.addoption("--first-seed", default="0", help="of the schedules that are searched")
