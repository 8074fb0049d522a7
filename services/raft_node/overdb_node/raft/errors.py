"""What the core raises."""

from __future__ import annotations


class ProtocolViolation(Exception):  # noqa: N818  # it names what happened; it is never handled
    """What the protocol excludes has happened: a log is damaged or foreign. Stop the replica."""


class NotLeader(Exception):  # noqa: N818  # an answer, not a failure
    """Only a leader takes proposals, reads and transfers."""


class Overloaded(Exception):  # noqa: N818  # an answer, not a failure
    """Too many bytes are proposed and not yet on a majority. Nothing was done."""


class MembershipRefused(Exception):  # noqa: N818  # an answer, not a failure
    """A change of the members that must not be made now, or never. Nothing was done."""


class ChangeInProgress(MembershipRefused):
    """The change before this one is not committed yet (PROTOCOL 3.2), or leadership is handed over."""


class NotCommittedInTerm(MembershipRefused):
    """The leader has not committed an entry of its own term yet (PROTOCOL 3.2). It soon will."""


class IdRetired(MembershipRefused):
    """The id was a member once: ids are never used twice (PROTOCOL 3.5)."""


class AddressConflict(MembershipRefused):
    """The id, or the address, belongs to another member."""


class DifferentSettings(MembershipRefused):
    """The replica at the address is set to another cluster, group or number of groups (PROTOCOL 3.10)."""


class NoSuchMember(MembershipRefused):
    """The id is not, and never was, a member of this group."""


class NotCaughtUp(MembershipRefused):
    """A learner that lags too far, or does not answer, is not promoted (PROTOCOL 3.5)."""


class Damaged(MembershipRefused):
    """A learner whose log or state is known to be wrong will never be caught up."""


class TooManyMembers(MembershipRefused):
    """Every member costs the leader a copy of everything."""


class LastVoter(MembershipRefused):
    """A group without voters can never commit anything again."""


class QuorumAtRisk(MembershipRefused):
    """The voters that would be left have no majority that answers now."""
