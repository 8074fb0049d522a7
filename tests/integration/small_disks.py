"""File systems of a few hundred MiB, each its own: images that are mounted. Needs root and loop devices."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REQUIRED = os.environ.get("OVERDB_REQUIRE_MOUNTS", "") not in ("", "0")
MIB = 1 << 20


def run(*command: object) -> str:
    """Run a command; return what it printed. Raises CalledProcessError."""
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


class SmallDisk:
    """One file system. ``filler`` is a file on it that no replica knows of."""

    def __init__(self, mounted: Path) -> None:
        self.path = mounted
        self.filler = mounted / "filler"

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def fill(self, leave_bytes: int = 0) -> None:
        """Have something else take everything but so many bytes, also while others write."""
        with self.filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (left := self.free_bytes - leave_bytes) > 0:
                file.write(bytes(min(left, MIB)))

    def free(self) -> None:
        self.filler.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(image: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """A new file system, mounted beside its image. Skips the test, loudly, where that is not possible."""
    target = image.with_suffix(".mounted")
    target.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(size_bytes)
        run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        run("mount", "-o", "loop", image, target)
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"NO FILE SYSTEM CAN BE MOUNTED HERE, SO NO FULL DISK WAS TESTED ({error})"
        if REQUIRED:
            pytest.fail(f"{reason}, and OVERDB_REQUIRE_MOUNTS is set", pytrace=False)
        pytest.skip(f"{reason}; as root OVERDB_REQUIRE_MOUNTS=1 makes this a failure")
    try:
        yield SmallDisk(target)
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=False, timeout=60)
        image.unlink()
