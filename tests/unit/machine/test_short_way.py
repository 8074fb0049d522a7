"""The short way of a put comes to what the careful one comes to, whatever the put and the state."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.machine.machine import Machine
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.types import (
    Code,
    Command,
    Operation,
    OperationKind,
    Outcome,
    Prepare,
    Put,
    Refused,
    RequestId,
    Resolve,
    Result,
    TransactionId,
    Waits,
)
from tests.unit.machine.helpers import HOUR, NOW, SECOND, Group, client, refused, request
from tests.unit.machine.strategies import COMMANDS, KEYS, STAMPS


def _settings() -> MachineSettings:
    """Of two groups: some keys are foreign. Limits so low that they are met."""
    return MachineSettings(
        groups=2,
        key_bytes_max=5,
        value_bytes_max=6,
        unacknowledged_per_client_max=3,
        ahead_us_max=2 * SECOND,
    )


@st.composite
def _ids(draw: st.DrawFn) -> RequestId:
    """Fresh and repeated, behind and ahead, in one client that is expired and in others that are not."""
    number = draw(st.integers(0, 9))
    created = draw(st.sampled_from([NOW, NOW, NOW, NOW - HOUR, NOW + SECOND]))
    started = draw(st.sampled_from([NOW, NOW, NOW + SECOND, NOW + HOUR]))
    return RequestId(
        client(draw(st.integers(1, 2)), created), number, started, draw(st.integers(0, 9))
    )


_ODD_KEYS = st.sampled_from([b"", b"a", b"b", b"c", b"d", b"{a}z", b"toolong"])
_PUTS = st.builds(Put, _ODD_KEYS, st.sampled_from([b"", b"v", b"w", b"toolong"]), _ids())
_WRITE = st.builds(Operation, st.just(OperationKind.PUT), KEYS, st.just(b"t"), st.just(0))


@st.composite
def _prepares(draw: st.DrawFn) -> Prepare:
    then = (draw(_WRITE),)
    identity = RequestId(client(draw(st.integers(1, 3))), draw(st.integers(1, 9)), NOW, 0)
    return Prepare(identity, 0, (0, 1), 77, (), then, (), (0,), ())


_RESOLVES = st.builds(
    Resolve,
    st.builds(TransactionId, st.integers(1, 3).map(client), st.integers(1, 9)),
    st.just(0),
    st.just(Outcome.ABORTED),  # to commit takes a version above every vote
    st.just(0),
)
_COMMANDS: st.SearchStrategy[Command | Refused] = st.one_of(
    _PUTS, _PUTS, _PUTS, COMMANDS, _prepares(), _RESOLVES
)
_ENTRIES = st.lists(
    st.tuples(STAMPS, st.lists(_COMMANDS, max_size=8), st.booleans()), min_size=1, max_size=12
)


class _Careful(Machine):
    """Goes the careful way always."""

    def _put(self, command: Put) -> Result:
        return self._put_carefully(command)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_ENTRIES)
def test_the_short_way_and_the_careful_one_come_to_the_same(
    entries: list[tuple[int, list[Command | Refused], bool]],
) -> None:
    short, careful = Group(_settings()), Group(_settings())
    careful.machine = _Careful(careful.store, careful.settings)
    careful.machine.load()
    for stamp, commands, write in entries:
        given_ = [group.entry(*commands, stamp=stamp, write=write) for group in (short, careful)]
        assert given_[0] == given_[1]
        assert short.machine.take_released() == careful.machine.take_released()
        assert short.machine.digest() == careful.machine.digest()
        assert short.machine.results_kept == careful.machine.results_kept
        assert short.machine.chain.checksum == careful.machine.chain.checksum


def _both(*entries: Sequence[Command | Refused]) -> list[Result]:
    """The last entry's results, the same both ways."""
    short, careful = Group(), Group()
    careful.machine = _Careful(careful.store, careful.settings)
    careful.machine.load()
    results: list[Result] = []
    for commands in entries:
        results = short.entry(*commands)
        assert results == careful.entry(*commands)
    assert short.machine.chain.checksum == careful.machine.chain.checksum
    return results


_KNOWN = (Put(b"k", b"v", request(1)),)  # from here on the client has a session


def test_a_request_from_the_future_is_refused_to_a_known_client_too() -> None:
    (result,) = _both(_KNOWN, (Put(b"k", b"w", request(2, started_at=NOW + HOUR)),))
    refused(result, Code.INVALID_ARGUMENT, "ahead")


def test_a_key_that_a_transaction_holds_is_waited_for() -> None:
    write = Operation(OperationKind.PUT, b"k", b"t")
    held = Prepare(request(1, of=2), 0, (0, 1), 77, (), (write,), (), (0,), ())
    (result,) = _both(_KNOWN, (held,), (Put(b"k", b"w", request(2)),))
    assert isinstance(result, Waits)


def test_an_id_of_a_transaction_is_no_id_of_a_put() -> None:
    write = Operation(OperationKind.PUT, b"other", b"t")
    known = Prepare(request(5), 0, (0, 1), 77, (), (write,), (), (0,), ())
    (result,) = _both(_KNOWN, (known,), (Put(b"k", b"w", request(5)),))
    assert isinstance(result, Refused), result
