"""The production storage on the simulated disk: at each operation the power goes, the process is killed
or an fsync fails, and what was acknowledged is there afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from overdb_common.errors import StartupError
from overdb_node.storage.errors import CorruptSnapshot
from overdb_simulation.disk import HANDLES, PowerLoss, SimulatedDisk
from overdb_simulation.disk_substitutes import SimulatedOS, substituted, substitutions
from overdb_simulation.inodes import DirectoryNode
from tests.sizes import Sizes
from tests.unit.simulation.lives import SEGMENT_BYTES, Life

OPERATIONS_MAX = 2000
SEEDS = 3
_REAL_FSYNC = SimulatedOS.fsync

Crash = Callable[[SimulatedDisk], None]


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with substituted(substitutions(SEGMENT_BYTES)):
        yield


def crash_at_operations(crash: Crash, seed: int, operations: range = range(OPERATIONS_MAX)) -> int:
    """Returns how many operations a life has. Recovery itself crashes too, somewhere."""
    for operation in operations:
        random = Random(f"{seed}/{operation}")
        disk = SimulatedDisk(random)
        life = Life(disk)
        disk.operations_until_power_loss = operation
        try:
            life.run()
        except PowerLoss:
            pass
        else:
            disk.operations_until_power_loss = None
            assert life.found() == life.model
            return operation
        crash(disk)
        try:
            _check_recovery(life, crash, random)
        except (AssertionError, StartupError) as error:
            raise AssertionError(f"operation {operation} of seed {seed}: {error}") from error
    raise AssertionError("the life does not end")


def _check_recovery(life: Life, crash: Crash, random: Random) -> None:
    life.disk.operations_until_power_loss = random.randrange(40)
    with contextlib.suppress(PowerLoss):
        life.found()
    crash(life.disk)
    found = life.check()
    life.disk.lose_power()
    assert life.found() == found, "what was recovered once is durable"
    life.check_use(found)


@pytest.mark.parametrize("number", range(SEEDS))
def test_a_power_loss_at_any_operation_loses_nothing_acknowledged(
    number: int, sizes: Sizes
) -> None:
    """The drawn seeds share the operations among them; in the full size fixed ones have all of them too."""
    searches = [(sizes.first_seed + number, range(number, OPERATIONS_MAX, SEEDS))]
    if sizes.full:
        searches.append((number, range(OPERATIONS_MAX)))
    for seed, chosen in searches:
        operations = crash_at_operations(SimulatedDisk.lose_power, seed, chosen)
        print(f"{operations} operations")
        assert operations > 200


def test_a_kill_at_any_operation_loses_nothing_acknowledged() -> None:
    assert crash_at_operations(SimulatedDisk.crash_process, 0) > 200


def test_what_a_start_read_from_the_page_cache_is_durable_after_it() -> None:
    """Killed, started, and then the power goes."""

    for operation in range(0, OPERATIONS_MAX, 3):
        disk = SimulatedDisk(Random(operation))
        life = Life(disk)
        disk.operations_until_power_loss = operation
        try:
            life.run()
        except PowerLoss:
            disk.crash_process()
        else:
            return
        found = life.check()
        life._open()
        disk.lose_power()
        assert life.found() == found, operation
    raise AssertionError("the life does not end")


@pytest.mark.parametrize("powered", [True, False], ids=["kill", "power"])
def test_after_any_failed_fsync_a_start_has_what_was_acknowledged(powered: bool) -> None:
    """The replica stops, and is started on a disk that works again."""
    for number in range(OPERATIONS_MAX):
        disk = SimulatedDisk(Random(number))
        life = Life(disk)
        syncs = _FailingSync(number)
        with substituted([(SimulatedOS, "fsync", syncs), (SimulatedOS, "fdatasync", syncs)]):
            try:
                life.run()
            except Exception:  # however it says so: the replica stops
                if not syncs.failed:
                    raise
            if not syncs.failed:
                assert number > 100
                return
        if powered:
            disk.crash_process()
        else:
            disk.lose_power()
        found = life.check()
        life.disk.lose_power()
        assert life.found() == found, number
        life.check_use(found)
    raise AssertionError("the life does not end")


class _FailingSync:
    """The ``number``-th fsync of the storage's own fails."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.failed = False

    def __call__(self, descriptor: int) -> None:
        if self._left == 0:
            HANDLES[descriptor].disk.fail_fsyncs = 1
            self.failed = True
        self._left -= 1
        _REAL_FSYNC(SimulatedOS(), descriptor)


# --- the test can fail --------------------------------------------------------------------------------


def _without(skipped: Callable[[Any], bool]) -> Callable[[int], None]:
    def fsync(descriptor: int) -> None:
        if not skipped(HANDLES[descriptor].node):
            _REAL_FSYNC(SimulatedOS(), descriptor)

    return fsync


@pytest.mark.parametrize("what", ["all", "files", "directories", "fdatasync"])
def test_an_fsync_that_does_nothing_is_found_out(what: str) -> None:
    fsync = _without(
        {
            "all": lambda _: True,
            "fdatasync": lambda _: True,
            "files": lambda node: not isinstance(node, DirectoryNode),
            "directories": lambda node: isinstance(node, DirectoryNode),
        }[what]
    )
    broken = [(SimulatedOS, "fdatasync", staticmethod(fsync))]
    if what != "fdatasync":
        broken.append((SimulatedOS, "fsync", staticmethod(fsync)))
    with substituted(broken), pytest.raises(AssertionError, match="operation") as caught:
        crash_at_operations(SimulatedDisk.lose_power, 0)
    print(caught.value)


# --- damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip_bit", "truncate_some"])
def test_damage_is_refused_or_harmless(damage: str) -> None:
    """FAULTS 51: never a state without something that was acknowledged."""
    refused = 0
    for seed in range(300):
        random = Random(seed)
        disk = SimulatedDisk(random)
        life = Life(disk)
        disk.operations_until_power_loss = random.randrange(400)
        try:
            life.run()
        except PowerLoss:
            disk.lose_power()
        disk.operations_until_power_loss = None
        done = getattr(disk, damage)(random)
        try:
            life.check()
        except (StartupError, CorruptSnapshot):
            refused += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {done}: {error}") from error
    assert refused > 100
