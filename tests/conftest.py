"""For all tests."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import settings

from tests.sizes import Sizes, draw_first_seed, set_size

# No bound on the time of one example: a stall of the machine is no finding. Examples follow from the first
# seed (``pytest_configure``), also where Hypothesis would by itself draw the same ones for ever, as on CI.
settings.register_profile("overdb", deadline=None, derandomize=False)
settings.load_profile("overdb")

# A shell starts its background jobs with SIGINT ignored, and so do some CI machines. Programs that are
# started from here inherit that, and Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SIZES = pytest.StashKey[Sizes]()
DRAWN = pytest.StashKey[str]()
# The order in which tests are given to the workers: first the longest chain of tests that only one worker can
# do, then tests that wait for processes and for time-outs, mixed with those that only compute.
ORDER = (
    ("tests/containers",),
    (
        "tests/integration",
        "tests/simulation",
        "tests/unit/cli",
        "tests/unit/client",
        "tests/unit/local",
        "tests/unit/router",
        "tests/unit/torture",
    ),
    ("tests",),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sizes", "sizes of the big tests (tests/sizes.py)")
    group.addoption(
        "--size",
        choices=("quick", "full"),
        default="quick",
        help="of the big tests (default: quick)",
    )
    group.addoption(
        "--first-seed",
        type=int,
        default=None,
        help="first of the seeds that searches use, instead of a drawn one",
    )
    group.addoption(
        "--schedules",
        type=int,
        default=None,
        help="search this many schedules of transactions, from the first seed on",
    )


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    first, origin = config.getoption("--first-seed"), "as asked for"
    if first is None:
        # A worker of pytest-xdist uses what the process that started it has drawn.
        given: dict[str, Any] = getattr(config, "workerinput", {})
        if "first_seed" in given:
            first = given["first_seed"]
        else:
            first, origin = draw_first_seed(config.rootpath)
            origin = f"drawn from {origin}"
    set_size(full=config.getoption("--size") == "full")
    config.stash[SIZES] = Sizes(config.getoption("--size") == "full", first)
    config.stash[DRAWN] = origin
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(first)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist: called for each worker before it starts."""
    node.workerinput["first_seed"] = node.config.stash[SIZES].first_seed
    node.workerinput["mixed"] = node.config.getoption("dist") == "loadgroup"


def _replay(config: pytest.Config) -> str:
    return f"--size {config.getoption('--size')} --first-seed {config.stash[SIZES].first_seed}"


def pytest_report_header(config: pytest.Config) -> str:
    return f"sizes and seeds: {_replay(config)} (seeds {config.stash[DRAWN]})"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if terminalreporter.stats.get("failed"):
        terminalreporter.write_line(f"the same sizes and seeds again: {_replay(config)}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of pytest-xdist: its ``loadgroup`` does not know the groups with the newest pytest."""
    from tests.scheduling import Scheduling  # needs pytest-xdist

    return Scheduling(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests; see ORDER."""
    rooms = [room for mixed in ORDER for room in mixed]
    of_room: dict[str, list[pytest.Item]] = {room: [] for room in rooms}
    for item in items:
        of_room[next(room for room in rooms if item.nodeid.startswith(room + "/"))].append(item)
    items[:] = []
    for mixed in ORDER:
        placed = [
            (n / len(of_room[room]), item) for room in mixed for n, item in enumerate(of_room[room])
        ]
        # Only where a scheduler keeps tests together that share a costly fixture (``scheduling.py``).
        if getattr(config, "workerinput", {}).get("mixed"):
            placed.sort(key=lambda one: one[0])
        items += [item for _, item in placed]


@pytest.fixture(scope="session")
def sizes(pytestconfig: pytest.Config) -> Sizes:
    """The size of this run: ``sizes.pick(quick=3, full=50)``, ``sizes.seeds(quick=20, full=300)``."""
    return pytestconfig.stash[SIZES]
