"""What bit rot does to a disk: to files whose content counts."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from overdb_simulation.inodes import FileNode

if TYPE_CHECKING:
    from overdb_simulation.disk import SimulatedDisk

_NAMES = ("CURRENT", "MANIFEST", "node.json", "founders.json", "manifest.json")
_SUFFIXES = (".seg", ".sst")


def _candidates(disk: SimulatedDisk) -> list[tuple[str, FileNode, int]]:
    """Path, file, and the length of what was written to it: the rest of a segment is zeros."""
    found = []
    for path, node in disk.file_nodes():
        name = path.rpartition("/")[2]
        if node.content and (name in _NAMES or name.endswith(_SUFFIXES)):
            length = len(node.content)
            if name.endswith(".seg"):
                length = len(bytes(node.content).rstrip(b"\0"))
            found.append((path, node, length))
    return [candidate for candidate in found if candidate[2]]


def flip_bit(disk: SimulatedDisk, random: Random) -> str:
    candidates = _candidates(disk)
    if not candidates:
        return ""
    path, node, length = random.choice(candidates)
    offset, bit = random.randrange(length), random.randrange(8)
    node.flip(offset, bit)
    return f"bit {bit} of byte {offset} of {path}"


def truncate_some(disk: SimulatedDisk, random: Random) -> str:
    candidates = _candidates(disk)
    if not candidates:
        return ""
    path, node, length = random.choice(candidates)
    if path.endswith(".seg"):
        # One that grew for a large frame may end in it after a crash: cut there, nobody can tell.
        length = min(length, _segment_bytes(disk))
    size = random.randrange(length)
    before = len(node.content)
    node.cut(size)
    return f"{path} from {before} to {size} bytes"


def _segment_bytes(disk: SimulatedDisk) -> int:
    names = (".seg", "/next.tmp")
    return min(len(node.content) or 1 for path, node in disk.file_nodes() if path.endswith(names))
