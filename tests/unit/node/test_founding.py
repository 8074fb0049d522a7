"""Whether an empty disk is a new one: every answer that a fresh replica can get (FAULTS 37, 38)."""

from __future__ import annotations

from pathlib import Path

import pytest

from overdb.internal.v1 import shard_pb2
from overdb_common.errors import StartupError
from overdb_node.founding import Founding, Verdict
from overdb_node.storage import founding as disk
from overdb_node.storage import identity
from overdb_node.storage.identity import Identity, claim

NEW, WAIT, LOST = Verdict.NEW, Verdict.WAIT, Verdict.LOST
Answer = shard_pb2.DescribeResponse
MINE = 33


def fresh(replica_id: int, incarnation: int | None = None) -> Answer:
    return Answer(replica_id=replica_id, incarnation=incarnation or replica_id * 11)


def begun(replica_id: int, noted: dict[int, int], last_index: int = 9) -> Answer:
    return Answer(
        replica_id=replica_id, established=True, founders=noted, last_index=last_index, term=2
    )


def founder() -> Founding:
    return Founding(3, MINE, {1, 2}, joins=False)


def joiner() -> Founding:
    return Founding(7, 77, set(), joins=True)


def answers(*told: Answer) -> dict[int, Answer]:
    return {answer.replica_id: answer for answer in told}


def test_a_group_is_new_when_all_founders_are_fresh_twice() -> None:
    judge = founder()
    assert judge.judge(answers(fresh(1), fresh(2))).verdict is WAIT
    found = judge.judge(answers(fresh(1), fresh(2)))
    assert (found.verdict, found.founders) == (NEW, {1: 11, 2: 22, 3: MINE})


def test_one_founder_alone_needs_nobody() -> None:
    judge = Founding(1, 11, set(), joins=False)
    assert judge.judge({}).verdict is NEW


@pytest.mark.parametrize("between", [answers(fresh(1)), answers(fresh(1), fresh(2, 99))])
def test_two_rounds_must_be_the_same_and_whole(between: dict[int, Answer]) -> None:
    """A disk that changed in between, or a silent founder, begins the count anew."""
    judge = founder()
    both = answers(fresh(1), fresh(2))
    assert [judge.judge(a).verdict for a in (both, between, both)] == [WAIT, WAIT, WAIT]
    assert judge.judge(both).verdict is NEW


def test_a_majority_of_the_others_is_not_enough_for_a_first_start() -> None:
    found = founder().judge(answers(fresh(1)))
    assert (found.verdict, found.reason) == (
        WAIT,
        "replicas 2 do not answer; the first start needs all",
    )


def test_a_founder_killed_in_its_first_start_is_known_by_its_disk() -> None:
    """FAULTS 37: one answer will do, and what it noted is taken over."""
    noted = {1: 11, 2: 22, 3: MINE}
    found = founder().judge(answers(begun(2, noted)))
    assert (found.verdict, found.founders) == (NEW, noted)


@pytest.mark.parametrize(
    "evidence",
    [
        begun(1, {1: 11, 2: 22, 3: 99}),  # another disk
        begun(1, {}),  # a group from before disks were noted
        Answer(replica_id=1, last_index=4, term=1),  # a program from before
        Answer(replica_id=1, term=1),  # it voted, at least
        Answer(replica_id=1, retired=[3]),
        Answer(replica_id=1, members=[shard_pb2.Member(id=3, incarnation=99, voter=True)]),
    ],
    ids=["other disk", "none noted", "a log", "a term", "removed", "noted in a configuration"],
)
def test_one_answer_proves_a_lost_disk(evidence: Answer) -> None:
    """FAULTS 38: whoever else is fresh."""
    found = founder().judge(answers(evidence, fresh(2)))
    assert found.verdict is LOST
    assert "replica 1" in found.reason


def test_another_disk_weighs_more_than_a_witness_for_this_one() -> None:
    mine, other = begun(1, {3: MINE}), begun(2, {3: 99})
    assert founder().judge(answers(mine, other)).verdict is LOST


def test_a_witness_weighs_more_than_one_who_noted_nothing() -> None:
    """A replica that joined does not know the founders' disks."""
    assert founder().judge(answers(begun(1, {}), begun(2, {3: MINE}))).verdict is NEW


def test_one_who_joins_waits_for_somebody_who_would_know() -> None:
    assert joiner().judge({}).verdict is WAIT
    assert joiner().judge(answers(begun(1, {1: 11}))).verdict is NEW


@pytest.mark.parametrize(
    "member",
    [
        shard_pb2.Member(id=7, voter=True),
        shard_pb2.Member(id=7, voter=True, incarnation=1),
        shard_pb2.Member(id=7, voter=False, incarnation=1),
    ],
)
def test_one_who_joins_under_the_id_of_a_voter_has_lost_its_disk(member: shard_pb2.Member) -> None:
    answer = begun(1, {1: 11})
    answer.members.append(member)
    assert joiner().judge(answers(answer)).verdict is LOST


def test_a_learner_may_start_after_it_was_added() -> None:
    answer = begun(1, {1: 11})
    answer.members.append(shard_pb2.Member(id=7, voter=False))
    assert joiner().judge(answers(answer)).verdict is NEW


def test_the_disk_remembers_what_was_noted(tmp_path: Path) -> None:
    claim(tmp_path, Identity("c", 0, 1, 3))
    found = disk.read(tmp_path)
    assert found.incarnation > 0
    assert found.founders is None
    disk.write_founders(tmp_path, {1: 11, 3: found.incarnation})
    assert disk.read(tmp_path).founders == {1: 11, 3: found.incarnation}


def test_a_directory_from_before_takes_part_as_it_did(tmp_path: Path) -> None:
    """A rolling upgrade: its node.json has no number."""
    (tmp_path / "node.json").write_text('{"format": 1}')
    assert disk.read(tmp_path) == disk.Founding(0, {})


def test_a_newer_founders_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text('{"format": 1}')
    (tmp_path / "founders.json").write_text('{"format": 2}')
    with pytest.raises(StartupError, match="format 2, this program knows up to 1"):
        disk.read(tmp_path)


def test_no_flipped_bit_makes_another_disk_of_it(tmp_path: Path) -> None:
    """A wrong number would look like a lost disk to the others, and not like a damaged file."""
    identity.claim(tmp_path, identity.Identity("test", 0, 1, 1))
    disk.write_founders(tmp_path, {1: disk.read(tmp_path).incarnation, 2: 77})
    for path in (tmp_path / "node.json", tmp_path / "founders.json"):
        whole = path.read_bytes()
        for position in range(len(whole) * 8):
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << position % 8
            path.write_bytes(damaged)
            with pytest.raises(StartupError):
                disk.read(tmp_path)
        path.write_bytes(whole)
    assert disk.read(tmp_path).founders == {1: disk.read(tmp_path).incarnation, 2: 77}


def test_founders_with_different_settings_begin_nothing_and_both_values_are_said() -> None:
    """FAULTS 85: the number of groups decides which slots a group owns from the beginning."""
    judge = Founding(3, MINE, {1, 2}, joins=False, groups=2)
    other = fresh(1)
    other.groups = 4
    for _ in range(3):
        found = judge.judge(answers(other, fresh(2)))
        assert found.verdict is WAIT
    assert "replica 1 has OVERDB_GROUPS=4, this one 2" in found.reason


def test_founders_with_different_lists_of_members_begin_nothing() -> None:
    judge = Founding(3, MINE, {1, 2}, joins=False)
    other = fresh(1)
    other.members.extend(shard_pb2.Member(id=i, voter=True) for i in (1, 2, 3, 4))
    for _ in range(3):
        found = judge.judge(answers(other, fresh(2)))
        assert found.verdict is WAIT
    assert "replica 1 has OVERDB_MEMBERS 1, 2, 3, 4, this one 1, 2, 3" in found.reason


def test_one_who_joins_with_another_number_of_groups_takes_no_part() -> None:
    judge = Founding(7, 77, set(), joins=True, groups=3)
    there = begun(1, {1: 11})
    there.groups = 2
    found = judge.judge(answers(there))
    assert found.verdict is WAIT
    assert "OVERDB_GROUPS=2, this one 3" in found.reason
