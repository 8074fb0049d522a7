"""Start numbers: which life of which directory may be heard, and what is durable when (FAULTS 82)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from overdb_common.errors import StartupError
from overdb_node.starts import LATE_RENEWALS_MAX, NOTED_MAX, Starts, contradiction, could_be_of
from overdb_node.storage import documents, identity
from overdb_node.storage import starts as disk
from overdb_node.storage.identity import Identity
from overdb_node.storage.starts import LIVES_MAX, NUMBER_MAX, Noted, Start

PEER = 3


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    identity.claim(tmp_path, Identity("test", 0, 2, 1))
    return tmp_path


def noting(directory: Path, *heard: Start) -> Starts:
    """A replica that has noted these starts of replica 3."""
    starts = Starts(directory, disk.begin(directory))

    async def hear() -> None:
        for start in heard:
            await starts.note(PEER, start)

    asyncio.run(hear())
    return starts


# --- this directory's own --------------------------------------------------------------------------------


def test_each_start_has_the_next_number_and_an_id_of_its_own(directory: Path) -> None:
    first, second = disk.begin(directory), disk.begin(directory)
    assert (first.number, second.number) == (1, 2)
    assert first.id != second.id
    content = json.loads((directory / "node.json").read_text())
    assert (content["start_number"], content["start_id"]) == (second.number, second.id)
    assert not identity.claim(directory, Identity("test", 0, 2, 1))  # all else is as it was


def test_the_number_grows_in_a_life_and_goes_on_from_there(directory: Path) -> None:
    starts = noting(directory)
    for _ in range(3):
        asyncio.run(starts.renew())
    assert starts.own.number == 4
    again = disk.begin(directory)
    assert again.number == 5
    assert again.id != starts.own.id


def test_a_directory_remembers_how_its_last_lives_began(directory: Path) -> None:
    begun = [disk.begin(directory) for _ in range(LIVES_MAX + 3)]
    assert disk.lives(directory) == tuple(begun[3:])
    assert noting(directory).lives[:-1] == tuple(begun[4:])


def test_of_a_directory_that_remembers_no_lives_the_newest_is_known(directory: Path) -> None:
    """It was written by a program that did not note them."""
    path = directory / "node.json"
    content = documents.decode(path.read_text(), newest=9)
    path.write_bytes(documents.encode({**content, "start_number": 7, "start_id": 70}))
    start = disk.begin(directory)
    assert disk.lives(directory) == (Start(7, 70), start)


def test_a_number_is_told_only_when_it_is_durable(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL 1.0: else a start after a power loss would say a number that was heard before."""
    starts = noting(directory)
    told: list[int] = []
    whole = disk.write

    def write(where: Path, noted: Noted) -> None:
        told.append(starts.own.number)
        whole(where, noted)

    monkeypatch.setattr(disk, "write", write)
    asyncio.run(starts.renew())
    assert told == [1]
    assert starts.own.number == disk.read(directory).number == 2


def test_a_number_that_cannot_be_written_does_not_grow(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noting(directory)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write", fail)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(starts.renew())
    assert starts.own.number == 1


def test_a_directory_of_a_program_without_start_numbers_begins_with_one(directory: Path) -> None:
    assert "start_number" not in json.loads((directory / "node.json").read_text())
    assert disk.begin(directory).number == 1


def test_damage_is_refused_and_nobody_is_told_to_restore(directory: Path) -> None:
    disk.write(directory, Noted(5, {2: Start(1, 2)}))
    path = directory / "starts.json"
    path.write_text(path.read_text().replace("5", "6", 1))
    with pytest.raises(StartupError, match="replace this replica by one with a new id"):
        disk.begin(directory)


# --- the others' -----------------------------------------------------------------------------------------


def test_a_later_start_is_heard_and_an_earlier_one_is_not(directory: Path) -> None:
    """A copy that was put back counts on from where it was taken."""
    starts = noting(directory, Start(5, 50))
    assert not starts.objection(PEER, Start(6, 60))
    assert "start 4, and start 5 was heard before" in starts.objection(PEER, Start(4, 40))


def test_the_same_number_with_another_id_is_another_copy(directory: Path) -> None:
    """The copy was taken before the last start: both count up to the same number."""
    starts = noting(directory, Start(5, 50))
    assert starts.objection(PEER, Start(5, 51))
    assert not starts.objection(PEER, Start(5, 50))


def test_a_copy_that_was_started_often_and_heard_by_nobody_is_refused(directory: Path) -> None:
    """It has counted beyond the life that was noted, and that one is none of its own."""
    starts = noting(directory, Start(5, 50))
    own = Start(8, 80)
    assert starts.objection(PEER, own, [Start(4, 40), Start(5, 51), own])
    assert starts.objection(PEER, own, [Start(4, 40), own])
    assert not starts.objection(PEER, own, [Start(4, 40), Start(5, 50), own])
    assert not starts.objection(
        PEER, own, [Start(3, 50), own]
    )  # 5 is a renewal of the life from 3 on
    assert not starts.objection(PEER, own, [Start(6, 60), own])  # it does not remember so far back
    assert not starts.objection(PEER, own)  # an older program


def test_packets_of_one_life_may_be_late(directory: Path) -> None:
    """They travel on several streams. A virtual machine that was rolled back is late by more."""
    starts = noting(directory, Start(50, 50))
    assert not starts.objection(PEER, Start(50 - LATE_RENEWALS_MAX, 50))
    assert starts.objection(PEER, Start(50 - LATE_RENEWALS_MAX - 1, 50))


def test_nothing_is_concluded_from_a_program_without_start_numbers(directory: Path) -> None:
    starts = noting(directory, Start(5, 50))
    assert not starts.objection(PEER, Start(0, 0))
    assert starts.may_count(PEER, Start(0, 0))


def test_a_number_that_nobody_can_have_counted_to_is_not_noted(directory: Path) -> None:
    starts = noting(directory, Start(5, 50), Start(NUMBER_MAX + 1, 60))
    assert starts.heard[PEER] == Start(5, 50)
    assert starts.objection(PEER, Start(NUMBER_MAX + 1, 60))


def test_a_new_life_counts_only_when_its_note_is_durable(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noting(directory, Start(5, 50))
    new = Start(6, 60)
    assert not starts.may_count(PEER, new)
    counted: list[bool] = []
    whole = disk.write

    def write(where: Path, noted: Noted) -> None:
        counted.append(starts.may_count(PEER, new))
        whole(where, noted)

    monkeypatch.setattr(disk, "write", write)
    asyncio.run(starts.note(PEER, new))
    assert counted == [False]
    assert starts.may_count(PEER, new)


def test_a_renewal_counts_at_once_and_is_noted_when_it_was_asked_for(directory: Path) -> None:
    """Packets may say any number: only an answer is noted."""
    starts = noting(directory, Start(5, 50))
    assert starts.may_count(PEER, Start(6, 50))
    assert starts.heard[PEER] == Start(5, 50)
    starts.learn(PEER, Start(6, 50))
    asyncio.run(starts.renew())
    assert disk.read(directory).others[PEER] == Start(6, 50)


def test_a_life_is_noted_by_one_write_however_many_packets_wait(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = noting(directory)
    writes: list[Noted] = []
    whole = disk.write

    def write(where: Path, noted: Noted) -> None:
        writes.append(noted)
        whole(where, noted)

    monkeypatch.setattr(disk, "write", write)

    async def storm() -> None:
        await asyncio.gather(*(starts.note(PEER, Start(6, 60)) for _ in range(50)))

    asyncio.run(storm())
    assert len(writes) == 1


def test_notes_outlive_the_process_that_made_them(directory: Path) -> None:
    noting(directory, Start(5, 50))
    assert noting(directory).objection(PEER, Start(5, 51))


def test_of_two_copies_that_start_at_once_the_second_one_is_refused(directory: Path) -> None:
    starts = noting(directory, Start(5, 50), Start(5, 51))
    assert starts.heard[PEER] == Start(5, 50)
    assert not starts.may_count(PEER, Start(5, 51))


def test_what_another_replica_has_noted_is_learned_and_counts_when_it_is_durable(
    directory: Path,
) -> None:
    starts = noting(directory, Start(5, 50))
    starts.learn(PEER, Start(7, 70))
    starts.learn(PEER, Start(6, 60))
    assert starts.objection(PEER, Start(6, 60))
    assert not starts.may_count(PEER, Start(7, 70))


def test_strangers_do_not_fill_the_memory(directory: Path) -> None:
    starts = noting(directory)
    for stranger in range(10, 10 + 2 * NOTED_MAX):
        starts.learn(stranger, Start(1, stranger))
    assert len(starts.heard) == NOTED_MAX
    starts.forget(range(10, 10 + 2 * NOTED_MAX))
    assert not starts.heard


def test_that_a_directory_is_outdated_is_never_forgotten(directory: Path) -> None:
    asyncio.run(noting(directory).stay_out("replica 1 knows better"))
    assert noting(directory).outdated == "replica 1 knows better"


@pytest.mark.parametrize(
    ("known", "proves"),
    [
        (Start(9, 50), True),  # another life with a larger number
        (Start(5, 51), True),  # another one with the same number
        (Start(4, 40), False),  # the life before
        (Start(5, 50), False),  # this one
        (Start(6, 50), False),  # this one, renewed while the answer was under way
        (
            Start(7, 50),
            True,
        ),  # this one, as it never was: the machine was rolled back with its memory
    ],
)
def test_what_an_answer_proves(known: Start, proves: bool) -> None:
    assert contradiction(own=Start(6, 50), asked=Start(5, 50), known=known) is proves


def test_a_start_that_is_none_of_the_own_lives_is_proof() -> None:
    lives = (Start(4, 40), Start(5, 50), Start(8, 80))
    asked = own = lives[-1]
    assert contradiction(own, asked, Start(5, 51), lives)
    assert not contradiction(own, asked, Start(5, 50), lives)
    assert not contradiction(own, asked, Start(7, 50), lives)  # renewed
    assert could_be_of(lives, Start(3, 30))  # before what it remembers
