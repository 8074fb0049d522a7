"""The blocking twin of ``_administration``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from overdb.client import Client
    from overdb.status import GroupMembers, TimeRepair

_T = TypeVar("_T")


class Administration:
    """The methods of :class:`overdb.sync.Client` that change who is a member of a group."""

    _client: Client

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        raise NotImplementedError

    def add_member(
        self, group: int, replica_id: int, address: str, *, timeout: float | None = None
    ) -> GroupMembers:
        """Take a new replica in as a learner. See :meth:`overdb.Client.add_member`."""
        return self._run(self._client.add_member(group, replica_id, address, timeout=timeout))

    def promote_member(
        self, group: int, replica_id: int, *, wait: bool = False, timeout: float | None = None
    ) -> GroupMembers:
        """Make a learner a voter. See :meth:`overdb.Client.promote_member`."""
        return self._run(self._client.promote_member(group, replica_id, wait=wait, timeout=timeout))

    def remove_member(
        self, group: int, replica_id: int, *, force: bool = False, timeout: float | None = None
    ) -> GroupMembers:
        """Take a replica out for good. See :meth:`overdb.Client.remove_member`."""
        return self._run(
            self._client.remove_member(group, replica_id, force=force, timeout=timeout)
        )

    def transfer_leadership(self, group: int, to: int = 0, *, timeout: float | None = None) -> int:
        """Hand leadership over. See :meth:`overdb.Client.transfer_leadership`."""
        return self._run(self._client.transfer_leadership(group, to, timeout=timeout))

    def repair_time(self, group: int, *, timeout: float | None = None) -> TimeRepair:
        """Set a group's time that is ahead of the clocks back. See :meth:`overdb.Client.repair_time`."""
        return self._run(self._client.repair_time(group, timeout=timeout))
