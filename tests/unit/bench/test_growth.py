"""What the pages of growth conclude from what was measured."""

from __future__ import annotations

import asyncio
from typing import cast

import overdb
from bench.growth.common import in_words, spread_of
from bench.growth.size import _differing
from bench.growth.trouble import _Stream, _value, missing_of
from overdb.v1 import kv_pb2


def test_sizes_are_judged_by_their_medians_beside_the_spread_of_windows() -> None:
    told = _differing("put", [[90.0, 100.0, 200.0], [110.0, 110.0, 110.0]])
    assert "differs by 10% between the medians" in told
    assert "up to 122% between windows" in told
    assert told.endswith(" reached.")
    assert " NOT reached" in _differing("put", [[100.0], [116.0]])
    assert in_words([3.0, 1.0, 2000.0]) == "1.0-3.0-2,000.0"
    assert spread_of([0.0, 1.0]) == float("inf")


class _Stored:
    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values

    async def get(self, key: bytes) -> overdb.Value | None:
        value = self._values.get(key)
        return None if value is None else overdb.Value(value, 1)


def test_a_key_that_is_gone_or_older_than_acknowledged_is_missing() -> None:
    stored = _Stored({b"same": _value(3), b"later": _value(4), b"older": _value(2)})
    client = cast("overdb.Client", stored)
    acknowledged = dict.fromkeys((b"same", b"later", b"older", b"gone"), 3)
    assert asyncio.run(missing_of(client, acknowledged)) == 2
    assert asyncio.run(missing_of(client, {b"same": 3, b"later": 3})) == 0


def test_every_key_is_looked_at_not_a_sample() -> None:
    client = cast("overdb.Client", _Stored({}))
    assert asyncio.run(missing_of(client, {b"%d" % n: 1 for n in range(5000)})) == 5000


def test_a_refusal_is_told_by_its_code_and_by_whose_bound_is_full() -> None:
    stream = _Stream(3)
    answers = kv_pb2.BatchResponse()
    answers.entries.add(tag=1).put.version = 1
    refused, unavailable = answers.entries.add(tag=2).error, answers.entries.add(tag=3).error
    refused.code, refused.message = 8, "stream: 33554433 bytes have no answer yet"
    unavailable.code, unavailable.message = 14, "no leader"
    for entry in answers.entries:
        stream._take(entry)
    assert stream.answers == {"OK": 1, "RESOURCE_EXHAUSTED (stream)": 1, "UNAVAILABLE": 1}
    assert list(stream.acknowledged.values()) == [1]
    assert len(stream.refused) == 1
