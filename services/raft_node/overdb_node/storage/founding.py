"""Which disk this is, and which disks the group was founded on (PROTOCOL 3.5; FAULTS 38).

node.json has the directory's *incarnation*, a number drawn when it was made: a replica whose disk was lost
comes back with another one. founders.json has the incarnations of all founding members (none for a replica
that joined). It is written once, before the replica takes part in anything: without it, it is *fresh*.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overdb_common.errors import StartupError
from overdb_common.level import LEVEL
from overdb_node.storage import documents
from overdb_node.storage.files import write_atomically

_FORMAT = 1  # of founders.json
# The newest of the directory that this program knows, as node.json has it. A directory is made in format 1
# and gets the next one when the level of its group is raised: an older program must not apply its log then.
FORMAT = 1 + LEVEL
IDENTITY_FILE = "node.json"
FOUNDERS_FILE = "founders.json"
# A directory that was restored from a copy, cloned or rolled back has forgotten votes and acknowledgements
# (PROTOCOL 3.9), so no message of this program advises it.
REPLACE = "replace this replica by one with a new id: see 'Changing members' in the README"


@dataclass(frozen=True, slots=True)
class Founding:
    """``incarnation`` is 0 for a directory of a program from before there were any. ``founders`` is None
    as long as the directory is fresh, and empty where nobody noted them (such a directory, or one that
    joined)."""

    incarnation: int
    founders: Mapping[int, int] | None


def new_incarnation() -> int:
    """A number that no directory has had: 63 random bits, not 0."""
    return secrets.randbits(63) | 1


def read(directory: Path) -> Founding:
    """What a directory that was opened says. Raises StartupError."""
    incarnation = int(load(directory / IDENTITY_FILE, "incarnation").get("incarnation", 0))
    path = directory / FOUNDERS_FILE
    if path.exists():
        content = load(path)
        return Founding(incarnation, {int(i): n for i, n in content["founders"].items()})
    return Founding(incarnation, None if incarnation else {})


def write_founders(directory: Path, founders: Mapping[int, int]) -> None:
    """Note them for good; fsynced when this returns."""
    content = {"format": _FORMAT, "founders": {str(i): n for i, n in sorted(founders.items())}}
    write_atomically(directory / FOUNDERS_FILE, documents.encode(content))


def load(path: Path, checked_if: str = "") -> dict[str, Any]:
    """Returns the content of one of the small files. Raises StartupError when it is damaged or newer."""
    try:
        newest = FORMAT if path.name == IDENTITY_FILE else _FORMAT
        content = documents.decode(path.read_text(), newest, checked_if=checked_if)
        found = content["format"]
        if not isinstance(found, int) or found > newest:
            raise StartupError(
                f"{path} has format {found}, this program knows up to {newest}",
                "start a newer version of overdb: nothing was changed",
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StartupError(f"{path} cannot be read ({error})", REPLACE) from None
    return content
