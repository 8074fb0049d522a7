"""Whose directory this is, and that nobody else uses it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from overdb_common.errors import StartupError
from overdb_common.version import version
from overdb_node.storage import documents
from overdb_node.storage.files import fsync_path, make_directory, write_atomically
from overdb_node.storage.founding import FORMAT, REPLACE, new_incarnation

_FORMAT_OF_LEVEL_0 = 1
_FILE = "node.json"
_LOCK = "LOCK"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which replica of which cluster. Never changes for a directory (PROTOCOL 3.5)."""

    cluster: str
    group: int
    groups: int
    replica_id: int

    def __str__(self) -> str:
        return (
            f"node {self.replica_id} of group {self.group} (of {self.groups}) of cluster "
            f"'{self.cluster}'"
        )


def lock(directory: Path) -> IO[str]:
    """Lock the directory for this process, creating it if need be; closing the result unlocks it.

    Raises StartupError that names the process which has it.
    """
    try:
        make_directory(directory)
        file = (directory / _LOCK).open("a+")
    except OSError as error:
        raise StartupError(
            f"cannot use the data directory {directory} ({error.strerror})",
            "set OVERDB_DATA to a directory that this user may write",
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StartupError(
            f"the data directory {directory} is in use by process {holder}",
            "stop that process, or give this one a directory of its own (OVERDB_DATA)",
        ) from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def claim(directory: Path, identity: Identity) -> bool:
    """Check that a locked directory is this replica's; make it so if it is empty. True: it was new.

    Raises StartupError for a directory of another replica, of a newer program, or of somebody else.
    """
    path = directory / _FILE
    if path.exists():
        _compare(directory, _read(path), identity)
        return False
    others = sorted(p.name for p in directory.iterdir() if p.name not in (_LOCK, _FILE + ".tmp"))
    others = [name for name in others if name != "lost+found"]
    if others:
        raise StartupError(
            f"the data directory {directory} has files and no {_FILE} ({', '.join(others[:3])})",
            "give the node a directory of its own (OVERDB_DATA)",
        )
    with contextlib.suppress(PermissionError):  # whoever made it may not have fsynced its entry
        fsync_path(directory.parent)
    made = {"format": _FORMAT_OF_LEVEL_0, **asdict(identity)}
    content = {**made, "incarnation": new_incarnation()}
    write_atomically(path, documents.encode(content))
    return True


def note_level(directory: Path, level: int) -> None:
    """Have programs that do not know ``level`` refuse this directory; fsynced when this returns."""
    path = directory / _FILE
    content = _read(path)
    if content.get("format") != 1 + level:
        write_atomically(path, documents.encode({**content, "format": 1 + level}))


def groups_of(directory: Path) -> int:
    """Returns the number of groups that a directory was made with; 0: there is none, or it is damaged."""
    try:
        groups = documents.decode((directory / _FILE).read_text(), FORMAT)["groups"]
    except (OSError, ValueError, KeyError):
        return 0
    return groups if isinstance(groups, int) else 0


def refuse_newer(path: Path, found: object, newest: int = FORMAT) -> None:
    """Raise StartupError for a file of a format that this program does not know."""
    if not isinstance(found, int) or found > newest:
        raise StartupError(
            f"{path} has format {found}, this program ({version()}) knows up to {newest}",
            "start a newer version of overdb: nothing was changed",
        )


def _read(path: Path) -> dict[str, object]:
    try:
        return documents.decode(path.read_text(), FORMAT, checked_if="incarnation")
    except (OSError, ValueError) as error:
        raise StartupError(f"{path} cannot be read ({error})", REPLACE) from None


def _compare(directory: Path, content: dict[str, object], identity: Identity) -> None:
    refuse_newer(directory / _FILE, content.get("format"))
    try:
        owner = Identity(
            str(content["cluster"]),
            int(str(content["group"])),
            int(str(content["groups"])),
            int(str(content["replica_id"])),
        )
    except (KeyError, ValueError) as error:
        raise StartupError(
            f"{directory / _FILE} does not say whose directory it is ({error})",
            REPLACE,
        ) from None
    if owner != identity:
        raise StartupError(
            f"{directory} belongs to {owner}, this process is {identity}",
            "set OVERDB_DATA to this node's own directory, or correct the settings",
        )
