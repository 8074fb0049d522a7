"""A participant without quorum (PROTOCOL 2.8): what is told, who is not disturbed, and the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import overdb
from tests.integration.cluster import LocalCluster
from tests.integration.transactions import OpenWatch, in_thread, keys_of_groups

pytestmark = pytest.mark.processes

DEADLINE_SECONDS = 3.0


class Outage:
    """Three transactions over both groups, while group 1 has one replica of three."""

    def __init__(self, client: overdb.Client, keys: list[list[bytes]]) -> None:
        self._client = client
        self._keys = keys
        self.both = [[overdb.Add(keys[g][n], 1) for g in range(2)] for n in range(3)]
        self.unknown: dict[int, overdb.OutcomeUnknown] = {}
        self.undisturbed = 0  # rounds of the others
        self.undisturbed_until_then: list[int] = []  # when a transaction ended

    async def transact(self, number: int) -> None:
        """It ends by its deadline. Its half in group 0 is there: it must not be told as not run."""
        with pytest.raises(overdb.OutcomeUnknown) as failed:
            await self._client.transact(then=self.both[number], timeout=DEADLINE_SECONDS)
        self.undisturbed_until_then.append(self.undisturbed)
        self.unknown[number] = failed.value

    async def others(self) -> None:
        """Single keys and transactions of group 0 alone, on other keys, until all three have ended."""
        one, two = self._keys[0][4:6]
        while len(self.unknown) < len(self.both) or self.undisturbed < 20:
            await self._client.put(one, b"1")
            done = await self._client.transact(
                [overdb.Compare.exists(one)], [overdb.Add(one, 1), overdb.Add(two, 1)]
            )
            assert done.succeeded
            assert await self._client.get(one) is not None
            self.undisturbed += 1

    async def values(self, number: int) -> list[int]:
        gets = [overdb.Get(one.key) for one in self.both[number]]
        done = await self._client.transact(then=gets, timeout=10.0)
        return [int(one.value) for one in done.results]

    async def told(self, number: int) -> overdb.TransactionState:
        status = await self._client.transaction_status(self.unknown[number].request_id)
        assert (status.result is not None) == (status.state is overdb.TransactionState.COMMITTED)
        return status.state


@pytest.mark.timeout(150)
def test_without_quorum_of_one_participant_the_others_work_and_the_end_is_told(
    tmp_path: Path,
) -> None:
    async def run(cluster: LocalCluster) -> None:
        async with overdb.Client(cluster.endpoints, timeout=10.0) as client:
            outage = Outage(client, await keys_of_groups(client, "quorum-", 6))
            for some in outage.both:
                await client.transact(then=some)
            down = [cluster.nodes[i] for i in cluster.nodes if cluster.group_of(i) == 1][:2]
            for node in down:
                await in_thread(node.kill)
            async with asyncio.timeout(120):
                await asyncio.gather(
                    *(outage.transact(number) for number in range(3)),
                    outage.others(),
                )
            for node in down:
                node.start()
            watch = OpenWatch(cluster.endpoints)
            took = await watch.nothing_open(40)
            await watch.close()
            states = [await outage.told(number) for number in range(3)]
            print(
                f"\n  group 1 down: unknown after {outage.undisturbed_until_then} rounds of 3 requests in "
                f"group 0; all free {took:.1f} s after its replicas were started, then told as "
                f"{[state.name for state in states]}"
            )
            # Not one round would have ended before had any of its requests waited for group 1.
            assert min(outage.undisturbed_until_then) >= 1
            await _whole_and_once(outage, states, client)

    with LocalCluster(tmp_path, routers=2) as cluster:
        asyncio.run(run(cluster))


async def _whole_and_once(
    outage: Outage, states: list[overdb.TransactionState], client: overdb.Client
) -> None:
    for number, state in enumerate(states):
        count = 2 if state is overdb.TransactionState.COMMITTED else 1
        assert await outage.values(number) == [count, count]
        request_id = outage.unknown[number].request_id
        if state is overdb.TransactionState.ABORTED:
            continue
        # What is not told as aborted may be asked for again under its id, and runs once.
        first, second = [
            await client.transact(then=outage.both[number], request_id=request_id) for _ in range(2)
        ]
        assert first == second
        assert await outage.values(number) == [2, 2]
        status = await client.transaction_status(request_id)
        assert (status.state, status.result) == (overdb.TransactionState.COMMITTED, first)
