"""The other replicas of this group: where they are asked, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from overdb.internal.v1 import shard_pb2
from overdb_common.addresses import split_addresses
from overdb_node.founding import Answers
from overdb_node.storage.starts import Start
from overdb_node.transport.describing import Describer

if TYPE_CHECKING:
    from overdb_node.replica import Replica


class GroupPeers:
    """Asks them by ``Describe``. ``met``: addresses of strangers that are heard, by id (PROTOCOL 3.8)."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.met: dict[int, str] = {}
        seconds_max = replica.settings.describe_seconds_max
        # Each closes channels that it is not asked to use: one for each kind of question.
        self._describer = Describer(seconds_max)
        self._members_describer = Describer(seconds_max)

    def addresses(self, *, everybody: bool, met: bool = True) -> list[str]:
        """Of the members by the log, and of strangers that were ``met``. With ``everybody`` of all nodes
        that the settings name too."""
        replica, settings = self._replica, self._replica.settings
        own, members = settings.node_id, self._replica.raft.log.members
        addresses = [replica.address_of(m) for m in members if m.replica_id != own]
        addresses += self.met.values() if met else ()
        if everybody:
            addresses += [a for i, a in settings.founding_addresses().items() if i != own]
            addresses += split_addresses(settings.seeds)
        return list(dict.fromkeys(addresses))

    async def ask(self, who: shard_pb2.Introduction, *, everybody: bool) -> Answers:
        """What they say when this replica introduces itself, by id."""
        addresses = self.addresses(everybody=everybody)
        group = self._replica.settings.group
        return self._same_group(await self._describer.ask(addresses, group, who))

    async def ask_members(self) -> Answers:
        """What those say that were known before, but for replicas that take part in nothing: they know what
        was true once."""
        addresses = self.addresses(everybody=True, met=False)
        group = self._replica.settings.group
        answers = self._same_group(await self._members_describer.ask(addresses, group))
        retired = {one for answer in answers.values() for one in answer.retired}
        return {i: a for i, a in answers.items() if a.established and i not in retired}

    async def start_of(self, replica_id: int, incarnation: int, address: str) -> Start | None:
        """Returns the running start of a replica, as the replica reports it at its known addresses.

        ``address``: the address that it claims; asked only when it does not answer at a known one.
        """
        known = self._known_addresses(replica_id)
        group = self._replica.settings.group
        for addresses in (known, [a for a in (address,) if a and a not in known]):
            describer = Describer(self._replica.settings.describe_seconds_max)
            answer = self._same_group(await describer.ask(addresses, group)).get(replica_id)
            await describer.close()
            if answer is not None and answer.incarnation == incarnation:
                return Start(answer.start_number, answer.start_id)
        return None

    def _known_addresses(self, replica_id: int) -> list[str]:
        replica = self._replica
        member = replica.raft.log.configuration.member(replica_id)
        by_log = None if member is None else replica.address_of(member)
        by_settings = replica.settings.founding_addresses().get(replica_id)
        found = (by_log, by_settings, self.met.get(replica_id))
        return list(dict.fromkeys(address for address in found if address))

    async def difference(self, replica_id: int, address: str) -> str:
        """What of the settings of the replica at an address contradicts this group's; "": it is silent."""
        settings = self._replica.settings
        describer = Describer(settings.describe_seconds_max)
        answers = await describer.ask([address], settings.group)
        await describer.close()
        for answer in answers:
            theirs = (
                ("OVERDB_CLUSTER", answer.cluster, settings.cluster),
                ("OVERDB_GROUPS", answer.groups, settings.groups),
                ("OVERDB_GROUP", answer.group, settings.group),
            )
            for name, value, own in theirs:
                if answer.replica_id == replica_id and value != own:
                    return (
                        f"replica {replica_id} at {address} has {name}={value}, this group {own}: correct it "
                        "there, and start that replica again with an empty directory"
                    )
        return ""

    def _same_group(self, answers: Iterable[shard_pb2.DescribeResponse]) -> Answers:
        settings = self._replica.settings
        return {
            answer.replica_id: answer
            for answer in answers
            if (answer.cluster, answer.group) == (settings.cluster, settings.group)
            and answer.replica_id != settings.node_id
        }

    async def close(self) -> None:
        await self._describer.close()
        await self._members_describer.close()
