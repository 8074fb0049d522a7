"""A host's part in leases: the note of what was promised, the clock, reads that are answered at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from overdb.internal.v1 import shard_pb2
from overdb_common.errors import StartupError
from overdb_node.leasing import Promises, elapsed_us
from overdb_node.metrics import NodeMetrics
from overdb_node.node import open_storage
from overdb_node.raft.settings import RaftSettings
from overdb_node.replica import Replica
from overdb_node.settings import NodeSettings
from tests.unit.node.test_disk_stall import Caught, until

TICK_US = 100_000
OFF = RaftSettings(heartbeat_ticks=1, election_ticks_min=10, election_ticks_max=20)
ON = RaftSettings(
    heartbeat_ticks=1, election_ticks_min=10, election_ticks_max=20, promise_us=898_000
)


def note(directory: Path) -> bool:
    return (directory / "promise.json").exists()


def test_leases_are_off_unless_they_are_asked_for() -> None:
    settings = settings_of(Path("data"))
    assert not settings.read_leases
    assert settings.raft_settings().promise_us == 0


def test_a_promise_is_as_long_as_the_shortest_election_timeout_without_a_tick() -> None:
    """PROTOCOL 1.3: the first tick behind a message may come at once, and all 2 ms early."""
    settings = settings_of(
        Path("data"),
        tick_ms=100,
        heartbeat_ms=100,
        election_ms_min=1000,
        election_ms_max=2000,
        read_leases=True,
    )
    assert settings.raft_settings().promise_us == 898_000


def test_with_leases_off_there_is_no_note(tmp_path: Path) -> None:
    promises = Promises(tmp_path, OFF, TICK_US)
    assert promises.hold_back_ticks == 0
    promises.tick()
    assert list(tmp_path.iterdir()) == []


def test_the_note_is_there_before_the_first_promise(tmp_path: Path) -> None:
    """PROTOCOL 1.3 (!)."""
    assert Promises(tmp_path, ON, TICK_US).hold_back_ticks == 0, "no life came before this one"
    assert note(tmp_path)
    assert Promises(tmp_path, ON, TICK_US).hold_back_ticks == 10


def test_leases_that_were_turned_off_hold_back_once_more(tmp_path: Path) -> None:
    """PROTOCOL 1.3 (!): what the life before this one promised, in the ticks of this one."""
    Promises(tmp_path, ON, TICK_US)
    promises = Promises(tmp_path, OFF, TICK_US // 2)
    assert promises.hold_back_ticks == 19
    for _ in range(18):
        promises.tick()
    assert note(tmp_path), "killed now, the next life has to wait too"
    promises.tick()
    assert not note(tmp_path)
    assert Promises(tmp_path, OFF, TICK_US).hold_back_ticks == 0


def test_a_shorter_promise_does_not_shorten_the_one_before_it(tmp_path: Path) -> None:
    Promises(tmp_path, ON, TICK_US)
    shorter = RaftSettings(
        heartbeat_ticks=1, election_ticks_min=5, election_ticks_max=9, promise_us=398_000
    )
    promises = Promises(tmp_path, shorter, TICK_US)
    assert promises.hold_back_ticks == 10
    assert Promises(tmp_path, shorter, TICK_US).hold_back_ticks == 10
    for _ in range(10):
        promises.tick()
    assert Promises(tmp_path, shorter, TICK_US).hold_back_ticks == 5


def test_a_note_that_cannot_be_shortened_binds_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends no replica that is well."""
    Promises(tmp_path, ON, TICK_US)
    promises = Promises(tmp_path, OFF, TICK_US)

    def full(_: Path, __: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("overdb_node.storage.promises.write", full)
        for _ in range(20):
            promises.tick()
    assert note(tmp_path)
    promises.tick()
    assert not note(tmp_path)


def test_a_replica_without_leases_is_held_to_what_its_earlier_life_promised(tmp_path: Path) -> None:
    """PROTOCOL 1.3 (!): from the note to the election, and until the ticks have passed."""

    async def run() -> None:
        earlier = replica_of(settings_of(tmp_path / "node", read_leases=True), [])
        await earlier.stop()
        settings = settings_of(tmp_path / "node")
        replica = replica_of(settings, [])
        try:
            held = replica.raft.election._promised_ticks
            assert held == replica._promises.hold_back_ticks == 20
            replica.start()
            await until(lambda: replica.raft.election._promised_ticks < held)
            assert not replica.raft.is_leader
            await until(lambda: not note(settings.data))
            await until(lambda: replica.raft.is_leader)
        finally:
            await replica.stop()

    asyncio.run(run())


def test_a_damaged_note_refuses_to_start(tmp_path: Path) -> None:
    Promises(tmp_path, ON, TICK_US)
    path = tmp_path / "promise.json"
    path.write_text(path.read_text().replace("898000", "898001"))
    with pytest.raises(StartupError, match=r"promise\.json"):
        Promises(tmp_path, ON, TICK_US)


def test_the_clock_goes_on_by_itself() -> None:
    before = elapsed_us()
    time.sleep(0.02)  # what passes is what is looked at
    between = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    assert before + 15_000 < between <= elapsed_us()


def settings_of(directory: Path, **more: Any) -> NodeSettings:
    return NodeSettings.model_validate(
        {
            "node_id": 1,
            "groups": 1,
            "members": "1=127.0.0.1:1",
            "data": directory,
            "tick_ms": 10,
            "heartbeat_ms": 20,
            "election_ms_min": 200,
            "election_ms_max": 300,
            **more,
        }
    )


def replica_of(settings: NodeSettings, failures: list[str]) -> Replica:
    metrics = NodeMetrics(CollectorRegistry(), 0, 1)
    return Replica(settings, open_storage(settings), metrics, failures.append)


@pytest.mark.parametrize("leases", [False, True])
def test_with_a_lease_a_read_is_answered_at_once(tmp_path: Path, *, leases: bool) -> None:
    """PROTOCOL 1.3: within the call, if everything is applied; and never when the replica has failed."""

    async def run() -> None:
        failures: list[str] = []
        replica = replica_of(settings_of(tmp_path / "node", read_leases=leases), failures)
        replica.start()
        try:
            await until(lambda: replica.raft.is_leader and replica.raft.applied > 1)
            replica.raft.lease._until = elapsed_us() + 60_000_000  # alone, nobody promises anything
            answers = Caught()
            request = shard_pb2.ShardRequest(sequence=7)
            request.reads.reads.add(key=b"k")
            replica.exchange_reads(request, answers)
            assert len(answers.caught) == int(leases)
            assert replica.raft.lease.reads == int(leases)
            await until(lambda: answers.caught)
            assert not answers.caught[0].HasField("failure")
            replica.raft.lease._until = elapsed_us() - 1
            replica.exchange_reads(request, answers)
            assert len(answers.caught) == 1, "it takes a round again"
            await until(lambda: len(answers.caught) == 2)
            replica.raft.lease._until = elapsed_us() + 60_000_000
            replica.fatal("as said")
            replica.exchange_reads(request, answers)
            assert len(answers.caught) == 2
        finally:
            await replica.stop()
        assert failures == ["as said"]

    asyncio.run(run())


def test_a_read_by_lease_waits_until_its_index_is_applied(tmp_path: Path) -> None:
    """PROTOCOL 1.3. FAULTS 26."""

    async def run() -> None:
        replica = replica_of(settings_of(tmp_path / "node", read_leases=True), [])
        replica.start()
        try:
            await until(lambda: replica.raft.is_leader and replica.raft.applied > 1)
            raft = replica.raft
            raft.lease._until = elapsed_us() + 60_000_000
            seen: list[int] = []
            raft.applied, true = raft.applied - 1, raft.applied
            replica.read(lambda confirmed: seen.append(int(confirmed)))
            assert seen == []
            raft.applied = true
            replica.schedule_turn()
            await until(lambda: seen)
            assert seen == [1]
        finally:
            await replica.stop()

    asyncio.run(run())
