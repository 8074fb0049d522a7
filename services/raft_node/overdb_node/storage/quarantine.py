"""The note beside a state that it is wrong: whoever opens it must not serve from it.

It lies among the files of RocksDB, which takes no notice of it: so it goes with the state that it speaks
of, in the one step in which an installed snapshot replaces it.
"""

from __future__ import annotations

from pathlib import Path

from overdb_node.storage.files import write_atomically

FILE = "DIVERGED"


def read(data: Path) -> str:
    """Why the state in ``data`` must not be served; empty when it may. Raises OSError."""
    try:
        return (data / FILE).read_text(errors="replace").strip() or "its state is marked as wrong"
    except FileNotFoundError:
        return ""


def write(data: Path, reason: str) -> None:
    """Durable when this returns. Blocks; raises OSError."""
    write_atomically(data / FILE, reason.encode() + b"\n")
