"""What is to go wrong inside a process, as small files: one for each node, one for the proxy between them.

Directory ``faults`` of a cluster that was started with ``overdb local --faults``:

    node-3.json          {"revision": 7, "slow_fsync_seconds": 0.2, ...}   what node 3 is to suffer
    node-3.taken.json    {"revision": 7, "pid": 4711}                      node 3 suffers that now
    settings-3.json      {"revision": 1, "settings": {...}}                what node 3 reads at its start
    settings-3.taken.json                                                  node 3 has started with that
    links.json           {"1-2": "127.0.0.1:40123", ...}                   where node 1 reaches node 2
    links-wanted.json    {"revision": 4, "links": {"1-2": {...}}}          what the proxy is to do
    links-wanted.taken.json                                                the proxy does that now

A file is replaced as a whole, by a rename, and whoever is meant looks every POLL_SECONDS whether it has
been. Files, because they are still there after the process that reads them was killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY_VARIABLE = "OVERDB_FAULTS"
NODES_VARIABLE = "OVERDB_FAULTS_NODES"
POLL_SECONDS = 0.05
LINKS_FILE = "links.json"
LINKS_WANTED = "links-wanted"


@dataclass(frozen=True, slots=True)
class NodeFaults:
    """What a node suffers. All defaults: nothing."""

    slow_fsync_seconds: float = 0.0  # longer that each fsync and fdatasync takes
    disk_reported_full: bool = False  # what the node is told of free space: none
    disk_refuses_writes: bool = False  # ENOSPC at each write to the log: it waits for room
    clock_offset_seconds: float = 0.0  # its wall clock is so far ahead, or behind
    clock_drift: float = 0.0  # and gets so many seconds further ahead, each second

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> NodeFaults:
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in names})


@dataclass(frozen=True, slots=True)
class LinkFaults:
    """What becomes of the connections that one node opens to another. All defaults: nothing."""

    cut: bool = False  # bytes wait in the proxy, both ways, until it is healed
    closed: bool = False  # they are ended, with what was under way, and new ones are ended at once
    delay_seconds: float = 0.0  # every piece of at most 64 KiB waits so long


def node_file(node_id: int) -> str:
    """The name, without its ending, of the file that says what a node is to suffer."""
    return f"node-{node_id}"


def settings_file(node_id: int) -> str:
    """The name, without its ending, of the file with the settings of a node."""
    return f"settings-{node_id}"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file; empty if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file as a whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content) + "\n")
    temporary.rename(path)


def ask(directory: Path, name: str, content: dict[str, Any]) -> int:
    """Say what is wanted; return the revision that ``is_taken`` may be asked for."""
    path = directory / f"{name}.json"
    revision = int(read_json(path).get("revision", 0)) + 1
    write_json(path, {"revision": revision, **content})
    return revision


def ask_node(directory: Path, node_id: int, faults: NodeFaults) -> int:
    """``ask`` a node to suffer this, and nothing else."""
    return ask(directory, node_file(node_id), dataclasses.asdict(faults))


def ask_settings(directory: Path, node_id: int, settings: Mapping[str, int]) -> int:
    """``ask`` a node to have these settings, by name, from its next start on."""
    return ask(directory, settings_file(node_id), {"settings": dict(settings)})


def forget_settings(directory: Path, node_id: int) -> None:
    """From its next start on the node has the settings of its environment."""
    for ending in (".json", ".taken.json"):
        (directory / f"{settings_file(node_id)}{ending}").unlink(missing_ok=True)


def ask_links(directory: Path, links: dict[tuple[int, int], LinkFaults]) -> int:
    """``ask`` the proxy to do this to the links from one node to another, and nothing to the others."""
    named = {f"{a}-{b}": dataclasses.asdict(faults) for (a, b), faults in sorted(links.items())}
    return ask(directory, LINKS_WANTED, {"links": named})


def is_taken(directory: Path, name: str, revision: int) -> bool:
    """Whether the one who was asked does what was asked, or already something newer."""
    return int(read_json(directory / f"{name}.taken.json").get("revision", 0)) >= revision


class Watched:
    """A file of wishes, as the process that they are for sees it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._path = directory / f"{name}.json"
        self._seen: tuple[int, int] | None = None

    def changed(self) -> dict[str, Any] | None:
        """The content if the file is another one than at the last call, else None. Cheap."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        identity = (found.st_ino, found.st_mtime_ns)
        if identity == self._seen:
            return None
        self._seen = identity
        return read_json(self._path)

    def taken(self, content: dict[str, Any]) -> None:
        """Tell whoever asked that this is done."""
        said = {"revision": int(content.get("revision", 0)), "pid": os.getpid()}
        write_json(self._directory / f"{self._name}.taken.json", said)


def wait_for_links(directory: Path, seconds_max: float = 20.0) -> dict[str, str]:
    """Where the proxy listens for each link. Raises TimeoutError when it does not come up."""
    deadline = time.monotonic() + seconds_max
    while not (links := read_json(directory / LINKS_FILE)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the proxy between the nodes wrote no {directory / LINKS_FILE}")
        time.sleep(POLL_SECONDS)
    return links


def parse_nodes(text: str) -> dict[int, str]:
    """Parse ``1=host:port,2=host:port``."""
    pairs = (part.partition("=") for part in text.split(","))
    return {int(number): address for number, _, address in pairs}
