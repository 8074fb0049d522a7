"""The starts of this directory and those heard of other replicas (PROTOCOL 3.9; FAULTS 82).

``node.json`` has the number and the id of the newest start, and of those before it. ``starts.json`` has how
far the number has grown since, the newest start heard of each other replica, and, once it is known, why this
directory is outdated.
Both are fsynced before anything that they say is told or relied on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overdb_common.errors import StartupError
from overdb_node.storage import documents
from overdb_node.storage.files import write_atomically
from overdb_node.storage.founding import IDENTITY_FILE, REPLACE, load, new_incarnation

_FILE = "starts.json"
_FORMAT = 1
# A larger number is no number that a directory has counted up to: damage, or a forged message.
NUMBER_MAX = 1 << 62
LIVES_MAX = 64  # that are remembered


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a replica. ``number`` grows for as long as the directory exists; ``id`` is random, the
    same for the whole life of the process. All 0: a program that has no start numbers."""

    number: int = 0
    id: int = 0


NO_START = Start()


@dataclass(frozen=True, slots=True)
class Noted:
    """The content of ``starts.json``. ``outdated`` is empty, or the reason why the replica stays out."""

    number: int = 0
    others: Mapping[int, Start] = field(default_factory=dict)
    outdated: str = ""


def begin(directory: Path) -> Start:
    """Count one more start of an open directory; durable when this returns. Raises StartupError, OSError."""
    path = directory / IDENTITY_FILE
    content = load(path, "incarnation")
    number = max(int(content.get("start_number", 0)), read(directory).number) + 1
    start = Start(number, new_incarnation())
    lives = [*_lives_of(content), start][-LIVES_MAX:]
    content |= {"start_number": start.number, "start_id": start.id}
    content["lives"] = [[life.number, life.id] for life in lives]
    write_atomically(path, documents.encode(content))
    return start


def lives(directory: Path) -> tuple[Start, ...]:
    """Returns how each life of the directory began, the present one last. Raises StartupError."""
    return tuple(_lives_of(load(directory / IDENTITY_FILE, "incarnation")))


def _lives_of(content: Mapping[str, Any]) -> list[Start]:
    if "lives" in content:
        return [Start(int(number), int(life_id)) for number, life_id in content["lives"]]
    # Written before lives were remembered: the newest one is known.
    number = int(content.get("start_number", 0))
    return [Start(number, int(content["start_id"]))] if number else []


def read(directory: Path) -> Noted:
    """Returns what was written last. Raises StartupError when the file is damaged."""
    path = directory / _FILE
    if not path.exists():
        return Noted()
    content = load(path)
    try:
        others = {int(i): Start(int(n), int(d)) for i, (n, d) in content["others"].items()}
        return Noted(int(content["start_number"]), others, str(content["outdated"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StartupError(f"{path} cannot be read ({error})", REPLACE) from None


def write(directory: Path, noted: Noted) -> None:
    """Fsynced when this returns. Raises OSError."""
    content = {
        "format": _FORMAT,
        "start_number": noted.number,
        "others": {str(i): [s.number, s.id] for i, s in sorted(noted.others.items())},
        "outdated": noted.outdated,
    }
    write_atomically(directory / _FILE, documents.encode(content))
