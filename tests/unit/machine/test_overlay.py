"""What the overlay remembers, besides what the machine's own tests see of it."""

from __future__ import annotations

from overdb_node.machine import overlay
from overdb_node.machine.overlay import Overlay


class _Nothing:
    def newest(self, key: bytes) -> None:
        return None


def test_a_key_that_is_remembered_already_takes_no_more_room() -> None:
    remembered = Overlay(_Nothing())  # type: ignore[arg-type]
    old = {b"%08d" % number: b"" for number in range(1000)}
    remembered.write_all(old, 1)
    for number in range(2_500):  # a new one each time, among many that are known
        remembered.write_all({**old, b"new-%08d" % number: b""}, 2)
    assert len(remembered.known) == 3_500


def test_what_is_remembered_is_bounded() -> None:
    remembered = Overlay(_Nothing())  # type: ignore[arg-type]
    most = overlay.KNOWN_BYTES_MAX // 1000
    for number in range(2 * most):
        remembered.write_all({b"%01000d" % number: b""}, 1)
        assert len(remembered.known) <= most
