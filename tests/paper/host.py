"""A replica's host in memory: does what an ``Output`` asks for, one disk step at a time.

Disk work waits in ``disk_queue`` until ``disk_step``: a crash drops whatever is still in it, so that
nothing un-fsynced survives, and a crash between two steps falls between a fsync and the messages
behind it. The state machine is a running digest of what was applied; what of it is on disk lags
behind, as with a store without a log of its own.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from overdb_node.raft.core import Raft
from overdb_node.raft.log import Log, prefix_within
from overdb_node.raft.messages import Chunk, Message
from overdb_node.raft.output import (
    ChunkToSend,
    Dropped,
    Event,
    Fetch,
    Install,
    Output,
    Persist,
    Stage,
)
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import Configuration, Entry, HardState, Member, Snapshot

CHUNK_BYTES_MAX = 24

Send = Callable[[int, int, Message], None]
AppliedHook = Callable[[int, Entry, "State"], None]
AnsweredHook = Callable[[int, object, int], None]


@dataclass(frozen=True, slots=True, order=True)
class State:
    """The state machine: what was applied last, and a digest of everything up to it."""

    index: int = 0
    digest: int = 0

    def after(self, entry: Entry) -> State:
        assert entry.index == self.index + 1, f"entry {entry.index} applied after {self.index}"
        mixed = b"%d %d %d %d " % (self.digest, entry.index, entry.term, entry.kind)
        return State(entry.index, zlib.crc32(mixed + entry.payload))


def members_of(count: int) -> tuple[Member, ...]:
    return tuple(Member(i, f"replica-{i}") for i in range(1, count + 1))


def encode_configuration(configuration: Configuration) -> bytes:
    names = [_name(member) for member in configuration.members]
    return ",".join(names + [f"-{gone}" for gone in configuration.retired]).encode()


def _name(member: Member) -> str:
    address = "" if member.address == f"replica-{member.replica_id}" else f"={member.address}"
    disk = f"#{member.incarnation}" if member.incarnation else ""
    return f"{member.replica_id}{address}{disk}{'' if member.voter else '?'}"


def decode_configuration(payload: bytes) -> Configuration:
    """The payload of a configuration entry in these tests: "1,2=somewhere,3#77?,-4".

    A learner has a "?", an address that is not the usual one stands behind "=", a noted disk behind "#", an
    id that is retired behind "-".
    """
    names = payload.decode().split(",") if payload else []
    members = []
    for name in (name for name in names if not name.startswith("-")):
        rest, _, disk = name.rstrip("?").partition("#")
        number, _, address = rest.partition("=")
        voter = not name.endswith("?")
        members.append(Member(int(number), address or f"replica-{number}", voter, int(disk or 0)))
    return Configuration(
        tuple(members), tuple(int(name[1:]) for name in names if name.startswith("-"))
    )


def encode_members(members: tuple[Member, ...]) -> bytes:
    return encode_configuration(Configuration(members))


def decode_members(payload: bytes) -> tuple[Member, ...]:
    return decode_configuration(payload).members


@dataclass(slots=True)
class Disk:
    """What survives a crash."""

    snapshot: Snapshot
    entries: list[Entry] = field(default_factory=list)
    hard_state: HardState = field(default_factory=HardState)
    state: State = field(default_factory=State)
    checkpoints: dict[int, bytes] = field(default_factory=dict)  # streams of snapshots, by index
    hold_back_ticks: int = 0  # what an earlier life promised (PROTOCOL 1.3)

    def write(self, persist: Persist) -> None:
        self.hard_state = persist.hard_state
        if persist.entries:
            position = persist.entries[0].index - self.snapshot.index - 1
            assert 0 <= position <= len(self.entries), "a gap in the log on disk"
            del self.entries[position:]
            self.entries.extend(persist.entries)


def checkpoint_stream(
    maker: int, state: State, members: tuple[Member, ...], retired: tuple[int, ...] = ()
) -> bytes:
    """Replicas' streams of one state differ, in length too: they are files, not logic."""
    filling = b"#" * (30 + 7 * maker)
    names = encode_configuration(Configuration(members, retired))
    body = b"%d|%d|%s|%d|%s" % (state.index, state.digest, names, maker, filling)
    return body + b"|%08x" % zlib.crc32(body)


def read_checkpoint(stream: bytes) -> tuple[State, Configuration] | None:
    """State and configuration in a stream; None if its checksum is wrong."""
    body, _, checksum = stream.rpartition(b"|")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    index, digest, names, *_ = body.split(b"|")
    return State(int(index), int(digest)), decode_configuration(names)


class Host:
    """One replica: a ``Raft``, its ``Disk``, and the work between them."""

    def __init__(
        self,
        replica_id: int,
        disk: Disk,
        random: Random,
        send: Send,
        settings: RaftSettings | None = None,
    ) -> None:
        self.replica_id = replica_id
        self.disk = disk
        self.state = disk.state
        self._send = send
        self.raft = Raft(
            replica_id,
            replace(settings or RaftSettings(), chunk_bytes_max=CHUNK_BYTES_MAX),
            random,
            Log(disk.snapshot, list(disk.entries), decode_configuration),
            disk.hard_state,
            disk.state.index,
            disk.hold_back_ticks,
        )
        self.disk_queue: deque[Persist | list[tuple[int, Message]] | Stage | Install | Fetch] = (
            deque()
        )
        self.to_apply: deque[Entry] = deque()
        self.applies_at_once = True
        self.reads: list[tuple[object, int]] = []  # confirmed, waiting for their index
        self.answered: list[tuple[object, int]] = []  # (read, index of the state that answered it)
        self.failed: list[object] = []
        self.events: list[Event] = []
        self.dropped: list[Dropped] = []
        self.on_applied: AppliedHook | None = None
        self.on_answered: AnsweredHook | None = None
        self._staging: tuple[int, int, int, int] | None = None
        self._staged = bytearray()

    # --- outputs --------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take outputs until there is nothing more to be done without the disk."""
        while True:
            output = self.raft.take_output()
            self._do(output)
            if not self.raft.has_committed_to_hand_out or self.raft.installing is not None:
                return

    def _do(self, output: Output) -> None:
        self.events += output.events
        if output.persist is not None:
            self.disk_queue.append(output.persist)
        for to, message in output.send_now:
            self._send(self.replica_id, to, message)
        if output.send_after_persist:
            self.disk_queue.append(output.send_after_persist)
        self.to_apply.extend(output.committed)
        if self.applies_at_once:
            self.apply()
        self.failed += output.reads_failed
        self.reads += output.reads
        self._answer_reads()
        self.disk_queue.extend(output.stages)
        if output.install is not None:
            self.disk_queue.append(output.install)
        for chunk in output.chunks:
            self._send_chunk(chunk)
        self.disk_queue.extend(output.fetches)
        self.dropped += output.dropped

    def ask(self, read: object, now_us: int = 0) -> None:
        """A read comes, at ``now_us``."""
        index = self.raft.read(read, now_us)
        if index is not None:
            self.reads.append((read, index))
            self._answer_reads()

    def apply(self) -> None:
        """Apply everything that was handed out."""
        if not self.to_apply:
            return
        while self.to_apply:
            entry = self.to_apply.popleft()
            self.state = self.state.after(entry)
            if self.on_applied is not None:
                self.on_applied(self.replica_id, entry, self.state)
        self.raft.applied_to(self.state.index)
        self._answer_reads()

    def _answer_reads(self) -> None:
        waiting = []
        for read, index in self.reads:
            if index > self.state.index:
                waiting.append((read, index))
                continue
            self.answered.append((read, self.state.index))
            if self.on_answered is not None:
                self.on_answered(self.replica_id, read, self.state.index)
        self.reads = waiting

    def _send_chunk(self, chunk: ChunkToSend) -> None:
        element = chunk.snapshot
        stream = self.disk.checkpoints[element.index]
        assert len(stream) == element.size
        data = stream[chunk.offset : chunk.offset + chunk.length]
        message = Chunk(
            chunk.term, chunk.round, element.index, element.term, chunk.offset, element.size, data
        )
        self._send(self.replica_id, chunk.to, message)

    # --- the disk -------------------------------------------------------------------------------

    def disk_step(self) -> bool:
        """Do the oldest piece of disk work; False if there is none."""
        if not self.disk_queue:
            return False
        work = self.disk_queue.popleft()
        if isinstance(work, Persist):
            self.disk.write(work)
            self.raft.persisted(work.token)
        elif isinstance(work, Stage):
            self._stage(work)
        elif isinstance(work, Fetch):
            self._fetch(work)
        elif isinstance(work, Install):
            self._install(work)
        else:
            for to, message in work:
                self._send(self.replica_id, to, message)
        self.pump()
        return True

    def settle(self) -> None:
        """Let the disk finish."""
        while self.disk_step():
            pass

    def flush(self) -> None:
        """Bring the state machine's state to the disk."""
        self.disk.state = self.state

    def _stage(self, work: Stage) -> None:
        key = (work.term, work.leader, work.index, work.element_term)
        if key != self._staging or work.offset == 0:
            self._staging, self._staged = key, bytearray()
        if work.offset != len(self._staged):  # not where this stream goes on
            self.raft.staged(work, len(self._staged), None)
            return
        self._staged += work.data
        snapshot = None
        if len(self._staged) == work.size:
            snapshot = self._unpack(work)
        if snapshot is None and len(self._staged) >= work.size:
            self._staging, self._staged = None, bytearray()
        self.raft.staged(work, len(self._staged), snapshot)

    def _fetch(self, work: Fetch) -> None:
        """Read entries of the log on disk; none if they have been compacted away."""
        entries = self.disk.entries
        start = work.first - self.disk.snapshot.index - 1
        if start < 0:
            self.raft.fetched(work, ())
            return
        stop = work.last - self.disk.snapshot.index
        found, _ = prefix_within(entries[:stop], start, work.bytes_max)
        self.raft.fetched(work, found)

    def _unpack(self, work: Stage) -> Snapshot | None:
        stream = bytes(self._staged)
        checkpoint = read_checkpoint(stream)
        if checkpoint is None or checkpoint[0].index != work.index:
            return None
        self.disk.checkpoints[work.index] = stream
        told = checkpoint[1]
        return Snapshot(
            work.index, work.element_term, 0, told.members, "received", len(stream), told.retired
        )

    def _install(self, work: Install) -> None:
        disk, snapshot = self.disk, work.snapshot
        checkpoint = read_checkpoint(disk.checkpoints[snapshot.index])
        assert checkpoint is not None
        if work.keep_entries_after:
            disk.entries = disk.entries[snapshot.index - disk.snapshot.index :]
        else:
            disk.entries = []
        disk.snapshot = snapshot
        disk.state = self.state = checkpoint[0]
        self.to_apply.clear()
        self.raft.installed()

    def compact(self) -> bool:
        """Make a snapshot of what is applied the first element of the log."""
        raft, index = self.raft, self.state.index
        if raft.installing is not None or self.to_apply:
            return False
        term = raft.log.term_at(index)
        assert term is not None
        then = raft.log.configuration_at(index)
        if not then.members:
            return False  # it joins, and does not know yet who the members were (PROTOCOL 3.3)
        stream = checkpoint_stream(self.replica_id, self.state, then.members, then.retired)
        snapshot = Snapshot(index, term, 0, then.members, "made", len(stream), then.retired)
        if not raft.compact(snapshot):
            return False
        disk = self.disk
        disk.checkpoints[index] = stream
        disk.entries = disk.entries[index - disk.snapshot.index :]
        disk.snapshot = snapshot
        disk.state = self.state
        return True
