"""promise.json: how long the promises are that this replica gives, for its next life (PROTOCOL 1.3).

It is there before the first one is given. So where it is missing nothing was promised.
"""

from __future__ import annotations

from pathlib import Path

from overdb_common.errors import StartupError
from overdb_node.storage import documents
from overdb_node.storage.files import remove, write_atomically
from overdb_node.storage.founding import REPLACE

_FILE = "promise.json"
_FORMAT = 1


def read(directory: Path) -> int:
    """The longest promise that an earlier life may have given, in microseconds. Raises StartupError."""
    path = directory / _FILE
    if not path.exists():
        return 0
    try:
        content = documents.decode(path.read_text(), _FORMAT)
        if content["format"] != _FORMAT:
            raise ValueError(f"it has format {content['format']}")
        return int(content["promise_us"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StartupError(
            f"{path} cannot be read ({error})",
            f"{REPLACE}; if it has stood still for longer than any election timeout, the file may be removed",
        ) from None


def write(directory: Path, promise_us: int) -> None:
    """Fsynced when this returns; 0 removes the file. Raises OSError."""
    path = directory / _FILE
    if promise_us:
        content = {"format": _FORMAT, "promise_us": promise_us}
        write_atomically(path, documents.encode(content))
    else:
        remove(path)  # if it is there again after a power loss, that costs a wait
