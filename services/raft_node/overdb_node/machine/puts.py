"""Transactions of puts alone, the short way: all keys at once where one after the other comes to the same."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from overdb.sharding import slots_of
from overdb_node.machine.overlay import Overlay
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.slots import Slots
from overdb_node.machine.types import OperationResult, Puts


def fit(command: Puts, settings: MachineSettings) -> bool:
    """Whether their number and their sizes are within the limits; that of a key is not looked at."""
    _, keys, values = command
    return (
        0 < len(keys) <= settings.operations_max
        and max(map(len, values)) <= settings.value_bytes_max
        and sum(map(len, keys)) + sum(map(len, values)) <= settings.request_bytes_max
    )


def absent(
    keys: Sequence[bytes], overlay: Overlay, slots: Slots, settings: MachineSettings
) -> AbstractSet[bytes] | None:
    """Those of the keys that have no value; None when one of them cannot be written here at all."""
    known = overlay.known
    if known.issuperset(keys):
        return frozenset()
    unknown = [key for key in keys if key not in known]
    if not all(unknown) or max(map(len, unknown)) > settings.key_bytes_max:
        return None
    if not all(map(slots.owned.__getitem__, slots_of(unknown))):
        return None
    return overlay.without_value(unknown)


def results(
    keys: Sequence[bytes], absent: AbstractSet[bytes], version: int
) -> tuple[OperationResult, ...]:
    """What each put is answered with. No key that is absent comes twice."""
    found = OperationResult(True, b"", version)
    if not absent:
        return (found,) * len(keys)
    new = OperationResult(False, b"", version)
    return tuple([new if key in absent else found for key in keys])
