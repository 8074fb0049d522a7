"""Plain reads are answered by contents alone; whatever is not so plain, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from overdb.internal.v1 import shard_pb2
from overdb.sharding import slot_of
from overdb_node import reads
from overdb_node.machine.machine import Machine, MachineSettings
from overdb_node.machine.types import Delete, Prepare, Put
from overdb_node.reads import BlockedReads, answer_reads
from overdb_node.storage.data import DataStore
from tests.unit.machine.helpers import NOW, request
from tests.unit.node.test_disk_stall import Caught


class Replica:
    """A machine on its store, which holds a: 1, empty: nothing but itself, gone: a tombstone."""

    def __init__(self, directory: Path, groups: int = 1) -> None:
        self.data = DataStore(directory / "data")
        self.machine = Machine(self.data, MachineSettings(groups=groups))
        self.machine.load()
        self.apply(1, Put(b"a", b"1", request(1)))
        self.apply(2, Put(b"empty", b"", request(2)))
        self.apply(3, Put(b"gone", b"1", request(3)))
        self.apply(4, Delete(b"gone", request(4)))

    def apply(self, index: int, command: Put | Delete | Prepare) -> None:
        self.machine.apply(index, 1, NOW, [command])
        batch = self.machine.take_batch()
        self.data.write(batch.versions, batch.records, index, 1)

    def answer(
        self, *keys: bytes, plain: bool = True, stale: bool = False
    ) -> shard_pb2.ShardResponse:
        asked = [shard_pb2.Read(key=key) for key in keys]
        wanted = shard_pb2.Reads(reads=asked, plain=plain, stale=stale)
        answers = Caught()
        message = shard_pb2.ShardRequest(sequence=7, reads=wanted)
        answer_reads(self.machine, self.data, message, answers, BlockedReads())
        (response,) = answers.caught
        assert response.sequence == 7
        return response


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    made = Replica(tmp_path)
    yield made
    made.data.close()


def test_contents_and_versions_in_order(replica: Replica) -> None:
    """Twice: the second time from what the first has left in memory."""
    for _ in range(2):
        response = replica.answer(b"empty", b"a", b"gone", b"never", b"a")
        assert list(response.contents) == [b"", b"1", b"", b"", b"1"]
        assert list(response.content_versions) == [NOW + 1, NOW, 0, 0, NOW]
        assert not response.values


def test_who_does_not_ask_for_them_gets_none(replica: Replica) -> None:
    response = replica.answer(b"a", b"gone", plain=False)
    assert not response.contents
    assert [(value.found, value.value) for value in response.values] == [(True, b"1"), (False, b"")]


@pytest.mark.parametrize(
    "key", [b"", b"k" * (MachineSettings().key_bytes_max + 1)], ids=["empty", "too long"]
)
def test_a_refusal_has_to_be_said(replica: Replica, key: bytes) -> None:
    response = replica.answer(b"a", key)
    assert not response.contents
    assert response.values[0].value == b"1"
    assert response.values[1].HasField("error")


def test_a_slot_of_another_group_has_to_be_said(tmp_path: Path) -> None:
    replica = Replica(tmp_path, groups=2)
    numbers = range(100)
    foreign = next(b"%d" % n for n in numbers if slot_of(b"%d" % n) % 2 == 1)
    own = next(b"%d" % n for n in numbers if slot_of(b"%d" % n) % 2 == 0)
    assert replica.answer(own).content_versions
    response = replica.answer(own, foreign)
    assert not response.contents
    assert response.values[1].HasField("wrong_group")
    replica.data.close()


def test_values_that_are_too_much_for_one_answer_are_refused_one_by_one(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.apply(5, Put(b"large", b"x" * 1000, request(5)))
    monkeypatch.setattr(reads, "ANSWER_BYTES_MAX", 1500)
    assert len(replica.answer(b"large").contents) == 1
    response = replica.answer(*[b"large"] * 100)
    assert not response.contents
    found = [value.found for value in response.values]
    assert found[:2] == [True, True]
    assert response.values[-1].error.message.startswith("the values read with one message")
