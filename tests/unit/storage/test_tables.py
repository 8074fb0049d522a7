"""The loop asks for sizes at any time: also while another thread closes a database that was replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from overdb_node.storage.data import DataStore

CLOSINGS = 10


def _asked_while_closed(directory: Path, ask: Callable[[DataStore], object]) -> list[object]:
    """Return what ``ask`` returned or raised while the store was closed, and once behind that."""
    store = DataStore(directory)
    store.write([(b"key", 1, bytes(1 << 20))], [], 1, 1)
    found: list[object] = []
    began, ended = threading.Event(), threading.Event()

    def close() -> None:
        began.wait()
        store.close()
        ended.set()

    closing = threading.Thread(target=close)
    closing.start()
    while True:
        is_last = ended.is_set()
        try:
            found.append(ask(store))
        except Exception as error:  # RocksDB's are plain ones
            found.append(error)
        began.set()
        if is_last:
            break
    closing.join()
    return found


def test_sizes_can_be_asked_for_while_the_database_is_closed_and_behind_that(
    tmp_path: Path,
) -> None:
    """They stay what they were. An installed snapshot ended the replica or its answer to a status."""
    for number in range(CLOSINGS):
        found = _asked_while_closed(tmp_path / str(number), lambda store: store.size_bytes)
        assert all(isinstance(size, int) and size >= 1 << 20 for size in found), set(
            map(repr, found)
        )


def test_what_holds_no_data_any_more_is_left_as_it_is(tmp_path: Path) -> None:
    for number in range(CLOSINGS):
        wanted = iter(range(1 << 62))

        def change(store: DataStore, wanted: object = wanted) -> int:
            number = next(wanted)  # type: ignore[call-overload]
            store.tables.compact_automatically(number % 2 == 1)
            return store.tables.newest_files

        found = _asked_while_closed(tmp_path / str(number), change)
        assert all(files == 0 for files in found), set(map(repr, found))
