"""Whose packets count, and when a replica that starts again may take part (PROTOCOL 3.9, 3.10)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from overdb.internal.v1 import shard_pb2
from overdb_node import peer_admission as module
from overdb_node.peer_admission import PeerAdmission
from overdb_node.raft.types import Configuration, Member
from overdb_node.settings import NodeSettings
from overdb_node.starts import Starts
from overdb_node.storage import founding, identity
from overdb_node.storage import starts as disk
from overdb_node.storage.identity import Identity
from overdb_node.storage.starts import Start
from overdb_node.transport.peers import Sender

ADDRESSES = {1: "a:1", 2: "b:2", 3: "c:3"}
DISKS = {1: 11, 2: 22, 3: 33}
Answer = shard_pb2.DescribeResponse


class Log:
    def __init__(self, index: int = 0, voters: tuple[int, ...] = (1, 2, 3)) -> None:
        members = tuple(Member(i, ADDRESSES.get(i, f"x:{i}")) for i in voters)
        self.configuration = Configuration(members)
        self.configuration_index = index
        self.members = members
        self.last_index = 9

    def configuration_at(self, _: int) -> Configuration:
        return self.configuration


class Setup:
    """Replica 1 of three, started again on a directory that was founded; the others are what a test says."""

    def __init__(self, directory: Path, log: Log | None = None, members: str = "") -> None:
        members = members or ",".join(f"{i}={address}" for i, address in ADDRESSES.items())
        told: dict[str, Any] = {"node_id": 1, "groups": 2, "members": members, "data": directory}
        settings = NodeSettings(**told)
        if identity.claim(directory, Identity(settings.cluster, 0, 2, 1)):
            founding.write_founders(directory, DISKS)
        self.fatal: list[str] = []
        self.raft = SimpleNamespace(
            log=log or Log(),
            commit_index=0,
            term=4,
            replica_id=1,
            is_leader=False,
            step_down=lambda: None,
            leading=SimpleNamespace(progress={}),
            election=SimpleNamespace(has_vote_of=lambda _: False),
        )
        replica: Any = SimpleNamespace(
            settings=settings,
            raft=self.raft,
            machine=SimpleNamespace(level=0),
            storage=SimpleNamespace(start=disk.begin(directory)),
            peers=SimpleNamespace(meet=lambda *_: None),
            membership=SimpleNamespace(own_address="a:1"),
            address_of=lambda member: member.address,
            stand_aside=lambda: None,
            schedule_turn=lambda: None,
            fatal=self.fatal.append,
        )
        self.replica = replica
        self.admission = PeerAdmission(replica)
        self.says: Start | None = None  # what replica 3 answers when it is asked back

        async def start_of(*_: object) -> Start | None:
            return self.says

        self.admission.others.start_of = start_of  # type: ignore[method-assign,assignment]

    def note(self, start: Start) -> bool:
        """A packet of replica 3 comes, which says the same when it is asked."""
        self.says = start
        return asyncio.run(self.admission.note(sender(start)))

    def confirmed(self, *answers: Answer, seconds: float = 0.0) -> bool:
        return self.admission._is_confirmed({a.replica_id: a for a in answers}, seconds)

    def introduce(
        self,
        start: Start,
        *,
        term: int | None = None,
        last_index: int = 0,
        lives: tuple[Start, ...] = (),
        says: Start | None = None,
    ) -> str:
        self.says = says or start
        who = shard_pb2.Introduction(
            cluster="overdb",
            founding_groups=2,
            incarnation=DISKS[3],
            start_number=start.number,
            start_id=start.id,
            term=term,
            last_index=last_index,
            lives=[shard_pb2.Start(start_number=s.number, start_id=s.id) for s in lives],
        )
        setattr(who, "from", 3)
        return asyncio.run(self.admission.introduced(who))


def established(replica_id: int, **told: Any) -> Answer:
    """Of a program without start numbers, if no ``start_number`` is told."""
    return Answer(replica_id=replica_id, established=True, **told)


def sender(start: Start, **told: Any) -> Sender:
    return Sender(3, told.pop("incarnation", DISKS[3]), "", start, told.pop("groups", 2))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


# --- when it may take part -----------------------------------------------------------------------------


def test_it_waits_at_first(setup: Setup) -> None:
    assert not setup.admission.established


def test_all_voters_that_answer_are_enough_at_once(setup: Setup) -> None:
    assert setup.confirmed(established(2), established(3))


def test_a_majority_is_enough_when_the_rest_is_silent_for_a_while(setup: Setup) -> None:
    assert not setup.confirmed(established(2), seconds=module.SILENCE_SECONDS - 0.01)
    assert setup.confirmed(established(2), seconds=module.SILENCE_SECONDS)


def test_alone_it_never_takes_part(setup: Setup) -> None:
    assert not setup.confirmed(seconds=3600.0)
    assert "a majority of the voters [1, 2, 3]" in setup.admission.problem


def test_an_answer_of_a_disk_that_was_lost_confirms_nothing(setup: Setup) -> None:
    assert not setup.confirmed(Answer(replica_id=2), seconds=3600.0)


def test_the_voters_are_those_of_the_newest_configuration_that_is_told(tmp_path: Path) -> None:
    """It lags: the others were replaced meanwhile, and those that it knows never answer again."""
    setup = Setup(tmp_path, Log(index=5))
    members = [shard_pb2.Member(id=i, voter=True) for i in (1, 7, 8)]
    newer = {i: established(i, members=members, members_index=6) for i in (7, 8)}
    assert setup.confirmed(*newer.values())
    older = established(2, members=[shard_pb2.Member(id=2, voter=True)], members_index=4)
    assert not setup.confirmed(older)


def test_a_group_of_one_asks_those_that_it_was_told_of_once(tmp_path: Path) -> None:
    """Its directory may be a copy from before the others were taken in."""
    setup = Setup(tmp_path, Log(voters=(1,)))
    assert not setup.admission.established
    assert setup.confirmed()
    members = [shard_pb2.Member(id=i, voter=True) for i in (1, 7, 8)]
    assert not setup.confirmed(established(7, members=members, members_index=6))


def test_one_that_was_told_of_nobody_asks_nobody(tmp_path: Path) -> None:
    assert Setup(tmp_path, Log(voters=(1,)), members="1=a:1").admission.established


def test_one_that_was_removed_goes_on_to_find_that_out(setup: Setup) -> None:
    assert setup.confirmed(established(2, retired=[1]))


# --- what answers prove -----------------------------------------------------------------------------------


def outdated(setup: Setup, answer: Answer) -> bool:
    setup.admission._asked = setup.admission.starts.own
    return asyncio.run(setup.admission._is_outdated({answer.replica_id: answer}))


def test_a_start_that_another_one_has_heard_of_proves_an_old_directory(
    setup: Setup, tmp_path: Path
) -> None:
    number = setup.admission.starts.own.number
    assert outdated(setup, established(2, starts=[shard_pb2.Start(id=1, start_number=number)]))
    assert "is an old copy: replica 2 has heard its start" in setup.admission.problem
    assert not setup.admission.established
    assert disk.read(tmp_path).outdated  # and so it stays at each later start


def test_what_others_have_noted_of_others_is_learned(setup: Setup) -> None:
    heard = shard_pb2.Start(id=3, start_number=8, start_id=80)
    assert not outdated(setup, established(2, starts=[heard]))
    assert setup.admission.starts.heard[3] == Start(8, 80)


def test_a_log_that_lacks_what_it_acknowledged_is_proof_only_before_it_takes_part(
    setup: Setup,
) -> None:
    """Later, the question may be older than the acknowledgement."""
    setup.admission.established = True
    assert not outdated(setup, established(2, outdated="entry 7"))
    setup.admission.established = False
    assert outdated(setup, established(2, outdated="entry 7"))


# --- who is heard -----------------------------------------------------------------------------------------


def test_a_start_is_noted_before_it_counts(setup: Setup, tmp_path: Path) -> None:
    gate = setup.admission
    who = sender(Start(5, 50))
    assert gate.admit(who) == ""
    assert not gate.may_count(who)
    assert setup.note(Start(5, 50))
    assert disk.read(tmp_path).others[3] == Start(5, 50)


def test_packets_of_an_older_life_and_of_another_copy_are_dropped(setup: Setup) -> None:
    setup.note(Start(5, 50))
    assert "is an old copy" in setup.admission.admit(sender(Start(4, 40)))
    assert "is an old copy" in setup.admission.admit(sender(Start(5, 51)))
    assert setup.admission.admit(sender(Start(6, 50))) == ""


def test_packets_of_a_replica_with_another_number_of_groups_are_dropped(setup: Setup) -> None:
    said = setup.admission.admit(sender(Start(5, 50), groups=3))
    assert "OVERDB_GROUPS=3, replica 1 has 2" in said
    assert setup.admission.admit(sender(Start(5, 50), groups=0)) == ""  # an older program


def test_without_space_nothing_is_noted_and_nothing_counts(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write", fail)
    assert not setup.note(Start(5, 50))
    assert not setup.fatal


def test_a_failed_fsync_ends_the_process(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 32."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "write", fail)
    assert not setup.note(Start(5, 50))
    assert setup.fatal


# --- introductions ----------------------------------------------------------------------------------------


def test_an_introduction_is_noted_durably_before_it_is_answered(
    setup: Setup, tmp_path: Path
) -> None:
    assert setup.introduce(Start(5, 50)) == ""
    assert disk.read(tmp_path).others[3] == Start(5, 50)


def test_an_introduction_of_an_older_start_changes_nothing(setup: Setup) -> None:
    setup.introduce(Start(5, 50))
    setup.introduce(Start(4, 40))
    assert setup.admission.starts.heard[3] == Start(5, 50)


@pytest.mark.parametrize("level", [0, 1])
def test_an_introduction_is_noted_at_every_level(setup: Setup, tmp_path: Path, level: int) -> None:
    setup.replica.machine.level = level
    setup.introduce(Start(5, 50))
    assert disk.read(tmp_path).others[3] == Start(5, 50)


def test_a_start_that_its_replica_does_not_confirm_is_not_noted(setup: Setup) -> None:
    """PROTOCOL 3.9 (!): else one forged message makes an old copy of the real one, for good."""
    real, forged = Start(5, 50), Start(1_000_005, 4711)
    setup.note(real)
    setup.introduce(forged, says=real)
    setup.says = real
    assert not asyncio.run(setup.admission.note(sender(forged)))
    assert setup.admission.may_count(sender(Start(1_000_005, real.id)))  # a number is no proof
    assert setup.admission.starts.heard[3] == real
    setup.says = None  # nobody answers
    assert not asyncio.run(setup.admission.note(sender(forged)))


def test_how_far_a_number_has_grown_is_learned_from_answers_alone(setup: Setup) -> None:
    setup.note(Start(5, 50))
    assert not outdated(setup, established(3, start_number=9, start_id=50))
    assert setup.admission.starts.heard[3] == Start(9, 50)
    assert not outdated(setup, established(3, start_number=12, start_id=60))
    assert setup.admission.starts.heard[3] == Start(9, 50)  # another life is noted first


def test_of_those_that_wait_one_asks_back(setup: Setup) -> None:
    asked: list[object] = []

    async def start_of(*who: object) -> Start | None:
        asked.append(who)
        await asyncio.sleep(0)
        return Start(5, 50)

    setup.admission.others.start_of = start_of  # type: ignore[method-assign,assignment]

    async def storm() -> list[bool]:
        waiting = (setup.admission.note(sender(Start(5, 50))) for _ in range(20))
        return await asyncio.gather(*waiting)

    assert all(asyncio.run(storm()))
    assert len(asked) == 1


def test_an_answer_confirms_only_with_a_note_of_this_start(setup: Setup) -> None:
    own = setup.admission.starts.own
    other_life = shard_pb2.Start(id=1, start_number=own.number, start_id=own.id + 1)
    this_one = shard_pb2.Start(id=1, start_number=own.number, start_id=own.id)
    for starts, confirms in (((), False), ((other_life,), False), ((this_one,), True)):
        answer = established(2, start_number=7, starts=starts)
        assert setup.confirmed(answer, seconds=3600.0) is confirms


def test_an_introduction_from_other_lives_is_not_noted(setup: Setup) -> None:
    """The note is the evidence against the copy: a copy must not replace it."""
    known, counted_beyond = Start(5, 50), Start(7, 70)
    setup.introduce(known)
    setup.introduce(counted_beyond, lives=(Start(4, 40), Start(5, 51), counted_beyond))
    assert setup.admission.starts.heard[3] == known
    setup.introduce(counted_beyond, lives=(Start(4, 40), known, counted_beyond))
    assert setup.admission.starts.heard[3] == counted_beyond


def test_a_fresh_disk_under_a_known_id_is_not_noted(setup: Setup, tmp_path: Path) -> None:
    who = shard_pb2.Introduction(cluster="overdb", incarnation=99, start_number=8, start_id=80)
    setattr(who, "from", 3)
    asyncio.run(setup.admission.introduced(who))
    assert 3 not in setup.admission.starts.heard
    assert setup.admission.disks == {}


@pytest.mark.parametrize(
    ("term", "last_index", "lacks"),
    [(4, 7, False), (4, 8, False), (5, 3, False), (4, 6, True), (3, 9, True)],
)
def test_a_leader_compares_the_log_with_what_was_acknowledged_to_it(
    setup: Setup, term: int, last_index: int, lacks: bool
) -> None:
    """A copy of a running node, and no start in between. A newer term may have cut the entry."""
    setup.raft.is_leader = True
    setup.raft.leading.progress[3] = SimpleNamespace(match=7)
    assert bool(setup.introduce(Start(5, 50), term=term, last_index=last_index)) is lacks


def test_a_leader_remembers_who_voted_for_it(setup: Setup) -> None:
    setup.raft.is_leader = True
    setup.raft.leading.progress[3] = SimpleNamespace(match=0)
    setup.raft.election.has_vote_of = lambda voter: voter == 3
    assert "voted for replica 1 in term 4" in setup.introduce(Start(5, 50), term=3)
    assert setup.introduce(Start(5, 50), term=4) == ""


def test_one_that_takes_part_says_nothing_of_its_log(setup: Setup) -> None:
    setup.raft.is_leader = True
    setup.raft.leading.progress[3] = SimpleNamespace(match=7)
    assert setup.introduce(Start(5, 50)) == ""


def test_notes_are_written_when_it_stops(setup: Setup, tmp_path: Path) -> None:
    async def run() -> None:
        setup.says = Start(5, 50)
        await setup.admission.note(sender(Start(5, 50)))
        setup.admission.starts.learn(3, Start(7, 50))
        await setup.admission.close()

    asyncio.run(run())
    assert Starts(tmp_path, Start(1, 1)).heard[3] == Start(7, 50)


def test_one_that_joined_and_has_an_empty_log_asks_all_the_same(tmp_path: Path) -> None:
    """It may be a copy of its directory from before it was taken in."""
    assert not Setup(tmp_path, Log(voters=())).admission.established
