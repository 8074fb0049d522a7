"""A group's side of transactions as far as a router can tell: locks without queues, votes, outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from tests.unit.router.fakes import FakeGroup

Identity = tuple[bytes, int]
Vote = shard_pb2.Vote


@dataclass
class Record:
    prepare: log_pb2.Prepare
    vote: shard_pb2.Vote


@dataclass
class FakeParticipant:
    """Whoever finds a key held is refused. ``script`` answers the next Prepares in its place."""

    group: FakeGroup
    records: dict[Identity, Record] = field(default_factory=dict)
    held: dict[bytes, Identity] = field(default_factory=dict)
    forgotten: list[Identity] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    script: list[shard_pb2.Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.group.participate = self.participate

    def participate(self, command: log_pb2.Command) -> shard_pb2.Result:
        kind = command.WhichOneof("command")
        assert kind is not None
        message = getattr(command, kind)
        identity = (message.id.client_id, message.id.request_number)
        self.commands.append(f"{kind} {message.attempt}")
        if kind == "prepare":
            if self.script:
                return self.script.pop(0)
            return shard_pb2.Result(vote=self._prepare(identity, message))
        if kind == "resolve":
            self._resolve(identity, message)
        else:
            assert kind == "forget"
            self.forgotten.append(identity)
        return shard_pb2.Result(acknowledged=shard_pb2.Acknowledged())

    def _prepare(self, identity: Identity, prepare: log_pb2.Prepare) -> shard_pb2.Vote:
        record = self.records.get(identity)
        if record is not None:
            if record.prepare.fingerprint != prepare.fingerprint:
                return Vote(kind=Vote.KIND_REUSED, attempt=prepare.attempt)
            if prepare.attempt < record.prepare.attempt:
                return Vote(kind=Vote.KIND_SUPERSEDED, attempt=record.prepare.attempt)
            if prepare.attempt == record.prepare.attempt:
                return record.vote
            self._release(identity)
        vote = self._vote(identity, prepare)
        self.records[identity] = Record(prepare, vote)
        return vote

    def _vote(self, identity: Identity, prepare: log_pb2.Prepare) -> shard_pb2.Vote:
        keys = [one.key for one in prepare.compares]
        keys += [_key(one) for one in (*prepare.then, *prepare.otherwise)]
        for key in keys:
            if key in self.held:
                client_id, number = self.held[key]
                vote = Vote(kind=Vote.KIND_REFUSED, attempt=prepare.attempt, again=True, key=key)
                vote.rival.client_id, vote.rival.request_number = client_id, number
                return vote
        self.held.update(dict.fromkeys(keys, identity))
        state = self.group.state
        state.clock += 1
        vote = Vote(kind=Vote.KIND_PREPARED, attempt=prepare.attempt, version=state.clock)
        vote.holds = all(
            (state.newest(one.key, state.clock) is not None) == one.exists
            for one in prepare.compares
        )
        for operations, results in ((prepare.then, vote.then), (prepare.otherwise, vote.otherwise)):
            for operation in operations:
                found = state.newest(_key(operation), state.clock)
                result = results.add(found=found is not None)
                if found is not None and operation.HasField("get"):
                    result.version, result.value = found
        return vote

    def _resolve(self, identity: Identity, resolve: log_pb2.Resolve) -> None:
        record = self.records.get(identity)
        if record is None or record.vote.resolved or record.prepare.attempt != resolve.attempt:
            return
        if record.vote.kind != Vote.KIND_PREPARED:
            return
        record.vote.resolved = True
        record.vote.branch = resolve.branch
        record.vote.commit_version = resolve.version
        state = self.group.state
        state.clock = max(state.clock, resolve.version)
        branches = {1: record.prepare.then, 2: record.prepare.otherwise}
        branch = branches.get(resolve.branch, ())
        for operation in branch:
            if operation.HasField("put"):
                state.versions.setdefault(operation.put.key, []).append(
                    (resolve.version, operation.put.value)
                )
                state.runs += 1
        self._release(identity)

    def _release(self, identity: Identity) -> None:
        self.held = {key: holder for key, holder in self.held.items() if holder != identity}


def _key(operation: kv_pb2.Operation) -> bytes:
    kind = operation.WhichOneof("operation")
    assert kind is not None
    key: bytes = getattr(operation, kind).key
    return key
