"""Replicas compare what they have: checksums are noted, asked for, and judged, beside all other work.

At every Compare in the log (the leader proposes one now and then) a replica digests its content as of that
index. Every few seconds it asks the other members for their checksums and judges itself
(``machine/comparison``). One that finds itself odd stops serving for good: it leads no more, answers no
read, and says so; it goes on storing the log and voting, for its log is sound. A leader's snapshot, which
replaces its state, ends that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb_common.version import version
from overdb_node.machine.comparison import Differences, Kind, Point, Report, judge
from overdb_node.machine.content import CONTENT_FORM, canonical
from overdb_node.raft.types import Member
from overdb_node.storage import quarantine
from overdb_node.storage.digest import ContentDigest
from overdb_node.storage.errors import means_no_space
from overdb_node.transport.members import MemberCalls
from overdb_node.transport.shard_service import Answers

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()
ASK_SECONDS = 5.0
MARK_RETRY_SECONDS = 1.0  # while the disk has no room for the mark of a diverged state
CONTENTS_MAX = 8  # digests that are kept
# A digest's thread rests this many times as long as it works: all replicas begin theirs at once, and may
# share their cores. Where half of the time until the next one is over, it rests less.
_REST, _REST_WHEN_LATE = 15, 3
_KINDS = frozenset(map(int, Kind))
_COMPARE = log_pb2.Commands(
    commands=[log_pb2.Command(compare=log_pb2.CompareReplicas())]
).SerializeToString()


class Comparing:
    """Of one replica. Lives on the event loop; digests run in a thread of their own."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._seconds = replica.settings.compare_seconds
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "digest")
        self._calls = MemberCalls()
        self._reason = quarantine.read(replica.storage.data_path)
        self._contents: dict[int, int] = {}  # index -> digest
        self._digesting = False
        self._state = 0  # grows when the state is replaced
        self.differences = Differences()
        self._next_compare = self._loop.time() + self._seconds
        self._next_ask = 0.0
        self._asking: asyncio.Task[None] | None = None
        if self._reason:
            _log.error("replica_diverged", group=replica.settings.group, reason=self._reason)
            replica.raft.stand_aside()

    async def close(self) -> None:
        """A digest that is under way ends with its database, which must be closed after this."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._calls.close()
        self._thread.shutdown(wait=False)

    # --- what others may know -------------------------------------------------------------------

    @property
    def diverged(self) -> bool:
        """Whether this replica has found its own state to be wrong: nothing is answered from it."""
        return bool(self._reason)

    @property
    def others_diverged(self) -> frozenset[int]:
        return frozenset(self.differences.others)

    @property
    def known_diverged(self) -> frozenset[int]:
        """Those that say it of themselves. Of two that differ it is not known which one is wrong."""
        return frozenset(self.differences.diverged)

    @property
    def problem(self) -> str:
        """What an operator should know; empty when all is equal."""
        if self._reason:
            return self._reason
        return "; ".join(_tell(*one) for one in self.differences.others.items())

    def checksums(self) -> shard_pb2.ChecksumsResponse:
        settings = self._replica.settings
        return shard_pb2.ChecksumsResponse(
            cluster=settings.cluster,
            group=settings.group,
            replica_id=settings.node_id,
            diverged=self.diverged,
            checksums=[
                shard_pb2.Checksum(
                    kind=shard_pb2.Checksum.Kind.ValueType(point.kind),
                    release=point.release,
                    begin=point.begin,
                    index=point.at,
                    value=value,
                )
                for point, value in self._own().items()
            ],
        )

    def _own(self) -> dict[Point, int]:
        release = version()
        values = {
            Point(mark.at, Kind.CHAIN, release, mark.begin): mark.checksum
            for mark in self._replica.machine.chain.marks
        }
        for index, digest in self._contents.items():
            values[Point(index, Kind.CONTENT, CONTENT_FORM, 0)] = digest
        return values

    # --- time -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Called at every tick of the replica."""
        if not self._seconds or self._replica.raft.installing:
            return
        now = self._loop.time()
        if now >= self._next_compare and self._may_propose():
            self._next_compare = now + self._seconds
            unread = Answers()
            unread.closed = True
            self._replica.propose(_COMPARE, 0, unread)
        if now >= self._next_ask and self._asking is None:
            self._next_ask = now + min(ASK_SECONDS, self._seconds)
            self._asking = asyncio.create_task(self._ask(), name="comparing")
            self._asking.add_done_callback(self._asked)

    def _may_propose(self) -> bool:
        """Lead, and have something new to compare; one digest after the other."""
        replica = self._replica
        return (
            replica.raft.serves
            and not self._digesting
            and not replica.disk_full
            and replica.raft.log.last_index > replica.machine.compared
        )

    # --- the content ----------------------------------------------------------------------------

    def applied(self) -> None:
        """A slice was applied and written. Called when it ended with a Compare, before anything else."""
        self._next_compare = self._loop.time() + self._seconds
        if self._digesting or not self._seconds:
            return  # the others' digests of this index find no partner, those of the next one will
        self._digesting = True
        index = self._replica.machine.compared
        digest = self._replica.storage.data.begin_digest(canonical)
        running = self._loop.run_in_executor(self._thread, _run, digest, self._seconds / 2)
        state = self._state
        running.add_done_callback(lambda done: self._digested(state, index, done))

    def _digested(self, state: int, index: int, done: asyncio.Future[int | None]) -> None:
        self._digesting = False
        if self._replica.failed or done.cancelled() or state != self._state:
            return
        error = done.exception()
        if error is not None:  # a file of the database is damaged: as for any read of it
            self._replica.fatal(f"{type(error).__name__}: {error}")
            return
        value = done.result()
        if value is None:
            return  # the data was replaced meanwhile
        _log.debug("content_digest", index=index, digest=f"{value:016x}")
        self._contents[index] = value
        for old in sorted(self._contents)[:-CONTENTS_MAX]:
            del self._contents[old]

    # --- judging --------------------------------------------------------------------------------

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("comparing_failed", reason=repr(error))  # the next round tries again

    async def _ask(self) -> None:
        """Ask all other members, and judge by what they say."""
        replica = self._replica
        settings = replica.settings
        request = shard_pb2.ChecksumsRequest(cluster=settings.cluster, group=settings.group)
        others = [m for m in replica.raft.log.members if m.replica_id != settings.node_id]
        answers = await asyncio.gather(
            *(self._calls.checksums(replica.address_of(member), request) for member in others)
        )
        reports = {
            member.replica_id: report
            for member, answer in zip(others, answers, strict=True)
            if (report := self._report(member, answer)) is not None
        }
        if not replica.failed and replica.raft.installing is None:
            await self._judge(reports)

    def _report(self, member: Member, answer: shard_pb2.ChecksumsResponse | None) -> Report | None:
        """What the member says; None when it says nothing, or somebody else answers at its address."""
        settings = self._replica.settings
        expected = (settings.cluster, settings.group, member.replica_id)
        if answer is None or (answer.cluster, answer.group, answer.replica_id) != expected:
            return None
        values = {
            Point(one.index, Kind(one.kind), one.release, one.begin): one.value
            for one in answer.checksums
            if one.kind in _KINDS
        }
        return Report(values, answer.diverged)

    async def _judge(self, reports: Mapping[int, Report]) -> None:
        replica, differences = self._replica, self.differences
        group, me = replica.settings.group, replica.settings.node_id
        own, voters = self._own(), replica.raft.voters
        verdict = judge(me, voters, own, reports)
        members = [member.replica_id for member in replica.raft.log.members]
        before = differences.compared, differences.differences
        for other, point in differences.learn(members, own, reports, verdict).items():
            _log.error(
                "replica_differs",
                group=group,
                replica=other,
                index=point.at,
                kind=point.kind.name.lower(),
            )
        replica.metrics.compared(
            differences.compared - before[0], differences.differences - before[1]
        )
        if verdict.odd_at is not None and not self.diverged:
            await self._stop_serving(verdict.odd_at)

    async def _stop_serving(self, point: Point) -> None:
        """Nothing is answered from this state any more, also after a restart."""
        replica = self._replica
        self._reason = (
            f"its state differs from the other replicas' at index {point.at}: replace this replica"
        )
        _log.error(
            "replica_diverged",
            group=replica.settings.group,
            reason=self._reason,
            kind=point.kind.name.lower(),
        )
        replica.stand_aside()
        where, reason = replica.storage.data_path, self._reason
        while self.diverged:  # else the state was replaced meanwhile, and its directory removed
            try:
                await self._loop.run_in_executor(None, quarantine.write, where, reason)
                return
            except OSError as error:
                if not self.diverged:
                    return
                if not means_no_space(error):
                    replica.fatal(f"the mark of a diverged state cannot be written: {error}")
                    return
            await asyncio.sleep(MARK_RETRY_SECONDS)  # ended and started again, it would serve

    def restart(self) -> None:
        """A leader's snapshot has replaced the state: nothing of what was found holds for it."""
        self._state += 1
        self._contents.clear()
        self.differences.clear()
        if self._reason:
            self._reason = ""  # the mark went with the state
            self._replica.raft.may_lead = True
            _log.info("replica_replaced", group=self._replica.settings.group)


def _tell(replica: int, point: Point | None) -> str:
    if point is None:
        return f"replica {replica} has found that its state differs from the other replicas'"
    return f"the state of replica {replica} differs from this one's at index {point.at}"


def _run(digest: ContentDigest, leisurely_seconds: float) -> int | None:
    """In the digest's thread: portions of it, with rests between them; None if it was closed meanwhile."""
    late_at = time.monotonic() + leisurely_seconds
    try:
        while True:
            began = time.monotonic()
            more = digest.advance()
            if not more:
                return digest.close()
            now = time.monotonic()
            time.sleep((now - began) * (_REST if now < late_at else _REST_WHEN_LATE))
    finally:
        digest.close()
