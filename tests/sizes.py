"""The size of the big tests (``--size quick|full``), and the seeds that a run draws for its searches.

``make test`` is quick, ``make test-all`` is full. Each test runs in both sizes and asserts the same; only
the number of its seeds, rounds or seconds differs. A new test takes the fixture ``sizes``::

    def test_no_seed_loses_a_write(sizes: Sizes) -> None:
        for seed in sizes.seeds(quick=20, full=300):
            ...
        rounds = sizes.pick(quick=3, full=50)

Quick searches use other seeds each day and on each commit, so the suite goes on searching; so do the
examples of Hypothesis. The header of the report has the first of the seeds, and ``--first-seed N`` runs the
same ones again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DRAWN_FROM = 1_000_000  # below it are the fixed seeds of the full size
DRAWN_STEP = 100_000  # a search has room for that many seeds before it meets another day's


@dataclass(frozen=True)
class Sizes:
    """What this run was asked for. ``first_seed``: the first of the drawn seeds."""

    full: bool
    first_seed: int

    def pick(self, *, quick: T, full: T) -> T:
        """Returns the value for the size of this run."""
        return full if self.full else quick

    def seeds(self, *, quick: int, full: int) -> Sequence[int]:
        """Returns the seeds of a search: ``quick`` drawn ones, in the full size ``full`` fixed ones too."""
        drawn = range(self.first_seed, self.first_seed + quick)
        return [*range(full), *drawn] if self.full else drawn

    def from_known(self, known: int, budget: int) -> Iterator[int]:
        """Yields the seeds of a search for something that must turn up within ``budget`` seeds.

        In the full size they are 0, 1, 2, ... . A quick search begins with ``known``, a seed that had it,
        and goes on with all others: when the code has changed and ``known`` no longer has it, the test
        takes longer, and it fails only if the full one fails too.
        """
        if not self.full:
            yield known
        yield from (seed for seed in range(budget) if self.full or seed != known)


_full = False  # set before the tests are imported


def set_size(*, full: bool) -> None:
    """Set the size for ``examples``. Called once, before the tests are imported."""
    global _full  # noqa: PLW0603  # decorators of tests have no fixtures
    _full = full


def examples(*, quick: int, full: int) -> int:
    """Returns the number of examples that Hypothesis draws for a test, from the first seed."""
    return full if _full else quick


def draw_first_seed(root: Path) -> tuple[int, str]:
    """Returns the first drawn seed, and the day and the commit that it follows from."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "no commit"
    origin = f"{datetime.now(UTC):%Y-%m-%d} {commit}"
    number = int.from_bytes(hashlib.sha256(origin.encode()).digest()[:2])
    return DRAWN_FROM + number * DRAWN_STEP, origin


def processes() -> int:
    """Returns how many processes a test may start, so that all tests together use each core once."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return max(1, (os.cpu_count() or 1) // workers)
