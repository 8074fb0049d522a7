"""The number of groups that the cluster was founded with belongs to the cluster, not to a process (3.10).

A replica that joins takes it from the group. OVERDB_GROUPS may say it as well; then it is compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from overdb.internal.v1 import shard_pb2
from overdb_common.addresses import split_addresses
from overdb_common.errors import StartupError
from overdb_node.settings import NodeSettings
from overdb_node.storage import identity
from overdb_node.transport.describing import Describer

_log = structlog.get_logger()

ASKING_SECONDS = 0.3
LOGGED_ROUNDS = 10


async def with_founding_groups(settings: NodeSettings, stop: asyncio.Event) -> NodeSettings:
    """Return the settings with the number of groups of the cluster, for a replica that joins.

    Asks until somebody answers, or ``stop`` is set; with OVERDB_GROUPS set it asks once. Raises StartupError
    when the cluster has another number.
    """
    if not settings.join:
        return settings
    known = identity.groups_of(settings.data)
    if known:  # the directory was founded before: what is set is compared with it when it is opened
        return settings if settings.says_groups else _with(settings, known)
    addresses = [*settings.founding_addresses().values(), *split_addresses(settings.seeds)]
    describer = Describer(settings.describe_seconds_max)
    try:
        return await _ask(settings, list(dict.fromkeys(addresses)), describer, stop)
    finally:
        await describer.close()


async def _ask(
    settings: NodeSettings, addresses: Sequence[str], describer: Describer, stop: asyncio.Event
) -> NodeSettings:
    rounds = 0
    while addresses and not stop.is_set():
        for answer in await describer.ask(addresses, settings.group):
            _refuse_contradiction(settings, answer)
            if answer.cluster == settings.cluster and answer.established and answer.groups:
                return _with(settings, answer.groups)
        if settings.says_groups:
            return settings  # compared when somebody answers (``Founding``, ``PeerAdmission``)
        rounds += 1
        if rounds % LOGGED_ROUNDS == 0:
            _log.warning(
                "joining_waits", problem="no node of the cluster answers", asked=list(addresses)
            )
        await asyncio.sleep(ASKING_SECONDS)
    return settings


def _refuse_contradiction(settings: NodeSettings, answer: shard_pb2.DescribeResponse) -> None:
    if not answer.established:
        return
    who = f"replica {answer.replica_id} of group {answer.group}"
    if answer.cluster != settings.cluster:
        raise StartupError(
            f"{who} belongs to cluster '{answer.cluster}', this process to '{settings.cluster}'",
            "correct OVERDB_CLUSTER, or the addresses in OVERDB_MEMBERS and OVERDB_SEEDS",
        )
    if settings.says_groups and answer.groups not in (0, settings.groups):
        raise StartupError(
            f"{who} says that the cluster has {answer.groups} groups, OVERDB_GROUPS is {settings.groups}",
            "correct OVERDB_GROUPS or leave it out: a replica that joins takes it from the group",
        )
    if settings.group >= answer.groups:
        raise StartupError(
            f"{who} says that the cluster has {answer.groups} groups, OVERDB_GROUP is {settings.group}",
            "correct OVERDB_GROUP: the first group is 0",
        )


def _with(settings: NodeSettings, groups: int) -> NodeSettings:
    return settings.model_copy(update={"groups": groups})
