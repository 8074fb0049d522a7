"""The short ways of puts come to what the careful ones come to, whatever the request and the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_node.machine import overlay
from overdb_node.machine.fingerprint import of_puts, of_transact
from overdb_node.machine.machine import Machine
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.types import (
    Code,
    Command,
    Configure,
    Delete,
    Operation,
    OperationKind,
    OperationResult,
    Outcome,
    Prepare,
    Put,
    Puts,
    Refused,
    RequestId,
    Resolve,
    Result,
    Transacted,
    TransactionId,
    Waits,
)
from tests.sizes import examples
from tests.unit.machine.helpers import HOUR, NOW, SECOND, Group, client, refused, request
from tests.unit.machine.strategies import COMMANDS, KEYS, STAMPS


def _settings() -> MachineSettings:
    """Of two groups: some keys are foreign. Limits so low that they are met."""
    return MachineSettings(
        groups=2,
        key_bytes_max=5,
        value_bytes_max=6,
        request_bytes_max=24,
        operations_max=4,
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
_VALUES = st.sampled_from([b"", b"v", b"w", b"v", b"toolong"])
_RIGHT_KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"{a}z"])


@st.composite
def _puts(draw: st.DrawFn, keys: st.SearchStrategy[bytes]) -> Puts:
    drawn = draw(st.lists(keys, min_size=1, max_size=5))
    return Puts(draw(_ids()), drawn, [draw(_VALUES) for _ in drawn])


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
    _PUTS, _PUTS, _PUTS, _puts(_ODD_KEYS), COMMANDS, _prepares(), _RESOLVES
)
_ENTRIES = st.lists(
    st.tuples(STAMPS, st.lists(_COMMANDS, max_size=8), st.booleans()), min_size=1, max_size=12
)


class _Careful(Machine):
    """Goes the careful way always."""

    def _put(self, command: Put) -> Result:
        return self._put_carefully(command)

    def _puts(self, command: Puts) -> Result:
        return self._transact(command.whole())


@settings(max_examples=examples(quick=100, full=200))
@given(_ENTRIES)
def test_the_short_way_and_the_careful_one_come_to_the_same(
    entries: list[tuple[int, list[Command | Refused], bool]],
) -> None:
    _come_to_the_same(entries)


_DELETES = st.builds(Delete, _RIGHT_KEYS, _ids())
_CONFIGURES = st.sampled_from([_settings(), replace(_settings(), key_bytes_max=1)]).map(
    lambda one: Configure(one.limits)
)


@settings(max_examples=examples(quick=100, full=200))
@given(
    st.lists(
        st.tuples(
            st.just(NOW),
            st.lists(
                st.one_of(
                    _puts(_RIGHT_KEYS), _puts(_RIGHT_KEYS), _puts(_ODD_KEYS), _DELETES, _CONFIGURES
                ),
                max_size=6,
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_puts_that_come_together_find_what_was_there(
    entries: list[tuple[int, list[Command | Refused], bool]],
) -> None:
    """What is known of keys is told again and again, and changes between."""
    _come_to_the_same(entries)


def _come_to_the_same(entries: list[tuple[int, list[Command | Refused], bool]]) -> None:
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
        assert short.store.names == careful.store.names
        assert short.store.versions == careful.store.versions


def _both(
    *entries: Sequence[Command | Refused], limits: MachineSettings | None = None
) -> list[Result]:
    """The last entry's results, the same both ways."""
    short, careful = Group(limits), Group(limits)
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


# --- puts that come together ---------------------------------------------------------------------------


def _of(number: int, *keys: bytes, value: bytes = b"v", below: int = 0) -> Puts:
    return Puts(request(number, below=below), list(keys), [value] * len(keys))


def _found(result: Result) -> list[bool]:
    assert isinstance(result, Transacted), result
    assert result.succeeded
    assert {(one.value, one.version) for one in result.results} == {(b"", result.version)}
    return [one.found for one in result.results]


@given(
    st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), min_size=1, max_size=8),
    st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), min_size=1, max_size=8),
)
def test_a_fingerprint_is_that_of_the_whole_transaction(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    puts, others = (
        Puts(request(1), [k for k, _ in ones], [v for _, v in ones]) for ones in (one, other)
    )
    assert of_puts(puts) == of_transact(puts.whole())
    assert (of_puts(puts) == of_puts(others)) is (one == other)


def test_each_put_says_whether_its_key_was_there() -> None:
    (result,) = _both(_KNOWN, (Put(b"b", b"", request(2)),), (_of(3, b"c", b"b", b"a", b"k"),))
    assert _found(result) == [False, True, False, True]


def test_the_second_put_of_a_new_key_finds_the_first() -> None:
    (result,) = _both(_KNOWN, (_of(2, b"a", b"b", b"a"),))
    assert _found(result) == [False, False, True]


def test_the_last_put_of_a_key_counts() -> None:
    group = Group()
    group.entry(*_KNOWN)
    group.entry(_of(2, b"a"))
    group.entry(Puts(request(3), [b"a", b"b", b"a"], [b"1", b"2", b"3"]))
    assert (group.value(b"a"), group.value(b"b")) == (b"3", b"2")


def test_a_key_that_was_deleted_is_not_found() -> None:
    results = _both(
        _KNOWN, (_of(2, b"a", b"b"),), (Delete(b"a", request(3)),), (_of(4, b"a", b"b"),)
    )
    assert _found(results[0]) == [False, True]


def test_a_key_that_was_deleted_in_the_same_entry_is_not_found() -> None:
    entry = (_of(2, b"a", b"b"), Delete(b"a", request(3)), _of(4, b"a", b"b"))
    assert _found(_both(_KNOWN, entry)[2]) == [False, True]


def test_a_key_that_a_transaction_deletes_is_not_found() -> None:
    drop = Operation(OperationKind.DELETE, b"a")
    prepare = Prepare(request(1, of=2), 0, (0, 1), 77, (), (drop,), (), (0,), ())
    commit = Resolve(TransactionId(client(2), 1), 0, Outcome.THEN, NOW + SECOND)
    (result,) = _both(_KNOWN, (_of(2, b"a", b"b"),), (prepare,), (commit,), (_of(3, b"a", b"b"),))
    assert _found(result) == [False, True]


def test_a_retry_is_answered_with_what_was_answered() -> None:
    entries: list[tuple[Command, ...]] = [_KNOWN, (_of(2, b"a", b"b"),)]
    (first,) = _both(*entries)
    assert _both(*entries, (_of(2, b"a", b"b"),)) == [first]
    assert _found(first) == [False, False]


def test_another_request_under_the_same_id_is_refused() -> None:
    (result,) = _both(_KNOWN, (_of(2, b"a", b"b"),), (_of(2, b"a", b"c"),))
    refused(result, Code.INVALID_ARGUMENT, "used before")


@pytest.mark.parametrize(
    ("limits", "command"),
    [
        (MachineSettings(operations_max=2), _of(2, b"a", b"b", b"c")),
        (MachineSettings(value_bytes_max=2), _of(2, b"a", b"b", value=b"www")),
        (MachineSettings(key_bytes_max=2), _of(2, b"a", b"bbb")),
        (MachineSettings(request_bytes_max=5), _of(2, b"a", b"b", value=b"ww")),
    ],
    ids=["operations", "value", "key", "request"],
)
def test_what_is_over_a_limit_is_refused(limits: MachineSettings, command: Puts) -> None:
    (result,) = _both(_KNOWN, (command,), limits=limits)
    refused(result, Code.INVALID_ARGUMENT, "limit is")


def test_a_limit_that_is_lowered_holds_for_known_keys_too() -> None:
    lower = Configure(MachineSettings(key_bytes_max=2).limits)
    (result,) = _both(_KNOWN, (_of(2, b"a", b"bbb"),), (lower,), (_of(3, b"a", b"bbb"),))
    refused(result, Code.INVALID_ARGUMENT, "limit is 2")


def test_an_id_that_was_acknowledged_is_stale() -> None:
    (result,) = _both(_KNOWN, (_of(9, b"a", below=8),), (_of(7, b"b"),))
    refused(result, Code.FAILED_PRECONDITION, "stale")


def test_a_client_of_too_many_results_is_refused() -> None:
    few = MachineSettings(unacknowledged_per_client_max=2)
    results = _both(_KNOWN, (_of(2, b"a"),), (_of(3, b"b"), _of(4, b"b", below=2)), limits=few)
    refused(results[0], Code.RESOURCE_EXHAUSTED, "limit is 2")
    assert _found(results[1]) == [False]


def test_puts_wait_where_one_of_their_keys_is_held() -> None:
    write = Operation(OperationKind.PUT, b"b", b"t")
    held = Prepare(request(1, of=2), 0, (0, 1), 77, (), (write,), (), (0,), ())
    results = _both(_KNOWN, (held,), (_of(2, b"a", b"b"), _of(3, b"c"), _of(2, b"a", b"b")))
    assert [type(result) for result in results] == [Waits, Transacted, Waits]


def test_an_id_of_a_transaction_is_no_id_of_puts() -> None:
    write = Operation(OperationKind.PUT, b"other", b"t")
    known = Prepare(request(5), 0, (0, 1), 77, (), (write,), (), (0,), ())
    (result,) = _both(_KNOWN, (known,), (_of(5, b"k"),))
    assert isinstance(result, Refused), result


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "KNOWN_BYTES_MAX", 1000)
    group = Group()
    group.entry(*_KNOWN)
    for number in range(2, 50):
        key = b"%d" % number
        (result,) = group.entry(_of(number, key, b"always"))
        assert _found(result) == [False, number > 2]
        assert len(group.machine._overlay.known) <= 10


def test_nothing_is_known_that_was_not_written() -> None:
    """As after a crash: what was applied and not written is gone."""
    group = Group()
    group.entry(*_KNOWN)
    group.entry(_of(2, b"a"), write=False)
    group.machine.load()
    (result,) = group.entry(_of(3, b"a"))
    assert _found(result) == [False]
    assert isinstance(result, Transacted)
    assert result.results == (OperationResult(False, b"", result.version),)


@pytest.mark.parametrize(
    ("identity", "says"),
    [
        (request(0), "at least 1"),
        (request(2, below=5), "acknowledged_below 5"),
        (request(2, started_at=NOW + HOUR), "ahead"),
    ],
    ids=["no number", "acknowledged itself", "from the future"],
)
def test_puts_under_a_wrong_id_are_refused(identity: RequestId, says: str) -> None:
    (result,) = _both(_KNOWN, (Puts(identity, [b"a"], [b"v"]),))
    refused(result, Code.INVALID_ARGUMENT, says)


@pytest.mark.parametrize(
    ("created", "limits", "code", "says"),
    [
        (
            NOW - 61 * SECOND,
            MachineSettings(client_id_lifetime_us=60 * SECOND),
            Code.FAILED_PRECONDITION,
            "expired",
        ),
        (NOW + 2 * SECOND, MachineSettings(ahead_us_max=SECOND), Code.INVALID_ARGUMENT, "ahead"),
    ],
    ids=["expired", "ahead"],
)
def test_puts_of_a_known_client_whose_time_is_not_now(
    created: int, limits: MachineSettings, code: Code, says: str
) -> None:
    """Its session is there: what closes it comes with the next entry, or never."""
    known = Put(b"k", b"v", request(1, created=created))
    puts = Puts(request(2, created=created), [b"a"], [b"v"])
    results = _both((known,), (Configure(limits.limits), puts))
    refused(results[1], code, says)


def test_an_id_that_waits_is_no_id_of_other_puts() -> None:
    write = Operation(OperationKind.PUT, b"b", b"t")
    held = Prepare(request(1, of=2), 0, (0, 1), 77, (), (write,), (), (0,), ())
    results = _both(_KNOWN, (held,), (_of(2, b"b"), _of(2, b"c")))
    assert isinstance(results[0], Waits)
    refused(results[1], Code.INVALID_ARGUMENT, "used before")


@pytest.mark.parametrize("keys", [(), (b"a", b"")], ids=["none", "empty"])
def test_puts_without_a_key_are_refused(keys: tuple[bytes, ...]) -> None:
    """No host sends them; the machine trusts none."""
    (result,) = _both(_KNOWN, (_of(2, *keys),))
    assert isinstance(result, Refused), result
