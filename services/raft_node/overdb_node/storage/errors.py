"""What the disk can do to a replica."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from overdb_common.errors import StartupError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class StorageFailure(Exception):  # noqa: N818  # it names what happened; nobody handles it
    """A write or an fsync failed. What is on disk is not known any more: the replica must stop (1.0)."""


class NoSpace(Exception):  # noqa: N818
    """The disk has no room for a write. Nothing of it counts, and the same write may be tried again.

    Never raised for an fsync: after one that failed nobody knows what the disk has (StorageFailure).
    """


def means_no_space(error: BaseException) -> bool:
    """Returns whether an error of the operating system, or of RocksDB, says that the disk is full.

    rocksdict raises plain Exceptions with RocksDB's text, which ends in the operating system's.
    """
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE
    return type(error) is Exception and any(os.strerror(code) in str(error) for code in _NO_SPACE)


class NoRoomToStart(StartupError):  # noqa: N818  # it names what is missing
    """The data directory is sound, and its disk so full that a replica cannot start. It may try again."""

    def __init__(self, directory: Path, error: BaseException) -> None:
        super().__init__(
            f"the data directory {directory} has no room ({error})",
            "enlarge the disk, or remove other files from it: it is tried again until there is room",
        )


class CorruptSnapshot(Exception):  # noqa: N818
    """Bytes of a snapshot do not have the checksum that they were sent with. They were dropped."""


class Overtaken(Exception):  # noqa: N818  # it names what happened
    """A snapshot in the making is older than one that was installed meanwhile."""


class UnreadableEntries(Exception):  # noqa: N818
    """Entries of the log that should be on disk are not, or are damaged there."""
