"""An upgrade under the search's schedules: groups rise to level 1 at different times, one router stays old.

The answers of some transactions are too large over all groups together. A router and a finisher of this
release decide with that bound, the old router without it.
"""

from __future__ import annotations

from overdb_common import outcome
from overdb_common.level import LEVEL
from overdb_node.machine.types import Configure, Outcome, Prepare, Refused, Resolve, Vote
from overdb_router.txn import types as txn
from tests.simulation.transactions.world import GroupLog, Message, World, router_vote

OLD = 1  # the router that runs the release before
# Of the answer, in place of 4 MiB: two results of a transaction here are within it, four are not.
ANSWER_BYTES_MAX = 3 * outcome.RESULT_OVERHEAD_BYTES + 3


class UpgradingWorld(World):
    """Set ``outcome.ANSWER_BYTES_MAX`` to ANSWER_BYTES_MAX first."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.groups = [GroupLog(g, self.groups_count, level=0) for g in range(self.groups_count)]
        self.rises_at = [
            self.random.choice((0, 8, 16, 24)) + self.random.randrange(16) for _ in self.groups
        ]
        self.lag = self.random.choice((0, 3, 9))  # of what a leader knows of its own log

    def step(self) -> None:
        for number, group in enumerate(self.groups):
            if self.now >= self.rises_at[number] and not group.machine.level:
                self._raise(number)
        super().step()

    def heal(self) -> None:
        for number in range(self.groups_count):
            self._raise(number)
        self.kill(OLD)  # the operator upgrades it
        self.upgraded = True
        super().heal()

    upgraded = False

    def _is_old(self, kind: str, who: int) -> bool:
        return kind == "router" and who == OLD and not self.upgraded

    def _raise(self, number: int) -> None:
        group = self.groups[number]
        group.apply([Configure(group.settings.limits, LEVEL)], self.stamps[number])

    def prepare(self, router: int, number: int, group: int, attempt: int) -> None:
        bounded = not self._is_old("router", router)
        part = self.requests[number].part(group, attempt, self.owner, bounded=bounded)
        self.net.append(Message(group, part, ("router", router, self.lives[router]), number))

    def deliver(self, message: Message) -> None:
        kind, who, _ = message.reply_to
        old = self._is_old(kind, who) and isinstance(message.command, Prepare | Resolve)
        if message.result is None and old and self.now > self.rises_at[message.group] + self.lag:
            self.count("old router refused by a leader")
            return
        super().deliver(message)

    def take_answer(self, message: Message) -> None:
        kind, who, life = message.reply_to
        if isinstance(message.result, Refused) and isinstance(message.command, Prepare):
            assert self._is_old(kind, who) or life != self.lives[who], message
            self.count("old router refused by the log")
            return
        if not self._is_old(kind, who) or not isinstance(message.result, Vote):
            super().take_answer(message)
            return
        commit = self.routers[who].get(message.request)
        if life == self.lives[who] and commit is not None:
            vote = router_vote(message.result._replace(sized=False), message.group)
            self.act(who, message.request, commit.vote(message.group, vote))

    def answer(self, number: int, verdict: object) -> None:
        request = self.requests[number]
        if isinstance(verdict, txn.Failed) and isinstance(verdict.error, txn.TooLarge):
            self.count("too large over groups")
            assert request.results is None, "it was answered, and then it did nothing"
            request.failed, request.answered = True, self.now
            self.open.discard(number)
            return
        if isinstance(verdict, txn.Committed):
            then = verdict.branch is txn.Branch.THEN
            branch = request.then if then else request.otherwise
            if len(branch) * outcome.RESULT_OVERHEAD_BYTES > ANSWER_BYTES_MAX:
                self.count("too large, committed by the rules before")
        super().answer(number, verdict)


def outcomes_agree(world: World) -> None:
    """No two groups have different outcomes of one attempt."""
    known: dict[tuple[object, int], tuple[Outcome, int]] = {}
    for group in world.groups:
        for one in group.machine.participant.transactions():
            if one.vote is not None and one.vote.outcome is not None:
                told = (one.vote.outcome, one.vote.commit_version)
                before = known.setdefault((one.id, one.attempt), told)
                assert before == told, f"{one.id} attempt {one.attempt}: {before} and {told}"
