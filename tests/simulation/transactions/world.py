"""Transactions over groups under a seeded schedule: production's machines, nothing between them reliable.

Groups are reliable logs (Raft has its own search). Everything else is lost, duplicated and reordered;
routers die at any point, finishers start at any time, replicas restart from what they have stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from overdb.internal.v1 import shard_pb2
from overdb.sharding import slot_of
from overdb_common.level import LEVEL
from overdb_node import reads
from overdb_node.machine.decision import decide
from overdb_node.machine.machine import Machine, MachineSettings
from overdb_node.machine.types import (
    Advance,
    Command,
    Compare,
    Forget,
    Inquire,
    Operation,
    OperationKind,
    OperationResult,
    Operator,
    Outcome,
    Prepare,
    Refused,
    RequestId,
    Resolve,
    Result,
    Target,
    Token,
    Transact,
    Transacted,
    TransactionId,
    Unread,
    Vote,
    VoteKind,
    Waits,
)
from overdb_router import snapshots
from overdb_router.double_collect import DoubleCollect, Step
from overdb_router.txn import types as txn
from overdb_router.txn.commit import Commit
from tests.unit.machine.helpers import NOW, client
from tests.unit.machine.memory_store import MemoryStore

KEYS_PER_GROUP = 2


def keys_of_group(group: int, groups: int) -> list[bytes]:
    keys: list[bytes] = []
    number = 0
    while len(keys) < KEYS_PER_GROUP:
        key = b"k%d" % number
        if slot_of(key) % groups == group:
            keys.append(key)
        number += 1
    return keys


KEYS = {groups: [keys_of_group(g, groups) for g in range(groups)] for groups in (2, 3)}


@dataclass
class Request:
    """One client's request, and everything that is known of it from outside."""

    id: RequestId
    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    otherwise: tuple[Operation, ...]
    participants: tuple[int, ...]
    began: int | None = None
    answered: int | None = None
    succeeded: bool = False
    version: int = 0
    results: tuple[OperationResult, ...] | None = None  # of the branch that ran
    failed: bool = False  # answered with: did nothing, and never will
    answers: list[object] = field(default_factory=list)
    router: int = -1

    def part(
        self, group: int, attempt: int, owner: dict[bytes, int], *, bounded: bool = True
    ) -> Prepare:
        then = [(p, op) for p, op in enumerate(self.then) if owner[op.key] == group]
        otherwise = [(p, op) for p, op in enumerate(self.otherwise) if owner[op.key] == group]
        return Prepare(
            self.id,
            attempt,
            self.participants,
            1,
            tuple(c for c in self.compares if owner[c.key] == group),
            tuple(op for _, op in then),
            tuple(op for _, op in otherwise),
            tuple(p for p, _ in then),
            tuple(p for p, _ in otherwise),
            bounded,
        )


class Message(NamedTuple):
    """To a group (``result`` None) or an answer on its way back."""

    group: int
    command: Command
    reply_to: tuple[str, int, int]  # "router", router, its life; "client"; "finisher", group, life
    request: int
    result: Result | None = None


@dataclass
class Finishing:
    identity: TransactionId
    attempt: int
    participants: tuple[int, ...]
    votes: dict[int, Vote]
    resolve: Resolve | None = None
    acknowledged: set[int] = field(default_factory=set)


@dataclass
class Reader:
    """A read of several keys over groups: strict by double collect, or a snapshot at one timestamp."""

    keys: dict[int, list[bytes]]  # by group
    strict: bool
    collect: DoubleCollect
    values: dict[bytes, int] = field(default_factory=dict)  # newest version as read
    clocks: dict[int, int] = field(default_factory=dict)
    at: int = 0  # of a snapshot


class Ask(NamedTuple):
    """A read on its way to a group. ``what``: clock, collect, confirm or snapshot."""

    number: int
    group: int
    what: str


class Disk:
    """What ``overdb_node.reads`` reads from."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def newest_many(
        self, wanted: list[tuple[bytes, int | None]]
    ) -> list[tuple[int, bytes | None] | None]:
        return [self._store.newest(key, at) for key, at in wanted]


class GroupLog:
    """One group: what its log decides. A restart loses the memory, never a record."""

    def __init__(self, group: int, groups: int, level: int = LEVEL) -> None:
        self.settings = MachineSettings(group=group, groups=groups, level=level)
        self.store = MemoryStore()
        self.machine = Machine(self.store, self.settings)
        self.machine.load()
        self.index = 0
        self.waiting: dict[Token, list[Message]] = {}

    def apply(self, commands: list[Command], stamp: int) -> list[Result]:
        self.index += 1
        results = self.machine.apply(self.index, 1, stamp, commands)
        self.store.write(self.machine.take_batch())
        return results

    def whole(self, result: Result) -> Result:
        """What its leader answers: values that are not kept are read again."""
        if not isinstance(result, Unread):
            return result
        return self.machine.read_again(result.result)

    def restart(self) -> None:
        self.machine = Machine(self.store, self.settings)
        self.machine.load()
        self.waiting.clear()


class World:
    """All of it. ``run`` is one schedule; raises AssertionError at the first violation."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.groups_count = random.choice((2, 2, 3))
        keys = KEYS[self.groups_count]
        self.keys = [key for ones in keys for key in ones]
        self.owner = {key: group for group, ones in enumerate(keys) for key in ones}
        self.groups = [GroupLog(g, self.groups_count) for g in range(self.groups_count)]
        self.stamps = [NOW + random.randrange(6) for _ in self.groups]
        self.net: list[Message] = []
        self.wakes: list[tuple[int, int, int]] = []
        self.routers: list[dict[int, Commit]] = [{}, {}]
        self.lives = [0, 0]
        self.finishing: dict[tuple[int, TransactionId], Finishing] = {}
        self.now = 0
        self.loss = random.choice((0.0, 0.05, 0.2))
        self.duplication = random.choice((0.0, 0.1))
        self.deaths = random.choice((0.0, 0.02, 0.08))
        self.restarts = random.choice((0.0, 0.02))
        self.counts: dict[str, int] = {}
        self.requests = [self._request(number) for number in range(random.randint(2, 5))]
        self.open = set(range(len(self.requests)))  # requests whose client still wants an answer
        self.readers: dict[int, Reader] = {}
        self.asks: list[Ask] = []
        self.snapshots: set[int] = set()  # requests that were reads at one timestamp

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # --- what is asked for ------------------------------------------------------------------------

    def _request(self, number: int) -> Request:
        random = self.random
        identity = RequestId(client(number + 1), 1, NOW + random.randrange(3), 0)
        single = random.random() < 0.35
        keys = self.keys
        if single:
            group = random.randrange(self.groups_count)
            keys = [key for key in keys if self.owner[key] == group]
        chosen = random.sample(keys, min(len(keys), random.randint(1 if single else 2, 3)))
        compares, then, otherwise = [], [], []
        for key in chosen:
            what = random.random()
            value = b"%d" % (number + 1)
            if what < 0.5:
                then += [
                    Operation(OperationKind.GET, key),
                    Operation(OperationKind.PUT, key, value),
                ]
            elif what < 0.8:
                then.append(Operation(OperationKind.PUT, key, value))
            else:
                then.append(Operation(OperationKind.GET, key))
            if random.random() < 0.3:
                compares.append(Compare(key, Operator.EQUAL, Target.EXISTS, random.random() < 0.5))
                otherwise.append(Operation(OperationKind.GET, key))
        used = {op.key for op in (*then, *otherwise)}
        participants = tuple(sorted({self.owner[key] for key in used}))
        return Request(identity, tuple(compares), tuple(then), tuple(otherwise), participants)

    # --- the schedule -----------------------------------------------------------------------------

    def run(self, steps: int = 60) -> None:
        for number in range(len(self.requests)):
            if self.random.random() < 0.7:
                self.begin(number)
        for _ in range(steps):
            self.step()
        self.heal()

    def step(self) -> None:
        random = self.random
        self.now += 1
        draw = random.random()
        if draw < self.deaths:
            self.kill(random.randrange(2))
        elif draw < self.deaths + self.restarts:
            self.count("restarted")
            random.choice(self.groups).restart()
        elif draw > 0.985 and len(self.readers) < 2:
            self.begin_read(strict=random.random() < 0.5)
        elif self.asks and random.random() < 0.15:
            self.ask(self.asks.pop(random.randrange(len(self.asks))))
        elif draw > 0.95:
            self.finish(random.randrange(self.groups_count))
        elif draw > 0.88 and self.open:
            self.begin(random.choice(sorted(self.open)))  # anew, or again by some router
        elif self.wakes and draw > 0.8:
            self.wake(self.wakes.pop(random.randrange(len(self.wakes))))
        elif self.net:
            message = self.net.pop(random.randrange(len(self.net)))
            if random.random() < self.loss:
                self.count("lost")
                return
            if random.random() < self.duplication:
                self.count("duplicated")
                self.net.append(message)
            self.deliver(message)

    def heal(self) -> None:
        """No more faults: everything must come to an end, and to one that can be explained."""
        self.loss = self.duplication = self.deaths = self.restarts = 0.0
        for _ in range(200):
            self.now += 1
            while self.net:
                self.deliver(self.net.pop(self.random.randrange(len(self.net))))
            asks, self.asks = self.asks, []
            for ask in asks:
                self.ask(ask)
            wakes, self.wakes = self.wakes, []
            for wake in wakes:
                self.wake(wake)
            self.finishing.clear()
            left = [g for g in range(self.groups_count) if self.groups[g].machine.participant.open]
            for number in left:
                self.finish(number)
            for number in sorted(self.open):
                self.begin(number)
            if not (left or self.open or self.net or self.wakes or self.asks):
                break
        else:
            raise AssertionError("it does not come to an end")
        for group in self.groups:
            participant = group.machine.participant
            assert not participant.open, "open for ever"
            assert not participant.parked, "parked for ever"
            assert not participant.alarms, participant.alarms
            assert not participant.locks, "locks without a transaction"

    def kill(self, router: int) -> None:
        self.count("router died")
        self.routers[router] = {}
        self.lives[router] += 1

    # --- clients and routers ------------------------------------------------------------------------

    def begin(self, number: int) -> None:
        request = self.requests[number]
        if request.began is None:
            request.began = self.now
        if len(request.participants) == 1:
            group = request.participants[0]
            command = Transact(request.id, request.compares, request.then, request.otherwise)
            self.net.append(Message(group, command, ("client", 0, 0), number))
            return
        request.router = router = self.random.randrange(2)
        commit = self.routers[router].get(number)
        if commit is None:
            commit = self.routers[router][number] = Commit(request.participants, own_id=False)
            self.act(router, number, commit.start())
        elif not commit.done:  # its Prepare is sent again until it has the vote
            for group in request.participants:
                self.prepare(router, number, group, commit.attempt)

    def prepare(self, router: int, number: int, group: int, attempt: int) -> None:
        part = self.requests[number].part(group, attempt, self.owner)
        self.net.append(Message(group, part, ("router", router, self.lives[router]), number))

    def act(self, router: int, number: int, actions: list[txn.Action]) -> None:
        identity = TransactionId(*self.requests[number].id[:2])
        to = ("router", router, self.lives[router])
        for action in actions:
            if isinstance(action, txn.Prepare):
                self.prepare(router, number, action.group, action.attempt)
            elif isinstance(action, txn.Resolve):
                command: Command = Resolve(
                    identity, action.attempt, Outcome(action.branch), action.version
                )
                self.net.append(Message(action.group, command, to, number))
            elif isinstance(action, txn.Forget):
                self.net.append(Message(action.group, Forget(identity, action.attempt), to, number))
            elif isinstance(action, txn.Backoff):
                self.count("aborted")
                self.wakes.append((router, self.lives[router], number))
            else:
                self.answer(number, action.verdict)
        commit = self.routers[router].get(number)
        if commit is not None and commit.done:
            del self.routers[router][number]

    def wake(self, which: tuple[int, int, int]) -> None:
        router, life, number = which
        commit = self.routers[router].get(number)
        if life == self.lives[router] and commit is not None:
            self.act(router, number, commit.wake())

    def answer(self, number: int, verdict: object) -> None:
        request = self.requests[number]
        if isinstance(verdict, txn.Committed):
            self.count("committed over groups")
            branch = request.then if verdict.branch is txn.Branch.THEN else request.otherwise
            merged: list[OperationResult | None] = [None] * len(branch)
            for group, vote in verdict.votes.items():
                part = request.part(group, 0, self.owner)
                assert isinstance(vote.payload, Vote)
                then = verdict.branch is txn.Branch.THEN
                results = vote.payload.then if then else vote.payload.otherwise
                assert not isinstance(results, Refused)
                positions = part.then_positions if then else part.otherwise_positions
                for position, result in zip(positions, results, strict=True):
                    merged[position] = result
            whole = []
            for operation, one in zip(branch, merged, strict=True):
                assert one is not None
                writes = operation.kind is not OperationKind.GET
                at_commit = writes or (one.found and not one.version)
                whole.append(one._replace(version=verdict.version) if at_commit else one)
            self.settle(
                request,
                Transacted(verdict.branch is txn.Branch.THEN, tuple(whole), verdict.version),
            )
        else:
            raise AssertionError(f"{verdict} of a transaction that could run")
        self.open.discard(number)

    def settle(self, request: Request, result: Transacted) -> None:
        """Every answer to a request is the same answer."""
        assert not request.failed, f"it did nothing, and then {result}"
        if request.results is None:
            request.answered = self.now
            request.succeeded, request.results = result.succeeded, result.results
            request.version = result.version
        else:
            before = Transacted(request.succeeded, request.results, request.version)
            assert before == result, f"two answers: {before} and {result}"

    # --- groups -------------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        if message.result is not None:
            self.take_answer(message)
            return
        group = self.groups[message.group]
        batch = [message]
        if self.random.random() < 0.3:  # several in one entry
            same = [m for m in self.net if m.group == message.group and m.result is None][:3]
            for one in same:
                self.net.remove(one)
            batch += same
        if self.random.random() < 0.2:
            self.stamps[message.group] += self.random.randrange(4)
        results = group.apply([m.command for m in batch], self.stamps[message.group])
        results = [group.whole(result) for result in results]
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, Waits):
                self.count("waited" if isinstance(one.command, Prepare) else "parked")
                group.waiting.setdefault(result.token, []).append(one)
            else:
                self.net.append(one._replace(result=result))
        for token, result in group.machine.take_released():
            for one in group.waiting.pop(token, []):
                self.net.append(one._replace(result=group.whole(result)))

    def take_answer(self, message: Message) -> None:
        kind, who, life = message.reply_to
        result = message.result
        if kind == "client":
            if isinstance(result, Transacted):
                self.settle(self.requests[message.request], result)
                self.open.discard(message.request)
            else:
                raise AssertionError(f"{result} to a request inside a group")
        elif kind == "router":
            commit = self.routers[who].get(message.request)
            if life != self.lives[who] or commit is None:
                return
            if isinstance(message.command, Prepare):
                assert isinstance(result, Vote), result
                if result.kind is VoteKind.SUPERSEDED:
                    self.count("superseded")
                elif result.outcome is not None:
                    self.count("answered from the record")
                actions = commit.vote(message.group, router_vote(result, message.group))
                self.act(who, message.request, actions)
            elif isinstance(message.command, Resolve):
                self.act(
                    who, message.request, commit.resolved(message.group, message.command.attempt)
                )
        else:
            self.take_for_finisher(message)

    # --- readers (PROTOCOL 2.6, 2.7) ----------------------------------------------------------------

    def begin_read(self, *, strict: bool) -> None:
        number = len(self.requests)
        chosen = self.random.sample(self.keys, self.random.randint(2, len(self.keys)))
        by_group: dict[int, list[bytes]] = {}
        for key in chosen:
            by_group.setdefault(self.owner[key], []).append(key)
        order = tuple(Operation(OperationKind.GET, key) for ks in by_group.values() for key in ks)
        identity = RequestId(client(number + 1), 1, NOW, 0)
        self.requests.append(
            Request(identity, (), order, (), tuple(sorted(by_group)), began=self.now)
        )
        self.readers[number] = Reader(by_group, strict, DoubleCollect(len(by_group)))
        if strict:
            self._ask_all(number, "collect")
        else:
            self.snapshots.add(number)
            self.asks += [Ask(number, group, "clock") for group in range(self.groups_count)]

    def _ask_all(self, number: int, what: str) -> None:
        self.asks += [Ask(number, group, what) for group in self.readers[number].keys]

    def ask(self, ask: Ask) -> None:
        """A group answers, or the read waits and asks again."""
        reader = self.readers.get(ask.number)
        if reader is None:
            return
        group = self.groups[ask.group]
        if ask.what == "clock":
            reader.clocks[ask.group] = group.machine.clock
            if len(reader.clocks) == self.groups_count:
                reader.at = snapshots.newest_of(reader.clocks.values())
                self._ask_all(ask.number, "snapshot")
        elif ask.what == "snapshot":
            self._read_at(ask, reader, group)
        else:
            self._read_strictly(ask, reader, group)

    def _read_at(self, ask: Ask, reader: Reader, group: GroupLog) -> None:
        if group.machine.clock < reader.at:
            group.apply([Advance(reader.at)], self.stamps[ask.group])
        keys = reader.keys[ask.group]
        if any(group.machine.participant.reader_waits(key, reader.at) for key in keys):
            self.count("read waited")
            self.asks.append(ask)
            return
        for key in keys:
            found = group.store.newest(key, reader.at)
            reader.values[key] = 0 if found is None else found[0]
        if len(reader.values) == sum(map(len, reader.keys.values())):
            self.count("snapshot read")
            self._read_done(ask.number)

    def _read_strictly(self, ask: Ask, reader: Reader, group: GroupLog) -> None:
        parts = list(reader.keys)
        part, keys = parts.index(ask.group), reader.keys[ask.group]
        wanted = shard_pb2.ReadSet(keys=keys)
        if ask.what == "confirm":
            wanted.versions.extend(reader.collect.versions(part))
            wanted.clock = reader.collect.clock
        read = shard_pb2.Read(set=wanted)
        if reads.is_blocked(group.machine, read):
            self.count("read waited")
            self.asks.append(ask)
            return
        answer = shard_pb2.Value()
        reads.answer_set(group.machine, Disk(group.store), wanted, answer)  # type: ignore[arg-type]
        if answer.HasField("behind"):
            self.count("advanced")
            group.apply([Advance(wanted.clock)], self.stamps[ask.group])
            self.asks.append(ask)
            return
        if ask.what == "collect":
            reader.values.update(zip(keys, answer.set.versions, strict=True))
            step = reader.collect.collected(part, answer.set.versions)
        else:
            step = reader.collect.confirmed(part, unchanged=answer.set.unchanged)
        if step is Step.COLLECT:
            self.count("collected again")
            self._ask_all(ask.number, "collect")
        elif step is Step.CONFIRM:
            self._ask_all(ask.number, "confirm")
        elif step is Step.DONE:
            self.count("strict read")
            self._read_done(ask.number)
        elif step is Step.GIVE_UP:  # as production does: an ordinary transaction with shared locks
            self.count("read with locks")
            del self.readers[ask.number]
            self.open.add(ask.number)

    def _read_done(self, number: int) -> None:
        reader, request = self.readers.pop(number), self.requests[number]
        versions = [reader.values[operation.key] for operation in request.then]
        results = tuple(OperationResult(bool(version), b"", version) for version in versions)
        self.settle(request, Transacted(True, results, reader.at))

    # --- finishers ------------------------------------------------------------------------------------

    def finish(self, group: int) -> None:
        participant = self.groups[group].machine.participant
        for one in list(participant.open.values()):
            self.count("finishing")
            assert one.vote is not None
            work = Finishing(one.id, one.attempt, one.participants, {group: one.vote})
            self.finishing[group, one.id] = work
            number = next(
                n for n, r in enumerate(self.requests) if r.id.client_id == one.id.client_id
            )
            for other in one.participants:
                if other != group:
                    command = Inquire(one.request, one.attempt, one.fingerprint, one.participants)
                    to = ("finisher", group, one.attempt)
                    self.net.append(Message(other, command, to, number))

    def take_for_finisher(self, message: Message) -> None:
        group = message.reply_to[1]
        identity = TransactionId(*self.requests[message.request].id[:2])
        work = self.finishing.get((group, identity))
        if work is None or work.attempt != message.reply_to[2]:
            return
        if isinstance(message.result, Vote):
            work.votes[message.group] = message.result
            if work.resolve is not None:
                return
            votes = [work.votes.get(g) for g in work.participants]
            outcome = decide(identity, work.attempt, votes)
            if outcome is None or not self.finisher_may_act(group, work):
                return
            work.resolve = outcome
            self.count("finished")
            for other in work.participants:
                self.net.append(Message(other, outcome, message.reply_to, message.request))
        elif isinstance(message.command, Resolve):
            work.acknowledged.add(message.group)
            if len(work.acknowledged) == len(work.participants):
                for other in work.participants:
                    forget = Forget(identity, work.attempt)
                    self.net.append(Message(other, forget, message.reply_to, message.request))

    def finisher_may_act(self, group: int, work: Finishing) -> bool:
        own = self.groups[group].machine.participant.open.get(work.identity)
        return own is not None and own.attempt == work.attempt


def router_vote(vote: Vote, group: int) -> txn.Vote:
    """As the router reads it from the wire."""
    if vote.kind is VoteKind.PREPARED:
        outcome = None
        if vote.outcome is not None:
            outcome = txn.Outcome(txn.Branch(vote.outcome), vote.commit_version)
        return txn.Prepared(
            vote.attempt,
            vote.holds,
            vote.version,
            vote.then if isinstance(vote.then, Refused) else None,
            vote.otherwise if isinstance(vote.otherwise, Refused) else None,
            outcome,
            vote,
            vote.sized,
            vote.then_answer_bytes,
            vote.otherwise_answer_bytes,
        )
    if vote.kind is VoteKind.REFUSED:
        rival = None
        if vote.rival is not None:
            rival = txn.Rival(*vote.rival, vote.key, group)
        return txn.Refused(vote.attempt, vote.refusal, vote.again, rival)
    if vote.kind is VoteKind.SUPERSEDED:
        return txn.Superseded(vote.attempt)
    if vote.kind is VoteKind.STALE:
        return txn.Stale(vote.attempt, vote.refusal)
    return txn.Reused(vote.attempt, vote.refusal)
