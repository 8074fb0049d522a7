"""Files that survive power loss: every create and rename is followed by an fsync of its directory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def fsync_path(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing; after a power loss they are still there."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync_path(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by new content: after a crash it is the old one or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_path(path.parent)


def fsync_tree(directory: Path) -> None:
    """fsync every file below a directory, and every directory."""
    for root, _, names in os.walk(directory):
        for name in names:
            fsync_path(Path(root) / name)
        fsync_path(Path(root))


def remove(path: Path) -> None:
    """Remove a file or a tree, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
