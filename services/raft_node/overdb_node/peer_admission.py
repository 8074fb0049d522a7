"""Whose packets count here, and whether this replica takes part itself (PROTOCOL 3.5 to 3.9).

A replica begins to hear, vote and acknowledge only when it knows that its directory is the newest one under
its id: a fresh directory by ``founding``, one that existed by asking the others (3.9). It goes on asking for
as long as it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from overdb.internal.v1 import shard_pb2
from overdb_common.version import version
from overdb_node.founding import Answers, Finding, Founding, Verdict
from overdb_node.group_peers import GroupPeers
from overdb_node.starts import RENEWAL_SECONDS, Starts, contradiction
from overdb_node.storage import founding as disk
from overdb_node.storage.errors import means_no_space
from overdb_node.storage.starts import Start
from overdb_node.strangers import Strangers
from overdb_node.transport.peers import Sender
from overdb_node.transport.raft_service import UNHEARD

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_log = structlog.get_logger()

ASKING_SECONDS = 0.1  # between two rounds of questions of one that takes no part yet
# With a majority heard, the others get so long to object. One that is up answers at once.
SILENCE_SECONDS = 0.5
WAITING_LOGGED_ROUNDS = 30
SEEDS_ROUNDS = (
    10  # so often the nodes of all groups are asked as well, while too few members answer
)
README = "see 'Changing members' in the README"


class PeerAdmission:
    """One for each replica. Until ``established`` nothing that others say is taken in, and time stands still
    for Raft: no vote, no campaign, no acknowledgement."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        settings = replica.settings
        found = disk.read(settings.data)
        self.incarnation = found.incarnation
        self.founders: dict[int, int] = dict(found.founders or {})
        self.founded = (
            found.founders is not None
        )  # on disk: in this life or an earlier one it took part
        self.established = False  # it takes part now
        self.starts = Starts(settings.data, replica.storage.start)
        self.problem = ""
        self.removed = False
        self.disks: dict[int, int] = {}  # incarnations heard of, by id
        self._is_full = False  # the disk, when something was to be noted last
        self.others = GroupPeers(replica)
        self._strangers = Strangers(self.others.ask_members, self._meet)
        self._task: asyncio.Task[None] | None = None
        self._asking_back: dict[int, asyncio.Task[Start | None]] = {}
        if self.founded and not self.starts.outdated and not self.others.addresses(everybody=True):
            self.established = True

    def start(self) -> None:
        if self.starts.outdated:
            self._lost(self.starts.outdated)
        self._task = asyncio.create_task(self._run(), name="admission")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for asking in list(self._asking_back.values()):
            asking.cancel()
        with contextlib.suppress(OSError):
            await self.starts.save()
        await self._strangers.close()
        await self.others.close()

    # --- who is heard -----------------------------------------------------------------------------

    def admit(self, sender: Sender) -> str:
        """Why packets of ``sender`` do not count here, UNHEARD for now; "" when they do, as soon as it
        ``may_count``."""
        who = sender.replica_id
        if sender.level < (level := self._replica.machine.level):
            return (
                f"replica {who} runs a program that knows level {sender.level}, group "
                f"{self._replica.settings.group} is at level {level}: start release {version()} or a newer "
                "one there"
            )
        refusal = self.refusal(sender)
        if refusal:
            return refusal
        if self._replica.raft.log.configuration.member(who) is None:
            if not self._hears_stranger(who, sender.address):
                return UNHEARD
            if sender.address:
                self._meet(who, sender.address)
        if sender.incarnation:
            self.disks[who] = sender.incarnation
        return ""

    def _hears_stranger(self, sender: int, address: str) -> bool:
        """Whether one that is no member by the own log is heard (PROTOCOL 3.8)."""
        raft = self._replica.raft
        if raft.is_leader or raft.voters == [raft.replica_id]:
            return False  # every change of the members is made here
        # One that joins and was told of nobody has nobody to ask.
        known = self.others.addresses(everybody=True, met=False)
        return not known or self._strangers.hears(sender, address)

    def _meet(self, stranger: int, address: str) -> None:
        """Have a link back to a stranger that is heard."""
        known = self._replica.settings.founding_addresses().get(stranger, address)
        if known:
            self.others.met[stranger] = known
            self._replica.peers.meet(stranger, known)

    def refusal(self, sender: Sender) -> str:
        """Why nothing that ``sender`` says counts here, or "" (PROTOCOL 3.5, 3.7, 3.9)."""
        raft, settings = self._replica.raft, self._replica.settings
        who, group = sender.replica_id, settings.group
        if who in raft.log.configuration_at(raft.commit_index).retired:
            return f"replica {who} was removed from group {group}"
        if sender.founding_groups not in (0, settings.groups):
            return (
                f"replica {who} has OVERDB_GROUPS={sender.founding_groups}, replica {settings.node_id} has "
                f"{settings.groups}: correct OVERDB_GROUPS where it is wrong"
            )
        member = raft.log.configuration.member(who)
        noted = (member.incarnation if member is not None else 0) or self.founders.get(who, 0)
        noted = noted or self.disks.get(who, 0)
        if noted and noted != sender.incarnation:
            return (
                f"replica {who} of group {group} lost its disk (directory {sender.incarnation:x} took the "
                f"place of {noted:x}): remove it and add a new id; {README}"
            )
        objection = self.starts.objection(who, sender.start, sender.lives)
        if objection:
            return f"{objection}. Replace replica {who} of group {group} under a new id; {README}"
        return ""

    def may_count(self, sender: Sender) -> bool:
        """Whether the sender's start is noted durably; else ``note`` comes first."""
        return self.starts.may_count(sender.replica_id, sender.start)

    async def note(self, sender: Sender) -> bool:
        """Note the sender's start durably; False: nothing of it may count now.

        The sender is asked back for it, where it is known to be reached (!): anybody can say a start number,
        and the replica whose own is smaller would be an old copy for good.
        """
        start = await self._start_of(sender)
        if start is None or start.id != sender.start.id:
            return False
        try:
            await self.starts.note(sender.replica_id, start)
        except OSError as error:
            self._disk_failed(error)
        return self.may_count(sender)

    async def _start_of(self, sender: Sender) -> Start | None:
        """Asked once, however many wait for the answer."""
        who = sender.replica_id
        asking = self._asking_back.get(who)
        if asking is None:
            question = self.others.start_of(who, sender.incarnation, sender.address)
            asking = asyncio.create_task(question, name=f"start-of-{who}")
            self._asking_back[who] = asking
            asking.add_done_callback(lambda _: self._asking_back.pop(who, None))
        return await asyncio.shield(asking)

    async def introduced(self, who: shard_pb2.Introduction) -> str:
        """Another replica says which start of which directory it is, and asks what is known of it.

        Returns the proof that its log lacks what it has acknowledged, or "".
        """
        settings = self._replica.settings
        start = Start(who.start_number, who.start_id)
        sender = Sender(
            getattr(who, "from"),
            who.incarnation,
            who.address,
            start,
            who.founding_groups,
            lives=[Start(life.start_number, life.start_id) for life in who.lives],
        )
        if who.cluster != settings.cluster or sender.replica_id in (0, settings.node_id):
            return ""
        # It may be a fresh directory that was another one before: only packets say which disk takes part.
        if self.refusal(sender) or not (self.may_count(sender) or await self.note(sender)):
            return ""
        return self._lacks(sender.replica_id, who) if who.HasField("term") else ""

    def _lacks(self, replica_id: int, who: shard_pb2.Introduction) -> str:
        """What a follower has acknowledged to this leader in its term is on the follower's disk, whatever
        happens to its process. ``who`` takes no part in this life yet: what it said was in an earlier one."""
        raft = self._replica.raft
        progress = raft.leading.progress.get(replica_id)
        if not raft.is_leader or progress is None:
            return ""
        if progress.match and (who.term, who.last_index) < (raft.term, progress.match):
            return (
                f"it has acknowledged entry {progress.match} in term {raft.term} to replica "
                f"{raft.replica_id}; its log ends at entry {who.last_index} in term {who.term}"
            )
        if raft.election.has_vote_of(replica_id) and who.term < raft.term:
            return f"it has voted for replica {raft.replica_id} in term {raft.term}; it is in term {who.term}"
        return ""

    # --- whether it takes part --------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._begin()
            while not self.starts.outdated and self.established:
                await asyncio.sleep(RENEWAL_SECONDS)
                await self._renew()
        except Exception as error:
            self._replica.fatal(f"admission: {type(error).__name__}: {error}")

    async def _begin(self) -> None:
        """Ask around until this replica may take part, or must not."""
        settings, loop = self._replica.settings, self._replica.loop
        others = set() if settings.join else set(settings.founding_addresses()) - {settings.node_id}
        judge = Founding(
            settings.node_id,
            self.incarnation,
            others,
            joins=settings.join,
            groups=settings.groups,
        )
        rounds, since = 0, loop.time()
        while not self.established and not self.starts.outdated:
            # The members first: the settings may name the nodes of many groups.
            some = self.founded and rounds % SEEDS_ROUNDS != SEEDS_ROUNDS - 1
            everybody = not (some and self.others.addresses(everybody=False))
            answers = await self._ask_around(everybody=everybody)
            finding = None if self.founded else self._judge(judge, answers)
            if finding is not None and finding.verdict is Verdict.LOST:
                self._lost_disk(finding.reason)
                return
            if await self._is_outdated(answers):
                return
            if finding is None:
                self.established = self._is_confirmed(answers, loop.time() - since)
            elif finding.verdict is Verdict.NEW:
                await self._found(finding)
            else:
                self.problem = finding.reason and f"takes no part yet: {finding.reason}"
            if self.established:
                self.problem = ""
                self._replica.schedule_turn()
                return
            rounds += 1
            if self.problem and rounds % WAITING_LOGGED_ROUNDS == 0:
                _log.warning("founding_waits", group=settings.group, problem=self.problem)
            await asyncio.sleep(ASKING_SECONDS)

    def _judge(self, judge: Founding, answers: Answers) -> Finding:
        """One round of a fresh replica."""
        if self._replica.settings.join and not self.others.addresses(everybody=True):
            return Finding(Verdict.NEW, {})
        return judge.judge(answers)

    def _lost_disk(self, reason: str) -> None:
        settings = self._replica.settings
        self.problem = (
            f"replica {settings.node_id} has lost its disk: {reason}. It takes part in nothing. Remove id "
            f"{settings.node_id} and join under a new id; {README}"
        )
        _log.error("disk_lost", group=settings.group, problem=self.problem)

    async def _found(self, finding: Finding) -> None:
        """The group is new, or this replica is. Without room to note that, the next round tries again."""
        directory = self._replica.settings.data
        try:
            await asyncio.to_thread(disk.write_founders, directory, finding.founders)
        except OSError as error:
            if not means_no_space(error):
                raise
            self.problem = (
                f"takes no part yet: {directory} has no room to note the founding members. Enlarge the disk, "
                "or remove other files from it"
            )
            return
        self.founders = dict(finding.founders)
        self.founded = self.established = True

    def _is_confirmed(self, answers: Answers, seconds: float) -> bool:
        """Whether enough others know of this start: all voters, or a majority when the rest is silent.

        They are the voters of the newest configuration that anybody tells: the own one may be old.
        """
        log, own = self._replica.raft.log, self._replica.settings.node_id
        index, voters = log.configuration_index, set(log.configuration.voters)
        for answer in answers.values():
            if own in answer.retired:
                return True  # ``_look_whether_removed`` comes next
            if answer.established and answer.members_index > index:
                index = answer.members_index
                voters = {member.id for member in answer.members if member.voter}
        # A replica whose own disk was lost knows nothing: its silence would prove nothing.
        heard = {other for other, answer in answers.items() if self._has_noted(answer)} | {own}
        if not voters:
            return len(heard) > 1 or not self.others.addresses(everybody=True)
        if voters <= heard:
            return True
        self.problem = (
            f"takes no part yet: waits until a majority of the voters {sorted(voters)} has heard of its "
            f"start; heard from: {sorted(heard - {own}) or 'nobody'}"
        )
        return 2 * len(voters & heard) > len(voters) and seconds >= SILENCE_SECONDS

    def _has_noted(self, answer: shard_pb2.DescribeResponse) -> bool:
        """Returns whether the responder takes part and has noted this start, if it notes starts at all."""
        own = self._replica.settings.node_id
        noted = [heard.start_id for heard in answer.starts if heard.id == own]
        return answer.established and (not answer.start_number or self.starts.own.id in noted)

    async def _renew(self) -> None:
        """Let the start number grow, and tell the others; they may know of a newer directory by now."""
        raft = self._replica.raft
        lonely = raft.leader_id == 0 or not raft.is_voter
        if not self.others.addresses(everybody=lonely):
            return
        try:
            await self.starts.renew()
            self._is_full = False
        except OSError as error:
            self._disk_failed(error)
        answers = await self._ask_around(everybody=lonely)
        if not await self._is_outdated(answers) and lonely:
            self._look_whether_removed(answers)

    async def _is_outdated(self, answers: Answers) -> bool:
        """Whether an answer proves that this directory is older than what it has acknowledged."""
        own = self._replica.settings.node_id
        for other, answer in sorted(answers.items()):
            reason = answer.outdated if not self.established else ""
            self._follow(other, Start(answer.start_number, answer.start_id))
            for heard in answer.starts:
                known = Start(heard.start_number, heard.start_id)
                if heard.id != own:
                    self.starts.learn(heard.id, known)
                elif contradiction(self.starts.own, self._asked, known, self.starts.lives):
                    reason = (
                        f"replica {other} has heard its start {known.number} from another process, this is "
                        f"start {self._asked.number}"
                    )
            if reason:
                self._lost(reason)
                await self._stay_out(reason)
                return True
        return False

    async def _stay_out(self, reason: str) -> None:
        """Note for good that this directory is outdated, as soon as there is room for that."""
        while True:
            try:
                await self.starts.stay_out(reason)
                return
            except OSError as error:
                self._disk_failed(error)
                if not self._is_full:
                    return
            await asyncio.sleep(RENEWAL_SECONDS)

    def _follow(self, replica_id: int, start: Start) -> None:
        """Learn how far the number of a life has grown that is noted; another life is noted first."""
        known = self.starts.heard.get(replica_id)
        if known is not None and known.id == start.id:
            self.starts.learn(replica_id, start)

    def _lost(self, reason: str) -> None:
        replica = self._replica
        own, group = replica.settings.node_id, replica.settings.group
        self.established = False
        self.starts.outdated = reason
        self.problem = (
            f"the directory of replica {own} is an old copy: {reason}. It takes part in nothing. Replace "
            f"this replica under a new id; {README}"
        )
        _log.error("directory_outdated", group=group, problem=self.problem)
        replica.stand_aside()
        replica.raft.step_down()

    def _disk_failed(self, error: OSError) -> None:
        """Without space nothing is noted and nothing told; any other failure ends the process."""
        if means_no_space(error):
            if not self._is_full:
                _log.warning(
                    "start_not_noted", group=self._replica.settings.group, reason=str(error)
                )
            self._is_full = True
        else:
            self._is_full = False
            self._replica.fatal(f"starts.json cannot be written: {error}")

    def _look_whether_removed(self, answers: Answers) -> None:
        """One that hears of no leader may have been removed: the others do not write to it any more."""
        own, raft = self._replica.settings.node_id, self._replica.raft
        if self.removed or self.problem:
            return
        retired = set(raft.log.configuration_at(raft.commit_index).retired)
        for answer in answers.values():
            retired |= set(answer.retired)
        if own in retired:
            self.removed = True
            self.problem = (
                f"replica {own} was removed from group {self._replica.settings.group}: it takes part in "
                "nothing any more, stop it and delete its directory"
            )
            _log.error("removed", group=self._replica.settings.group, problem=self.problem)
            raft.removed()

    async def _ask_around(self, *, everybody: bool) -> Answers:
        """What the other replicas of this group say of themselves, and know of this one, by id."""
        replica, settings = self._replica, self._replica.settings
        self._asked = self.starts.own
        who = shard_pb2.Introduction(
            cluster=settings.cluster,
            founding_groups=settings.groups,
            incarnation=self.incarnation,
            start_number=self._asked.number,
            start_id=self._asked.id,
            address=replica.membership.own_address,
            lives=[
                shard_pb2.Start(start_number=life.number, start_id=life.id)
                for life in self.starts.lives
            ],
        )
        setattr(who, "from", settings.node_id)  # a keyword in Python
        if not self.established:
            who.term, who.last_index = replica.raft.term, replica.raft.log.last_index
        return await self.others.ask(who, everybody=everybody)
