"""Messages that nobody should send, to replicas of a running cluster: what a stranger at the port can do.

Only those that must be survived with every promise kept. Whoever forges what a member could say, with the
number of its directory, is that member to the others: without authentication nothing helps (PROTOCOL 1.5).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from overdb.ids import uuid7
from overdb.internal.v1 import log_pb2, raft_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_common.level import LEVEL
from overdb_node.backend import ReplicaBackend
from overdb_node.raft.messages import Append, Message, VoteRequest
from overdb_node.raft.plausible import implausible
from overdb_node.raft.types import Entry, EntryKind
from overdb_node.replica import Replica
from overdb_node.storage.starts import Start
from overdb_node.transport import wire
from overdb_node.transport.peers import Sender
from overdb_node.transport.shard_service import Answers
from overdb_simulation.cluster import Cluster, Node
from tests.unit.machine.hostile_commands import EDGES_32, EDGES_64
from tests.unit.raft.hostile_messages import Hostile

STRANGER = 7_777
MARK = b"hostile!!"  # the end of every client id that is made up here
MEMBERS = log_pb2.Configuration(
    replicas=[log_pb2.Replica(id=STRANGER, address="stranger:7410", voter=True)]
).SerializeToString()
PACKETS = 6
COMMANDS = 6


class HostileMessages:
    """Sends a burst to one replica."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self._messages = Hostile(random, MEMBERS)

    def strike(self, node: Node) -> None:
        replica, process = node.replica, node.process
        if replica is None or process is None or not process.alive or process.paused:
            return
        self._cluster.world.loop.inside(process, self._send, node, replica)

    def _send(self, node: Node, replica: Replica) -> None:
        target = self._cluster.world.network.raft.get(node.address)
        if target is None or replica.failed:
            return
        _, _, hear = target
        members = [one for one in replica.raft.log.members if one.replica_id != node.replica_id]
        for _ in range(PACKETS):
            if members and self._random.random() < 0.5:
                member = self._random.choice(members)
                known = member.incarnation or replica.admission.founders.get(member.replica_id, 0)
                self._send_packet(replica, Sender(member.replica_id, known, level=LEVEL), hear)
                if self._random.random() < 0.3:
                    start = self._later_start(replica, member.replica_id)
                    hear(Sender(member.replica_id, known, start=start, level=LEVEL), [])
            else:
                number = self._random.getrandbits(64)
                who = Sender(STRANGER, number, "stranger:7410", level=LEVEL)
                self._send_packet(replica, who, hear, anything=True)
        self._send_commands(replica)

    def _later_start(self, replica: Replica, member: int) -> Start:
        """Returns a start that would turn the live member into an old copy if it were noted."""
        noted = replica.admission.starts.heard.get(member, Start(1, 1))
        start_id = self._random.choice((noted.id, self._random.getrandbits(64)))
        return Start(noted.number + self._random.choice((1, 3, 10**6)), start_id)

    def _send_packet(
        self,
        replica: Replica,
        sender: Sender,
        hear: Callable[[Sender, list[object]], None],
        *,
        anything: bool = False,
    ) -> None:
        """As over the wire. A member's name is used for what no member has sent (PROTOCOL 1.5)."""
        message = self._messages.message(replica.raft)
        if anything and self._random.random() < 0.5:
            message = self._take_over(replica)
        out = raft_pb2.RaftMessage()
        try:
            wire.encode(message, out)
            arrived = wire.decode(raft_pb2.RaftMessage.FromString(out.SerializeToString()))
        except (wire.MalformedMessage, ValueError):  # no such message can be sent, or is let in
            return
        if anything or implausible(replica.raft, sender.replica_id, arrived):
            hear(sender, [arrived])

    def _take_over(self, replica: Replica) -> Message:
        """As a candidate or a leader of the next term, whose log has all and is another one."""
        raft = replica.raft
        term, first = raft.term + 1, raft.commit_index + 1
        if self._random.random() < 0.5:
            return VoteRequest(term, raft.log.last_index + 9, raft.log.last_term, transfer=True)
        entries = tuple(Entry(first + i, term, EntryKind.COMMANDS, b"") for i in range(3))
        return Append(term, 1, first, entries, first + 2)

    # --- commands and reads -------------------------------------------------------------------------

    def _send_commands(self, replica: Replica) -> None:
        backend = ReplicaBackend(replica)
        for _ in range(COMMANDS):
            request = shard_pb2.ShardRequest(group=replica.settings.group, sequence=1)
            if self._random.random() < 0.2:
                request.reads.CopyFrom(self._reads())
            elif self._random.random() < 0.1:
                request.commands = self._random.randbytes(self._random.randrange(1, 40))
            else:
                commands = [self._command(replica) for _ in range(self._random.randrange(1, 4))]
                request.commands = log_pb2.Commands(commands=commands).SerializeToString()
            backend.exchange(request, Answers())

    def _id(self) -> kv_pb2.RequestId:
        """Of nobody; mostly one that could be somebody's, as old as the cluster or of any other time."""
        random = self._random
        now = self._cluster.world.wall_ns() // 1_000_000
        at = now if random.random() < 0.6 else random.choice((0, 1, now + 10**8, (1 << 48) - 1))
        client_id = uuid7(at, random.randbytes(10))[: -len(MARK)] + MARK
        if random.random() < 0.1:
            client_id = random.choice((b"", MARK, client_id * 2))
        return kv_pb2.RequestId(
            client_id=client_id,
            request_number=random.choice((1, 1, 2, *EDGES_64)),
            started_at=random.choice((now * 1000, *EDGES_64)),
            acknowledged_below=random.choice((0, 1, *EDGES_64)),
        )

    def _command(self, replica: Replica) -> log_pb2.Command:
        random, command = self._random, log_pb2.Command()
        kind = random.choice(
            ("prepare", "resolve", "own_resolve", "inquire", "forget", "configure", "compare", "")
        )
        attempt = random.choice((0, 0, 1, *EDGES_32))
        participants = random.choice(([0, 1], [0, 1], [], [1, 0], [0, 4096], list(range(300))))
        if kind == "prepare":  # in one group: the finisher ends it
            prepare = command.prepare
            prepare.id.CopyFrom(self._id())
            prepare.attempt, prepare.fingerprint = attempt, random.choice((7, 0, (1 << 64) - 1))
            prepare.participants.extend(participants)
            prepare.then.add().get.key = b"hostile"
            prepare.then_positions.extend(random.choice(([0], [0], [], [0, 1], [(1 << 32) - 1])))
        elif kind == "resolve":  # an abort, of what nobody has begun
            command.resolve.id.CopyFrom(self._id())
            command.resolve.attempt = attempt
        elif kind == "own_resolve":  # of what somebody has: a commit timestamp that no votes give
            command.resolve.id.CopyFrom(self._open_id(replica))
            command.resolve.branch = log_pb2.BRANCH_THEN
            command.resolve.version = random.choice((1 << 63, (1 << 64) - 2, (1 << 64) - 1))
        elif kind == "inquire":
            command.inquire.id.CopyFrom(self._id())
            command.inquire.attempt = attempt
            command.inquire.participants.extend(participants)
        elif kind == "forget":
            command.forget.id.CopyFrom(self._id())
            command.forget.attempt = attempt
        elif kind == "configure":
            for field in command.configure.DESCRIPTOR.fields:
                setattr(command.configure, field.name, 1)
        elif kind == "compare":
            command.compare.SetInParent()
        return command

    def _open_id(self, replica: Replica) -> kv_pb2.RequestId:
        open_ids = list(replica.machine.participant.open)
        if not open_ids:
            return self._id()
        client_id, number = self._random.choice(open_ids)
        return kv_pb2.RequestId(client_id=client_id, request_number=number)

    def _reads(self) -> shard_pb2.Reads:
        random = self._random
        reads = shard_pb2.Reads(stale=random.random() < 0.5, plain=random.random() < 0.3)
        for _ in range(random.randrange(4)):
            read = reads.reads.add(key=random.choice((b"", b"a", b"k" * 9000)))
            read.version = random.choice(EDGES_64)
            if random.random() < 0.3:
                read.lookup.CopyFrom(self._id())
            elif random.random() < 0.3:
                read.set.keys.extend([b"a", b"", b"b"])
                read.set.versions.extend(random.choice(([], [1], list(EDGES_64))))
                read.set.clock = random.choice(EDGES_64)
        return reads


def is_made_up(alarm: str) -> bool:
    """Whether an alarm is about a transaction that was made up here."""
    return MARK.hex() in alarm
