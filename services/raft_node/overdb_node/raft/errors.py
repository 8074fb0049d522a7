"""What the core raises."""

from __future__ import annotations


class ProtocolViolation(Exception):  # noqa: N818  # it names what happened; it is never handled
    """What the protocol excludes has happened: a log is damaged or foreign. Stop the replica."""


class NotLeader(Exception):  # noqa: N818  # an answer, not a failure
    """Only a leader takes proposals, reads and transfers."""


class Overloaded(Exception):  # noqa: N818  # an answer, not a failure
    """Too many bytes are proposed and not yet on a majority. Nothing was done."""
