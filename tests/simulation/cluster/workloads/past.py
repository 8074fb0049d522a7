"""What is promised of the past: a version reads as it was written, an id runs once, or both are refused.

Whatever becomes of the settings that say how long (FAULTS 85).
"""

from __future__ import annotations

import overdb
from overdb.ids import RequestId, uuid7
from tests.simulation.cluster.history import NO_ANSWER, Recorder, spread

KNOWN_MAX = 120  # versions and ids that are asked about again
REFUSED = (overdb.FailedPrecondition, overdb.OutcomeUnknown, overdb.InvalidArgument, *NO_ANSWER)


class Past:
    name = "past"

    def __init__(self, recorder: Recorder, keys: int = 4) -> None:
        self._recorder = recorder
        self._keys = spread(b"past-", keys)
        self._versions: list[tuple[bytes, int, bytes]] = []  # key, version, the value that it wrote
        self._requests: list[tuple[RequestId, bytes]] = []  # id, the counter of its own
        self._written = 0

    async def step(self, client: overdb.Client) -> None:
        draw = self._recorder.random.random()
        if draw < 0.4:
            await self._write(client)
        elif draw < 0.7 and self._versions:
            await self._read(client)
        elif draw < 0.8 or not self._requests:
            await self._count(client, *self._new_request())
        else:
            await self._count(client, *self._recorder.random.choice(self._requests))

    async def _write(self, client: overdb.Client) -> None:
        self._written += 1
        key, value = self._recorder.random.choice(self._keys), b"%d" % self._written
        try:
            version = await client.put(key, value)
        except REFUSED:
            return
        self._versions.append((key, version, value))
        del self._versions[:-KNOWN_MAX]

    async def _read(self, client: overdb.Client) -> None:
        key, version, value = self._recorder.random.choice(self._versions)
        try:
            found = await client.get(key, version=version)
        except REFUSED:
            self._recorder.counts["past refused"] += 1
            return
        self._recorder.counts["past read"] += 1
        assert found is not None, f"{key!r} was {value!r} at version {version}, and is nothing now"
        assert found.value == value, f"{key!r} was {value!r} at {version}, and is {found.value!r}"

    def _new_request(self) -> tuple[RequestId, bytes]:
        random, wall_us = self._recorder.random, self._recorder.wall_us
        id_ = RequestId(uuid7(wall_us // 1000, random.randbytes(10)), 1, wall_us, 0)
        request = (id_, self._keys[0] + b"-%d" % len(self._requests))
        self._requests.append(request)
        return request

    async def _count(self, client: overdb.Client, id_: RequestId, counter: bytes) -> None:
        try:
            done = await client.transact(then=[overdb.Add(counter, 1)], request_id=id_)
        except REFUSED:
            self._recorder.counts["id refused"] += 1
            return
        value = done.results[0].value
        assert value == b"1", f"request {id_} ran before, and again: {counter!r} is {value!r}"

    async def check(self, client: overdb.Client) -> None:
        for id_, counter in self._requests[-KNOWN_MAX:]:
            found = await client.get(counter)
            assert found is None or found.value == b"1", f"request {id_} ran more than once"
