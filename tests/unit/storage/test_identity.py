"""Whose directory it is, and that one process has it (FAULTS 37, 38; PROTOCOL 3.5)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from overdb_common.errors import StartupError
from overdb_node.storage import identity as identities
from overdb_node.storage.founding import FORMAT
from overdb_node.storage.identity import Identity
from tests.unit.storage.replicas import IDENTITY, opened, state_of

pytestmark = pytest.mark.usefixtures("small_segments")

_HOLD = """
import sys
from pathlib import Path
from overdb_node.storage import identity
lock = identity.lock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process_holding(directory: Path) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()


def refused(directory: Path, identity: Identity, *words: str) -> None:
    with pytest.raises(StartupError) as caught:
        identities.claim(directory, identity)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


@pytest.fixture
def claimed(tmp_path: Path) -> Path:
    assert identities.claim(tmp_path, IDENTITY)
    return tmp_path


# --- lock --------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_which_one_has_the_directory(tmp_path: Path) -> None:
    with another_process_holding(tmp_path / "node") as pid:
        with pytest.raises(StartupError, match=f"node is in use by process {pid}:"):
            identities.lock(tmp_path / "node")
    with opened(tmp_path / "node"):  # the lock went with the process
        assert (tmp_path / "node" / "LOCK").read_text() == f"{os.getpid()}\n"


def test_a_second_start_in_the_same_process_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "node") as storage:
        with pytest.raises(StartupError, match=f"in use by process {os.getpid()}:"):
            with opened(tmp_path / "node"):
                pass
        storage.data.write([(b"k", 1, b"v")], [], 0, 0)
        with pytest.raises(StartupError, match="in use"):
            identities.lock(tmp_path / "node")
    state_of(tmp_path / "node")


@pytest.mark.parametrize("below", ["file", "file/node"])
def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="cannot use the data directory"):
        identities.lock(tmp_path / below)


# --- identity ----------------------------------------------------------------------------------------------


def test_a_directory_is_claimed_once_and_stays_its_own(claimed: Path) -> None:
    before = (claimed / "node.json").read_bytes()
    assert not identities.claim(claimed, IDENTITY)
    assert (claimed / "node.json").read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, cluster="prod"),
        replace(IDENTITY, group=1),
        replace(IDENTITY, groups=4),
        replace(IDENTITY, replica_id=7),
    ],
    ids=["cluster", "group", "groups", "replica"],
)
def test_a_directory_of_another_replica_is_refused_each_way(
    tmp_path: Path, other: Identity
) -> None:
    """Both are named: it is as likely the setting that is wrong."""
    for name, owner, comer in (("a", IDENTITY, other), ("b", other, IDENTITY)):
        directory = tmp_path / name
        directory.mkdir()
        identities.claim(directory, owner)
        before = (directory / "node.json").read_bytes()
        refused(directory, comer, f"belongs to {owner}", f"this process is {comer}")
        assert (directory / "node.json").read_bytes() == before


def test_a_directory_of_a_newer_program_is_refused(claimed: Path) -> None:
    path = claimed / "node.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    refused(claimed, IDENTITY, f"format {FORMAT + 1}", f"up to {FORMAT}", "newer version")


def test_a_directory_with_somebodys_files_is_refused_and_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "thesis.odt").touch()
    refused(tmp_path, IDENTITY, "thesis.odt", "directory of its own")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.odt"]


def test_an_empty_mount_point_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "LOCK").touch()
    (tmp_path / "node.json.tmp").write_text("{")  # of a founding that was killed
    assert identities.claim(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": "1"}',
        '{"format": 1, "cluster": "test", "group": "x", "groups": 2, "replica_id": 1}',
        '{"format": 1, "cluster": "test", "group": 0, "groups": 2, "replica_id": null}',
        "\ud800",
    ],
)
def test_an_unreadable_identity_is_refused(claimed: Path, content: str) -> None:
    path = claimed / "node.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(claimed, IDENTITY, str(claimed))
