"""Changing members with the library: both clients, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio

import pytest

import overdb
from overdb.sync import Client
from tests.unit.client.fake_router import FakeRouter, RouterThread


def test_the_asyncio_client_changes_members() -> None:
    async def scenario() -> None:
        async with FakeRouter() as router, overdb.Client(router.address) as client:
            added = await client.add_member(1, 7, "127.0.0.1:7499")
            assert (added.group, [m.id for m in added.members]) == (1, [1])
            await client.promote_member(1, 7)
            await client.remove_member(1, 7)
            assert await client.transfer_leadership(1) == 2
            kinds = [type(request).__name__ for request in router.administered]
            assert kinds == [
                "AddMemberRequest",
                "PromoteMemberRequest",
                "RemoveMemberRequest",
                "TransferLeadershipRequest",
            ]

    asyncio.run(scenario())


def test_the_blocking_client_changes_members() -> None:
    with RouterThread() as thread, Client(thread.router.address) as client:
        assert client.add_member(0, 7, "127.0.0.1:7499").group == 0
        assert client.promote_member(0, 7, wait=True).group == 0
        assert client.remove_member(0, 7, force=True).group == 0
        assert client.transfer_leadership(0, 3) == 3


@pytest.mark.parametrize("replica_id", [0, -1, 2**63])
def test_ids_that_cannot_be_are_refused_before_they_are_sent(replica_id: int) -> None:
    async def scenario() -> None:
        async with FakeRouter() as router, overdb.Client(router.address) as client:
            with pytest.raises(overdb.InvalidArgument, match="not sent"):
                await client.add_member(0, replica_id, "127.0.0.1:7499")
            with pytest.raises(overdb.InvalidArgument, match="group"):
                await client.remove_member(-1, 7)
            assert router.administered == []

    asyncio.run(scenario())
