"""A leader finishes transactions whose router is gone (PROTOCOL 2.5), and has them forgotten (2.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_common.addresses import split_addresses
from overdb_node import transaction_codec
from overdb_node.machine.decision import decide
from overdb_node.machine.records import Transaction
from overdb_node.machine.types import Outcome, Resolve, TransactionId, Vote
from overdb_node.transport.groups import Groups
from overdb_node.transport.shard_service import OneAnswer

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()
BATCH_MAX = 256  # transactions of the same groups that are worked on at a time
_OWN_SECONDS_MAX = 5.0

_Work = list[Transaction]


class Overdue:
    """Since when each transaction shows no sign of life, by this process's clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[TransactionId, tuple[tuple[int, int], float]] = {}
        self.hurried: set[TransactionId] = set()  # due at the next look, if they are watched

    def pick(self, watched: Mapping[TransactionId, Transaction], now: float) -> _Work:
        """Those that have been as they are for longer than allowed."""
        before, self._since = self._since, {}
        hurried, self.hurried = self.hurried, set()
        due = []
        for identity, transaction in watched.items():
            mark = (transaction.attempt, transaction.heard)
            known = before.get(identity)
            if known is None or known[0] != mark:
                known = (mark, now)
            self._since[identity] = known
            if now - known[1] >= self._seconds or identity in hurried:
                due.append(transaction)
        return due


class Finisher:
    """Works while its replica leads. What it cannot finish comes up again."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        settings = replica.settings
        self._groups = Groups(
            split_addresses(settings.seeds), lambda: (settings.cluster, settings.groups)
        )
        self._open = Overdue(settings.finish_seconds)
        self._unforgotten = Overdue(settings.forget_seconds)
        # One at a time for each set of groups: one that does not answer holds up its own alone.
        self._tasks: dict[tuple[int, ...], asyncio.Task[None]] = {}
        self.finished = 0

    def hurry(self, identities: Iterable[TransactionId]) -> None:
        """Finish these at the next tick: somebody has said that they are decided, and was not believed."""
        watched = self._replica.machine.participant.open
        self._open.hurried.update(one for one in identities if one in watched)

    def tick(self) -> None:
        """Called at every tick of the replica."""
        replica = self._replica
        if not replica.raft.serves or replica.raft.installing:
            return
        participant = replica.machine.participant
        now = asyncio.get_running_loop().time()
        due = self._open.pick(participant.open, now)
        known = self._unforgotten.pick(participant.unforgotten, now)
        for participants in {one.participants for one in (*due, *known)}:
            if participants not in self._tasks:
                mine = [one for one in due if one.participants == participants]
                told = [one for one in known if one.participants == participants]
                work = self._run(mine[:BATCH_MAX], told[:BATCH_MAX])
                task = asyncio.create_task(work, name="finisher")
                self._tasks[participants] = task
                task.add_done_callback(partial(self._ended, participants))

    def _ended(self, participants: tuple[int, ...], _: asyncio.Task[None]) -> None:
        del self._tasks[participants]

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._groups.close()

    async def _run(self, due: _Work, known: _Work) -> None:
        try:
            outcomes = [(one, _outcome_of(one)) for one in known]
            outcomes += await self._inquire(due)
            await self._tell(outcomes)
        except Exception as error:  # the next round tries again; it must not end quietly
            _log.error("finisher_failed", reason=repr(error))

    async def _inquire(self, due: _Work) -> list[tuple[Transaction, Resolve]]:
        """Ask every other participant, and decide what can be decided."""
        own = self._replica.settings.group
        asked = {
            group: [one for one in due if group in one.participants]
            for group in sorted({group for one in due for group in one.participants} - {own})
        }
        answers = await asyncio.gather(
            *(
                self._submit(group, [transaction_codec.inquire_command(one) for one in ones])
                for group, ones in asked.items()
            )
        )
        votes: dict[TransactionId, list[Vote | None]] = {one.id: [one.vote] for one in due}
        for ones, results in zip(asked.values(), answers, strict=True):
            for position, one in enumerate(ones):
                votes[one.id].append(_vote_in(results, position))
        decided = []
        for one in due:
            outcome = decide(one.id, one.attempt, votes[one.id])
            if outcome is not None and self._is_still_open(one):
                decided.append((one, outcome))
        return decided

    def _is_still_open(self, transaction: Transaction) -> bool:
        """(!) The answers count only while the own vote is open: it may have been finished meanwhile."""
        replica = self._replica
        now = replica.machine.participant.open.get(transaction.id)
        return replica.raft.serves and now is not None and now.attempt == transaction.attempt

    async def _tell(self, outcomes: Sequence[tuple[Transaction, Resolve]]) -> None:
        """Resolve everywhere; where all have acknowledged a commit, have it forgotten."""
        if not outcomes:
            return
        refused: set[TransactionId] = set()
        for group, ones, results in await self._send(outcomes, transaction_codec.resolve_command):
            for position, (one, _) in enumerate(ones):
                if results is None or not results[position].HasField("acknowledged"):
                    refused.add(one.id)
                    if results is not None:
                        _log.error("resolve_refused", to_group=group, result=str(results[position]))
        self.finished += len(outcomes)
        _log.info(
            "transactions_finished",
            group=self._replica.settings.group,
            count=len(outcomes),
            committed=sum(outcome.outcome is not Outcome.ABORTED for _, outcome in outcomes),
            not_acknowledged=len(refused),
        )
        everywhere = [
            (one, outcome)
            for one, outcome in outcomes
            if one.id not in refused and outcome.outcome is not Outcome.ABORTED
        ]
        await self._send(everywhere, transaction_codec.forget_command)

    async def _send(
        self,
        outcomes: Sequence[tuple[Transaction, Resolve]],
        command: transaction_codec.OfOutcome,
    ) -> list[tuple[int, list[tuple[Transaction, Resolve]], list[shard_pb2.Result] | None]]:
        """One message to each group with everything that concerns it.

        This group is always among them: at level 0 a forged Prepare may not name it.
        """
        own = self._replica.settings.group
        groups = sorted({own, *(group for one, _ in outcomes for group in one.participants)})
        by_group = [
            (group, [item for item in outcomes if group in (own, *item[0].participants)])
            for group in groups
        ]
        results = await asyncio.gather(
            *(
                self._submit(group, [command(outcome) for _, outcome in items])
                for group, items in by_group
            )
        )
        return [(group, items, r) for (group, items), r in zip(by_group, results, strict=True)]

    async def _submit(
        self, group: int, commands: Iterable[log_pb2.Command]
    ) -> list[shard_pb2.Result] | None:
        """To the leader of a group, this replica itself if it is its own. None: no answer."""
        wire = list(commands)
        if group != self._replica.settings.group:
            return await self._groups.submit(group, wire)
        answer = OneAnswer()
        self._replica.propose(log_pb2.Commands(commands=wire).SerializeToString(), 0, answer)
        try:
            async with asyncio.timeout(_OWN_SECONDS_MAX):
                response = await answer.response()
        except TimeoutError:
            return None
        return None if response.HasField("failure") else list(response.results)


def _outcome_of(transaction: Transaction) -> Resolve:
    vote = transaction.vote
    assert vote is not None
    assert vote.outcome is not None
    return Resolve(transaction.id, transaction.attempt, vote.outcome, vote.commit_version)


def _vote_in(results: Sequence[shard_pb2.Result] | None, position: int) -> Vote | None:
    if results is None or not results[position].HasField("vote"):
        return None
    return transaction_codec.decode_vote(results[position].vote)
