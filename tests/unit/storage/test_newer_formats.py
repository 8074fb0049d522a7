"""What a newer program wrote is refused by name, and left as it is: never guessed at, never cut."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from overdb_common.errors import StartupError
from overdb_node.raft.types import Configuration, HardState, Member
from overdb_node.storage import configurations, frames
from overdb_node.storage.founding import FORMAT
from overdb_node.storage.identity import note_level
from overdb_node.storage.log import DurableLog
from tests.unit.storage.log_files import HEADER_BYTES, SEGMENT_BYTES, entries, write_log
from tests.unit.storage.replicas import MEMBERS, fill, opened


def contents(directory: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes() for p in directory.rglob("*") if p.is_file() and "data" not in str(p)
    }


def refused(directory: Path, *said: str) -> None:
    before = contents(directory)
    with pytest.raises(StartupError) as refusal, opened(directory):
        pass
    for words in said:
        assert words in str(refusal.value)
    after = contents(directory)
    assert {n: c for n, c in after.items() if n != "LOCK"} == {
        n: c for n, c in before.items() if n != "LOCK"
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with opened(tmp_path / "node") as storage:
        fill(storage, 3)
    return tmp_path / "node"


def test_a_newer_current_is_refused(directory: Path) -> None:
    path = directory / "CURRENT"
    body = json.loads(path.read_text().splitlines()[0])
    text = json.dumps({**body, "format": 2})
    path.write_text(f"{text}\n{google_crc32c.value(text.encode()):08x}\n")
    refused(directory, "CURRENT has format 2", "knows up to 1", "start a newer version")


def test_a_directory_of_a_raised_level_is_refused_by_the_programs_before(directory: Path) -> None:
    """They refuse every format but 1, and would apply its log by other rules."""
    path = directory / "node.json"
    before = json.loads(path.read_text())
    assert before["format"] == 1
    note_level(directory, 1)
    after = json.loads(path.read_text())
    assert after["format"] == 2
    assert {k: v for k, v in after.items() if k not in ("format", "checksum")} == {
        k: v for k, v in before.items() if k not in ("format", "checksum")
    }
    with opened(directory) as storage:
        assert storage.recovered.entries


def test_a_newer_directory_is_refused(directory: Path) -> None:
    path = directory / "node.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 7}))
    refused(directory, "node.json has format 7", f"knows up to {FORMAT}", "start a newer version")


def test_a_newer_segment_is_refused(directory: Path) -> None:
    (path,) = sorted((directory / "log-1").glob("*.seg"))[:1]
    content = bytearray(path.read_bytes())
    head = struct.pack(">8sIQ", b"OverDBlg", 9, struct.unpack_from(">Q", content, 12)[0])
    content[:HEADER_BYTES] = head + struct.pack(">I", google_crc32c.value(head))
    path.write_bytes(content)
    refused(directory, "has log format 9", "knows up to 2", "start a newer version")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (struct.pack(">BBQQI", 2, 77, 1, 4, 0), "entry 4 of kind 77"),
        (b"\x09" + bytes(8), "a record of kind 9"),
    ],
)
def test_a_record_of_an_unknown_kind_is_refused(directory: Path, body: bytes, what: str) -> None:
    """A whole frame with a right checksum: no damage, but nothing that this program may skip."""
    (path,) = sorted((directory / "log-1").glob("*.seg"))[:1]
    content = bytearray(path.read_bytes())
    offset, sequence = HEADER_BYTES, 0
    while (frame := frames.read(bytes(content), offset)) is not None:
        offset, sequence = frame.end, frame.sequence
    crc = google_crc32c.extend(google_crc32c.value(struct.pack(">Q", sequence + 1)), body)
    whole = struct.pack(">4sIIQ", frames.MAGIC, len(body), crc, sequence + 1) + body
    content[offset : offset + len(whole)] = whole
    path.write_bytes(content)
    refused(directory, what, "log format 2", "start the version of overdb that wrote it")


def test_a_current_from_before_retired_ids_still_opens(directory: Path) -> None:
    """Fields are only ever added: an old directory has none of the new ones."""
    path = directory / "CURRENT"
    body = json.loads(path.read_text().splitlines()[0])
    text = json.dumps({k: v for k, v in body.items() if k not in ("retired", "incarnations")})
    path.write_text(f"{text}\n{google_crc32c.value(text.encode()):08x}\n")
    with opened(directory) as storage:
        assert storage.recovered.snapshot.members == MEMBERS
        assert storage.recovered.snapshot.retired == ()


def test_retired_ids_and_noted_disks_survive_compaction_and_restart(directory: Path) -> None:
    """PROTOCOL 3.3, 3.5 (!)."""
    members = (Member(1, "a:1", incarnation=2**62), Member(7, "b:2", voter=False))
    with opened(directory) as storage:
        taken = storage.take_snapshot()
        assert taken is not None
        snapshot = storage.seal_snapshot(taken, members, (2, 3))
        storage.compact(snapshot)
    with opened(directory) as storage:
        assert storage.recovered.snapshot == snapshot
        assert storage.recovered.snapshot.configuration == Configuration(members, (2, 3))


def test_a_snapshot_stream_carries_them(directory: Path, tmp_path: Path) -> None:
    """FAULTS 43."""
    members = (Member(1, "a:1", incarnation=5), Member(7, "b:2"))
    with opened(directory) as storage, opened(tmp_path / "other") as other:
        taken = storage.take_snapshot()
        assert taken is not None
        sealed = storage.seal_snapshot(taken, members, (2, 3))
        stream = storage.read_snapshot(sealed, 0, sealed.size)
        _, received = other.stage(sealed.index, sealed.term, 0, sealed.size, stream)
        assert received is not None
        assert received.configuration == sealed.configuration


def test_an_older_program_reads_what_is_written_now() -> None:
    """A rolling upgrade sends snapshots both ways: members stay lists of three."""
    written = configurations.to_json(Configuration((Member(1, "a:1", True, 9),), (4,)))
    assert written["members"] == [[1, "a:1", True]]


def test_a_log_of_an_older_program_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Format 1: frames without the byte at their end. What is appended now has it."""
    present = frames.encode

    def of_format_1(sequence: int, *rest: Any) -> bytes:
        body = present(sequence, *rest)[frames._FRAME.size : -1]
        crc = google_crc32c.extend(google_crc32c.value(struct.pack(">Q", sequence)), body)
        return struct.pack(">4sIIQ", frames.MAGIC, len(body), crc, sequence) + body

    with monkeypatch.context() as old:
        old.setattr(frames, "encode", of_format_1)
        old.setattr("overdb_node.storage.log._FORMAT", 1)
        written = write_log(tmp_path / "log-1", [(HardState(3, 1, 0), entries(1, 2))])
    assert re.search(rb"^OverDBlg\x00\x00\x00\x01", written.last[0].read_bytes()[:12])
    log, found = DurableLog.open(written.directory, 0, SEGMENT_BYTES)
    assert len(found) == 2
    log.append(None, entries(3, 4))
    log.close()
    log, found = DurableLog.open(written.directory, 0, SEGMENT_BYTES)
    log.close()
    assert [one.index for one in found] == [1, 2, 3, 4]
