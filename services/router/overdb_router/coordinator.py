"""Transactions over several groups: holds the commit protocol of each against the links to its groups.

What to do is decided in ``txn.commit``, who goes first in ``txn.sequencer``; here are the requests, the
clock and the words (PROTOCOL 2.3, 2.4).
"""

from __future__ import annotations

import asyncio
import random as standard_random
from collections import deque
from collections.abc import Callable, Sequence

from google.protobuf.message import Message

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.sharding import slot_of
from overdb.v1 import kv_pb2
from overdb_router import refusals
from overdb_router.dispatcher import Dispatcher
from overdb_router.expired import expired_words, pause_before_new_id
from overdb_router.operations import Kind, Op
from overdb_router.queues import OVERHEAD_BYTES
from overdb_router.refusals import Refusal
from overdb_router.settings import RouterSettings
from overdb_router.split import BrokenVote, exclusive_keys, merge, split
from overdb_router.txn import types
from overdb_router.txn.commit import Commit, State
from overdb_router.txn.sequencer import Sequencer
from overdb_router.votes import (
    error_of,
    in_the_way,
    listed,
    metadata_of,
    not_understood,
    payload,
    stale_words,
    vote_of,
)

BACKOFF_SECONDS_MIN = 0.005
BACKOFF_SECONDS_MAX = 0.2
# A group that is full is asked again after this.
OVERLOADED_SECONDS = 0.05
# Resolves and Forgets are for the participants' sake; later than this they finish by themselves (2.5).
RESOLVE_SECONDS_MAX = 10.0
# How long a Resolve or a Forget waits for a message that goes to its group anyway. A Resolve sets keys
# free, so it waits little; nobody waits for a Forget.
RESOLVE_SECONDS = 0.003
FORGET_SECONDS = 0.1
# While votes are missing, those who voted hear of us this often, so that they do not take this router for
# dead (2.5). Well below the nodes' finish_seconds.
SIGN_OF_LIFE_SECONDS = 0.3
# Nobody says that the Prepare ran; whether it may have is known from Op.sent.
_NO_VOTE = frozenset(
    {refusals.RESOURCE_EXHAUSTED, refusals.DEADLINE_EXCEEDED, refusals.UNAVAILABLE}
)


class Coordinator:
    """Takes in transactions whose keys live in several groups, all known."""

    def __init__(
        self,
        settings: RouterSettings,
        dispatcher: Dispatcher,
        random: Callable[[], float] = standard_random.random,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._random = random
        self._loop = asyncio.get_running_loop()
        self.sequencer: Sequencer[_Transaction] = Sequencer()
        self.open = 0  # without an answer
        self.open_bytes = 0
        self._begun: dict[_Transaction, None] = {}  # without an answer
        self._ticking = False
        self._admitted: deque[_Transaction] = deque()
        self._admitting = False
        self.background = 0  # Resolves and Forgets without an answer
        self.attempts_aborted = 0

    def submit(self, op: Op, groups: Sequence[int] = ()) -> None:  # noqa: ARG002 - see Dispatcher
        """Run a transaction; its sink is told, later, exactly once."""
        parts = split(_request(op), self._group_of)
        if (refusal := self._no_room(op, parts)) is not None:
            op.refuse(refusal)
            return
        self.open += 1
        self.open_bytes += op.size
        transaction = _Transaction(self, op, parts)
        if self.sequencer.enter(transaction, exclusive_keys(_request(op))):
            transaction.begin()
        else:
            transaction.wait(self._loop.call_at(op.deadline, transaction.too_late))

    def begin_anew(self, op: Op) -> None:
        """Run a transaction that has another id now."""
        if not op.done:
            self._dispatcher.submit(op)

    async def drain(self, seconds_max: float) -> None:
        """Wait until what was committed is resolved, so that nobody has to finish it for us."""
        end = self._loop.time() + seconds_max
        while self.background and self._loop.time() < end:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.005)

    # --- what transactions ask -------------------------------------------------------------------

    def send(self, kind: Kind, group: int, message: Message, deadline: float, sink: _Part) -> None:
        """Hand a part to its group."""
        op = Op(kind, message, message.ByteSize() + OVERHEAD_BYTES, deadline, sink, sink.attempt)
        link = self._dispatcher.links[group].leader
        if kind is Kind.PREPARE:
            link.submit(op)
        else:
            link.submit_within(op, RESOLVE_SECONDS if kind is Kind.RESOLVE else FORGET_SECONDS)

    def begun(self, transaction: _Transaction) -> None:
        """It sends its first Prepares now."""
        self._begun[transaction] = None
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(SIGN_OF_LIFE_SECONDS, self._tick)

    def closed(self, transaction: _Transaction, op: Op) -> None:
        """A transaction has its answer, or all its votes: whoever it held back may go."""
        self.open -= 1
        self.open_bytes -= op.size
        self._begun.pop(transaction, None)
        self._admitted += self.sequencer.release(transaction)
        if self._admitting:
            return  # one that was just admitted ended at once: no deeper for that
        self._admitting = True
        try:
            while self._admitted:
                self._admitted.popleft().begin()
        finally:
            self._admitting = False

    def backoff(self, retry: int) -> float:
        """Return how long to wait before another attempt, s."""
        longest = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * (1 << min(retry, 16)))
        return longest * (0.5 + 0.5 * self._random())

    def _tick(self) -> None:
        before = self._loop.time() - SIGN_OF_LIFE_SECONDS
        for transaction in list(self._begun):
            if transaction.began_at <= before:
                transaction.show_life()
        self._ticking = bool(self._begun)
        if self._ticking:
            self._loop.call_later(SIGN_OF_LIFE_SECONDS, self._tick)

    def _group_of(self, key: bytes) -> int:
        link = self._dispatcher.by_slot[slot_of(key)]
        assert link is not None  # the dispatcher keeps requests back until their groups are known
        return link.group

    def _no_room(self, op: Op, parts: dict[int, log_pb2.Prepare]) -> Refusal | None:
        if self.open >= self._settings.transactions_open_max:
            return refusals.resource_exhausted(
                "transactions",
                f"{self.open} transactions over several groups are worked on, the limit is "
                f"{self._settings.transactions_open_max}; retry later",
            )
        limit = self._settings.queued_bytes_max
        if self.open and self.open_bytes + op.size > limit:
            return refusals.resource_exhausted(
                "transactions",
                f"{self.open_bytes} bytes of transactions over several groups are worked on, the "
                f"limit is {limit}; retry later",
            )
        for group, part in parts.items():
            size = part.ByteSize() + OVERHEAD_BYTES
            refusal = self._dispatcher.links[group].leader.overloaded(size)
            if refusal is not None:
                return refusal
        return None


class _Part:
    """Who waits for the answer of one group; knows which attempt it was asked about."""

    __slots__ = ("_group", "_transaction", "attempt")

    def __init__(self, transaction: _Transaction, group: int, attempt: int) -> None:
        self._transaction = transaction
        self._group = group
        self.attempt = attempt

    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None:
        if field == "vote":
            self._transaction.voted(self._group, self.attempt, result.vote, again=op.sent)
        else:
            self.refused(op, not_understood(self._group))

    def read(self, op: Op, value: shard_pb2.Value) -> None:
        raise AssertionError(f"{op.kind.name} was answered by a value: {value}")

    def written(self, op: Op, version: int) -> None:
        raise AssertionError(f"{op.kind.name} was answered by the version {version} of a put")

    def got(self, op: Op, content: bytes, version: int) -> None:  # noqa: ARG002
        raise AssertionError(f"{op.kind.name} was answered by what a key holds")

    def refused(self, op: Op, refusal: Refusal) -> None:
        self._transaction.unvoted(self._group, self.attempt, refusal, may_have_run=op.sent)


class _Acknowledgement(_Part):
    """Of a Resolve. One that never comes is no loss: participants finish by themselves (2.5, 2.10)."""

    __slots__ = ()

    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None:  # noqa: ARG002
        self._transaction.coordinator.background -= 1
        if field == "acknowledged":
            self._transaction.resolved(self._group, self.attempt)

    def refused(self, op: Op, refusal: Refusal) -> None:  # noqa: ARG002
        self._transaction.coordinator.background -= 1


class _Nobody(_Part):
    """Of a Forget."""

    __slots__ = ()

    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None:  # noqa: ARG002
        self._transaction.coordinator.background -= 1

    def refused(self, op: Op, refusal: Refusal) -> None:  # noqa: ARG002
        self._transaction.coordinator.background -= 1


class _Transaction:
    """One transaction under way. It lives as long as an answer to one of its parts is awaited."""

    __slots__ = (
        "_closed",
        "_commit",
        "_doubtful",
        "_id",
        "_loop",
        "_may_have_run",
        "_op",
        "_parts",
        "_timer",
        "_unanswered",
        "_unrun",
        "_voted",
        "began_at",
        "coordinator",
    )

    def __init__(self, coordinator: Coordinator, op: Op, parts: dict[int, log_pb2.Prepare]) -> None:
        self.coordinator = coordinator
        self._op: Op | None = op  # None once it is answered: the request may be large
        self._id = kv_pb2.RequestId()
        self._id.CopyFrom(_request(op).id)
        self._parts = parts
        self._commit = Commit(parts, own_id=op.own_id is not None)
        self._loop = asyncio.get_running_loop()
        self.began_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._unanswered: set[int] = set()  # groups that owe a vote for the current attempt
        self._unrun: dict[int, Refusal] = {}  # groups that did not take the Prepare, and why
        # Groups that may have taken a Prepare of the current attempt without our knowing.
        self._doubtful: set[int] = set()
        self._voted: set[int] = set()  # groups that have voted in the current attempt
        self._may_have_run = False  # a Prepare of ours may have reached a group
        self._closed = False

    # --- what happens ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Nothing that conflicts is ahead of it behind this router any more."""
        self._stop_timer()
        self.coordinator.begun(self)
        self._run(self._commit.start())

    def show_life(self) -> None:
        """Say to those who voted that somebody still waits for the others' votes."""
        if self._commit.state is not State.PREPARING or self._closed:
            return
        attempt = self._commit.attempt
        for group in sorted(self._voted):
            part = self._parts[group]
            # What it is about is stored there, along with the vote: the id is enough.
            life = log_pb2.Prepare(
                id=part.id,
                attempt=attempt,
                participants=part.participants,
                fingerprint=part.fingerprint,
                bounded=part.bounded,
            )
            sink = _Part(self, group, attempt)
            self.coordinator.send(Kind.PREPARE, group, life, self._open_op.deadline, sink)

    def wait(self, timer: asyncio.TimerHandle) -> None:
        self._timer = timer

    def too_late(self) -> None:
        """Its time ran out while it was held back by another one."""
        self._timer = None
        self._open_op.refuse(
            Refusal(
                refusals.UNAVAILABLE,
                "the transaction waited until its deadline behind another one on the same keys in "
                "this router; nothing was done, retry",
            )
        )
        self._close()

    def voted(self, group: int, attempt: int, vote: shard_pb2.Vote, *, again: bool) -> None:
        """``again``: an earlier copy of this Prepare may have reached the group."""
        first = group in self._unanswered and group not in self._doubtful and not again
        if vote.kind == shard_pb2.Vote.KIND_STALE and attempt == self._commit.attempt:
            self._stale(vote, may_have_run=not first)
            return
        self._may_have_run = True
        self._unrun.pop(group, None)
        taken = vote_of(group, attempt, vote)
        if attempt == self._commit.attempt:
            self._unanswered.discard(group)
            self._voted.add(group)
        if taken is None:
            self._run(self._commit.fail(not_understood(group)))
            return
        self._run(self._commit.vote(group, taken))
        self._give_up_if_nothing_comes()

    def _stale(self, vote: shard_pb2.Vote, *, may_have_run: bool) -> None:
        """The id has expired in a group. Where that group took no Prepare before, nothing is committed."""
        refusal = stale_words(vote)
        if self._closed:  # it has its answer
            self._run(self._commit.fail(refusal))
            return
        op = self._open_op
        if self._begins_anew(op, refusal, may_have_run=may_have_run):
            self._commit.abandon()
            self._close()
            return
        self._run(self._commit.fail(expired_words(op, refusal, may_have_run=may_have_run)))

    def unvoted(self, group: int, attempt: int, refusal: Refusal, *, may_have_run: bool) -> None:
        """A Prepare was not answered by a vote."""
        self._may_have_run = self._may_have_run or may_have_run
        if may_have_run and attempt == self._commit.attempt:
            self._doubtful.add(group)
        if attempt != self._commit.attempt or group not in self._unanswered:
            return
        unclear = refusal.code == refusals.INTERNAL and self._may_have_run
        if refusal.code not in _NO_VOTE and not unclear:
            self._run(self._commit.fail(refusal))
            return
        if not may_have_run:
            self._unrun[group] = refusal
        again_at = self._loop.time() + OVERLOADED_SECONDS
        if refusal.code == refusals.RESOURCE_EXHAUSTED and again_at < self._open_op.deadline:
            if len(self._unrun) == len(self._parts) and not self._may_have_run:
                self._run(self._commit.fail(refusal))  # it reached nobody
            else:
                self._loop.call_later(OVERLOADED_SECONDS, self._prepare_again, group, attempt)
            return
        self._unanswered.discard(group)
        self._give_up_if_nothing_comes()

    def resolved(self, group: int, attempt: int) -> None:
        self._run(self._commit.resolved(group, attempt))

    def _prepare_again(self, group: int, attempt: int) -> None:
        if attempt == self._commit.attempt and not self._closed:
            self._prepare(types.Prepare(group, attempt))

    def _wake(self) -> None:
        self._timer = None
        self._run(self._commit.wake())

    def _give_up(self) -> None:
        self._timer = None
        self._run(self._commit.give_up())

    def _give_up_if_nothing_comes(self) -> None:
        """Votes are missing, and nobody is going to send them."""
        if not self._closed and not self._unanswered and self._timer is None:
            self._give_up()

    # --- what to do -----------------------------------------------------------------------------

    def _run(self, actions: Sequence[types.Action]) -> None:
        # All of them first: a link may refuse at once, and then not everything is answered yet.
        preparing = {action.group for action in actions if isinstance(action, types.Prepare)}
        if preparing:
            self._stop_timer()
            self._unanswered = preparing
            self._unrun.clear()
            self._doubtful.clear()
            self._voted.clear()
        for action in actions:
            if isinstance(action, types.Prepare):
                self._prepare(action)
            elif isinstance(action, types.Verdict):
                self._answer(action.verdict)
            elif isinstance(action, types.Resolve):
                self._resolve(action)
            elif isinstance(action, types.Forget):
                self._forget(action)
            else:
                self._back_off(action)
        # Behind the Resolves: who was held back finds the keys free (PROTOCOL 2.4).
        if self._commit.answered:
            self._close()

    def _prepare(self, action: types.Prepare) -> None:
        part = self._parts[action.group]
        if action.attempt != part.attempt:
            # A copy: the one before may have to be sent again yet.
            newer = log_pb2.Prepare()
            newer.CopyFrom(part)
            newer.attempt = action.attempt
            self._parts[action.group] = part = newer
        sink = _Part(self, action.group, action.attempt)
        self.coordinator.send(Kind.PREPARE, action.group, part, self._open_op.deadline, sink)

    def _resolve(self, action: types.Resolve) -> None:
        message = log_pb2.Resolve(
            id=self._id,
            attempt=action.attempt,
            branch=log_pb2.Branch.ValueType(action.branch),
            version=action.version,
        )
        sink = _Acknowledgement(self, action.group, action.attempt)
        self._send_in_background(Kind.RESOLVE, action.group, message, sink)

    def _forget(self, action: types.Forget) -> None:
        message = log_pb2.Forget(id=self._id, attempt=action.attempt)
        sink = _Nobody(self, action.group, action.attempt)
        self._send_in_background(Kind.FORGET, action.group, message, sink)

    def _send_in_background(self, kind: Kind, group: int, message: Message, sink: _Part) -> None:
        self.coordinator.background += 1
        deadline = self._loop.time() + RESOLVE_SECONDS_MAX
        self.coordinator.send(kind, group, message, deadline, sink)

    def _back_off(self, action: types.Backoff) -> None:
        self.coordinator.attempts_aborted += 1
        self._unanswered.clear()
        self._stop_timer()
        at = self._loop.time() + self.coordinator.backoff(action.retry)
        if at < self._open_op.deadline:
            self._timer = self._loop.call_at(at, self._wake)
        else:
            self._timer = self._loop.call_at(self._open_op.deadline, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        """Free what only the answer needed; the id stays for the Resolves."""
        if self._closed:
            return
        self._closed = True
        self._stop_timer()
        self._unanswered.clear()
        self._parts = {}
        op, self._op = self._open_op, None
        self.coordinator.closed(self, op)

    @property
    def _open_op(self) -> Op:
        assert self._op is not None
        return self._op

    # --- answers --------------------------------------------------------------------------------

    def _begins_anew(self, op: Op, refusal: Refusal, *, may_have_run: bool) -> bool:
        """Give it another id where that helps. Under the first one it is closed then."""
        pause = pause_before_new_id(
            op, refusal, may_have_run=may_have_run, now_seconds=self._loop.time()
        )
        if pause is None:
            return False
        self._loop.call_later(pause, self.coordinator.begin_anew, op)
        return True

    def _answer(self, verdict: object) -> None:
        op = self._open_op
        if isinstance(verdict, types.Committed):
            self._answer_committed(verdict)
        elif isinstance(verdict, types.Failed):
            refusal = error_of(verdict.error)
            # A stored Refused, or a commit without effect: nothing was done under this id, nor will be.
            decided = refusal.code == refusals.INVALID_ARGUMENT
            if not self._begins_anew(op, refusal, may_have_run=not decided):
                op.refuse(refusal)
        elif isinstance(verdict, types.NotRun):
            self._open_op.refuse(self._not_run(verdict))
        else:
            assert isinstance(verdict, types.Unknown)
            self._open_op.refuse(self._unknown(verdict))

    def _answer_committed(self, committed: types.Committed) -> None:
        op = self._open_op
        votes = {group: payload(vote) for group, vote in committed.votes.items()}
        then = committed.branch is types.Branch.THEN
        try:
            response = merge(self._parts, votes, committed.version, then=then)
        except BrokenVote as broken:
            text = f"the transaction is committed, but its results are broken: {broken}"
            op.refuse(Refusal(refusals.INTERNAL, text))
            return
        op.finish()
        op.sink.answered(op, "transact", shard_pb2.Result(transact=response))

    def _not_run(self, verdict: types.NotRun) -> Refusal:
        waited = self._waited_ms()
        text = (
            f"not run: {in_the_way(verdict.rival)} in each of {verdict.attempts} attempts in "
            f"{waited} ms; try again later, or with more time"
        )
        return refusals.with_reason(
            refusals.ABORTED,
            text,
            "RIVAL_TRANSACTION",
            metadata_of(verdict.rival, waited, verdict.attempts),
        )

    def _unknown(self, verdict: types.Unknown) -> Refusal:
        if not self._may_have_run:
            reasons = "; ".join(one.message for one in self._unrun.values())
            return Refusal(
                refusals.UNAVAILABLE,
                reasons or "the transaction reached none of its groups; nothing was done, retry",
            )
        waited = self._waited_ms()
        text = f"outcome unknown: not decided after {waited} ms, attempt {verdict.attempts}"
        if verdict.silent:
            text += f": no vote from group {listed(verdict.silent)}"
        if verdict.rival is not None:
            text += f"; last, {in_the_way(verdict.rival)}"
        text += "; retry with the same id"
        return refusals.with_reason(
            refusals.DEADLINE_EXCEEDED,
            text,
            "OUTCOME_UNKNOWN",
            metadata_of(verdict.rival, waited, verdict.attempts),
        )

    def _waited_ms(self) -> int:
        return int((self._loop.time() - self.began_at) * 1000)


def _request(op: Op) -> kv_pb2.TransactRequest:
    assert isinstance(op.message, kv_pb2.TransactRequest)
    return op.message
