"""Hoard: large values over and over under a few keys, so that disks fill up; scans of all meanwhile."""

from __future__ import annotations

import overdb
from tests.simulation.cluster.history import GROUPS, NO_ANSWER, Recorder, spread

VALUE_BYTES = (2_000, 24_000)


class Hoard:
    """Puts are refused while a disk is full. Deletes and scans of other groups never are for that."""

    name = "hoard"

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.keys = spread(b"hoard-", 2 * GROUPS)

    async def step(self, client: overdb.Client) -> None:
        random = self._recorder.random
        draw = random.random()
        if draw < 0.7:
            await self._put(client, random.choice(self.keys))
        elif draw < 0.8:
            await self._delete(client, random.choice(self.keys))
        else:
            await self.scan(client)

    async def _put(self, client: overdb.Client, key: bytes) -> None:
        recorder = self._recorder
        # Of anything but zeros: with those, a flipped bit in the last frame may pass for a torn write.
        value = b"h" * recorder.random.randint(*VALUE_BYTES)
        try:
            await client.put(key, value)
        except overdb.ResourceExhausted:
            recorder.counts["puts refused by a full disk"] += 1
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return
        recorder.counts["hoarded"] += 1

    async def _delete(self, client: overdb.Client, key: bytes) -> None:
        try:
            await client.delete(key)
        except (overdb.OutcomeUnknown, *NO_ANSWER):
            return

    async def scan(self, client: overdb.Client) -> None:
        """Disks may be full, of one group or of all: a scan is never refused for that."""
        try:
            async for _ in client.scan(prefix=b"hoard-"):
                pass
        except overdb.ResourceExhausted as refusal:
            raise AssertionError(f"a scan was refused by a full disk: {refusal}") from None
        except NO_ANSWER:
            return
        self._recorder.counts["scans of a hoard"] += 1

    async def check(self, client: overdb.Client) -> None:
        """At the end there is room again everywhere, and nobody was restarted for it."""
        for key in self.keys:
            await client.put(key, b"at the end")
        found = [item.key async for item in client.scan(prefix=b"hoard-")]
        assert found == sorted(self.keys), f"{found} of {sorted(self.keys)}"
