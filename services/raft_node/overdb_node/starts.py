"""Starts: which life of which directory speaks, and whether that directory is outdated (PROTOCOL 3.9).

A directory that travels back in time (restored from a copy, cloned, rolled back with a virtual machine) has
forgotten votes and acknowledgements, and looks like one whose process was just restarted. So each start has a
number, one more than the last one of this directory, and a random id; the number also grows every
RENEWAL_SECONDS while the process runs. The other replicas note the newest start that they have heard of. One
that then comes with a smaller number, or with the same number and another id, is outdated; so is one with a
larger number, when what was noted is no life of its directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from overdb_node.storage import starts as disk
from overdb_node.storage.starts import NUMBER_MAX, Noted, Start

RENEWAL_SECONDS = 2.0
# Packets of the same life may arrive after newer ones: by so many renewals.
LATE_RENEWALS_MAX = 5
# Ids of strangers are not noted without bound: a group has 16 members at most, and new ids replace old ones.
NOTED_MAX = 64


class Starts:
    """The start of this process, and the newest starts of the other replicas, in memory and on disk."""

    def __init__(self, directory: Path, own: Start) -> None:
        """Raises StartupError when what was noted is damaged."""
        found = disk.read(directory)
        self._directory = directory
        self.own = own
        self.lives = disk.lives(directory)
        self.outdated = (
            found.outdated
        )  # why this directory must stay out; empty: nothing is known against it
        self._heard: dict[int, Start] = dict(found.others)
        # Ids of the lives that are on disk, by replica. How far a number has grown within a life may be newer
        # in memory: it is written with the next renewal.
        self._durable: dict[int, int] = {i: start.id for i, start in found.others.items()}
        self._writing = asyncio.Lock()

    @property
    def heard(self) -> Mapping[int, Start]:
        return self._heard

    def objection(self, replica_id: int, start: Start, lives: Sequence[Start] = ()) -> str:
        """Why nothing that this start of a replica says counts; "" when nothing is known against it.

        ``lives``: how the lives of its directory began, as far as it says so.
        """
        known = self._heard.get(replica_id)
        if known is None or not start.number:  # an older program: it cannot say which start it is
            return ""
        if start.id == known.id:
            is_outdated = start.number + LATE_RENEWALS_MAX < known.number
        else:
            is_outdated = start.number <= known.number or not could_be_of(lives, known)
        if start.number <= NUMBER_MAX and not is_outdated:
            return ""
        return (
            f"the directory of replica {replica_id} is an old copy: it says start {start.number}, and start "
            f"{known.number} was heard before"
        )

    def may_count(self, replica_id: int, start: Start) -> bool:
        """Whether this life is noted durably: nothing that it says may count or be answered before (!)."""
        if not start.number:
            return True
        return self._durable.get(replica_id) == start.id

    def learn(self, replica_id: int, start: Start) -> None:
        """Remember a start that was heard of, if it is newer; it is on disk after the next renewal.

        From an answer to an own question alone: a packet may say anything (!).
        """
        known = self._heard.get(replica_id)
        if known is None and len(self._heard) >= NOTED_MAX:
            return
        if 0 < start.number <= NUMBER_MAX and (known is None or start.number > known.number):
            self._heard[replica_id] = start

    async def note(self, replica_id: int, start: Start) -> None:
        """Note a life durably, unless a newer one is known; from answers alone, too. Raises OSError."""
        self.learn(replica_id, start)
        async with self._writing:
            known = self._heard.get(replica_id)
            if known is not None and known.id == start.id != self._durable.get(replica_id):
                await self._write(self.own.number)

    async def renew(self) -> None:
        """Let the own number grow. It is told when it is durable. Raises OSError."""
        async with self._writing:
            await self._write(self.own.number + 1)

    async def stay_out(self, reason: str) -> None:
        """Note for good that this directory is outdated. Raises OSError."""
        async with self._writing:
            self.outdated = reason
            await self._write(self.own.number)

    async def save(self) -> None:
        """Write what has grown in memory since the last renewal. Raises OSError."""
        async with self._writing:
            await self._write(self.own.number)

    def forget(self, removed: Iterable[int]) -> None:
        """Ids that were removed are never used again."""
        for replica_id in removed:
            self._heard.pop(replica_id, None)
            self._durable.pop(replica_id, None)

    async def _write(self, number: int) -> None:
        others = dict(self._heard)
        noted = Noted(number, others, self.outdated)
        await asyncio.to_thread(disk.write, self._directory, noted)
        self.own = Start(number, self.own.id)
        self._durable = {i: start.id for i, start in others.items()}


def contradiction(own: Start, asked: Start, known: Start, lives: Sequence[Start] = ()) -> bool:
    """Whether another replica's note proves that the own directory is outdated.

    ``asked`` is the start that it was asked with, ``own`` what that has become when its answer is here,
    ``lives`` how the lives of the own directory began.
    """
    if known.id == own.id:
        return known.number > own.number
    return known.number >= asked.number or not could_be_of(lives, known)


def could_be_of(lives: Sequence[Start], known: Start) -> bool:
    """Whether a start that was noted may be one of these lives (ascending): who had its number has its id.

    An old copy that is started again and again, and heard by nobody, counts up beyond what was noted (!).
    """
    had_it = [life for life in lives if life.number <= known.number]
    return not had_it or had_it[-1].id == known.id
