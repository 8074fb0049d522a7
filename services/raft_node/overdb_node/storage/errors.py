"""What the disk can do to a replica."""

from __future__ import annotations


class StorageFailure(Exception):  # noqa: N818  # it names what happened; nobody handles it
    """A write or an fsync failed. What is on disk is not known any more: the replica must stop (1.0)."""


class CorruptSnapshot(Exception):  # noqa: N818
    """Bytes of a snapshot do not have the checksum that they were sent with. They were dropped."""


class Overtaken(Exception):  # noqa: N818  # it names what happened
    """A snapshot in the making is older than one that was installed meanwhile."""
