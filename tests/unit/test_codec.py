"""Protobuf to core values and back: nothing is lost, and nothing unreadable gets past (log.proto)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb.internal.v1 import log_pb2, shard_pb2
from overdb.v1 import kv_pb2
from overdb_node import codec
from overdb_node.machine.types import (
    Advance,
    Advanced,
    Behind,
    Code,
    Compare,
    Delete,
    Deleted,
    Operation,
    OperationKind,
    OperationResult,
    Operator,
    Put,
    Puts,
    Refused,
    RequestId,
    Result,
    Target,
    Transact,
    Transacted,
    Written,
    WrongGroup,
)
from overdb_node.raft.types import Configuration, Member, Snapshot
from overdb_node.transaction_codec import decode_transact

ID = kv_pb2.RequestId(
    client_id=b"c" * 16, request_number=7, started_at=1_760_000_000_000_000, acknowledged_below=5
)
CORE_ID = RequestId(b"c" * 16, 7, 1_760_000_000_000_000, 5)
_Compare, _Operation = kv_pb2.Compare, kv_pb2.Operation


def envelope(*commands: log_pb2.Command, stamp: int = 3) -> bytes:
    return codec.encode_envelope(stamp, log_pb2.Commands(commands=commands).SerializeToString())


def decode_one(command: log_pb2.Command) -> object:
    stamp, (decoded,) = codec.decode_envelope(envelope(command))
    assert stamp == 3
    return decoded


def transact(**parts: object) -> log_pb2.Command:
    request = kv_pb2.TransactRequest(id=ID, **parts)  # type: ignore[arg-type]
    return log_pb2.Command(transact=request)


def test_put_delete_and_advance() -> None:
    put = log_pb2.Command(put=kv_pb2.PutRequest(key=b"k", value=b"\x00\xff", id=ID))
    assert decode_one(put) == Put(b"k", b"\x00\xff", CORE_ID)
    delete = log_pb2.Command(delete=kv_pb2.DeleteRequest(key=b"k", id=ID))
    assert decode_one(delete) == Delete(b"k", CORE_ID)
    assert decode_one(log_pb2.Command(advance=log_pb2.Advance(version=9))) == Advance(9)


def test_a_transaction_with_everything_in_it() -> None:
    command = transact(
        compares=[
            _Compare(key=b"a", operator=_Compare.OPERATOR_EQUAL, value=b""),
            _Compare(key=b"b", operator=_Compare.OPERATOR_LESS, version=0),
            _Compare(key=b"c", operator=_Compare.OPERATOR_NOT_EQUAL, exists=False),
            _Compare(key=b"d", operator=_Compare.OPERATOR_GREATER, value=b"x"),
        ],
        then=[
            _Operation(get=_Operation.Get(key=b"g")),
            _Operation(put=_Operation.Put(key=b"p", value=b"v")),
        ],
        otherwise=[
            _Operation(delete=_Operation.Delete(key=b"d")),
            _Operation(add=_Operation.Add(key=b"n", delta=-(1 << 63))),
        ],
    )
    assert decode_one(command) == Transact(
        CORE_ID,
        (
            Compare(b"a", Operator.EQUAL, Target.VALUE, b""),
            Compare(b"b", Operator.LESS, Target.VERSION, 0),
            Compare(b"c", Operator.NOT_EQUAL, Target.EXISTS, False),
            Compare(b"d", Operator.GREATER, Target.VALUE, b"x"),
        ),
        (Operation(OperationKind.GET, b"g"), Operation(OperationKind.PUT, b"p", b"v")),
        (
            Operation(OperationKind.DELETE, b"d"),
            Operation(OperationKind.ADD, b"n", delta=-(1 << 63)),
        ),
    )


def test_the_cores_numbers_are_the_contracts() -> None:
    """kv.proto: one name, one number, on both sides."""
    wire = {n.removeprefix("OPERATOR_"): v for n, v in _Compare.Operator.items() if v}
    assert wire == {operator.name: operator.value for operator in Operator}


_PUT = _Operation(put=_Operation.Put(key=b"p", value=b"v"))
_EXISTS = _Compare(key=b"a", operator=_Compare.OPERATOR_EQUAL, exists=True)
_OPERATION = st.one_of(
    st.builds(
        lambda key, value: _Operation(put=_Operation.Put(key=key, value=value)),
        st.sampled_from([b"a", b"b", b"\x00"]),
        st.binary(max_size=3),
    ),
    st.sampled_from(
        [
            _Operation(),
            _Operation(put=_Operation.Put(value=b"v")),
            _Operation(get=_Operation.Get(key=b"g")),
            _Operation(delete=_Operation.Delete(key=b"d")),
            _Operation(add=_Operation.Add(key=b"n", delta=1)),
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.just(_EXISTS), max_size=1),
    st.lists(_OPERATION, max_size=4),
    st.lists(_OPERATION, max_size=1),
)
def test_a_transaction_of_puts_alone_has_a_form_of_its_own(
    compares: list[kv_pb2.Compare],
    then: list[kv_pb2.Operation],
    otherwise: list[kv_pb2.Operation],
) -> None:
    """It says no more and no less than the other."""
    command = transact(compares=compares, then=then, otherwise=otherwise)
    decoded, whole = decode_one(command), decode_transact(command.transact)
    plain = all(one.HasField("put") and one.put.key for one in then)
    assert isinstance(decoded, Puts) is (plain and bool(then) and not compares and not otherwise)
    assert (decoded.whole() if isinstance(decoded, Puts) else decoded) == whole


@pytest.mark.parametrize(
    "parts",
    [
        {"compares": [_EXISTS], "then": [_PUT]},
        {"then": [_PUT], "otherwise": [_PUT]},
        {"then": [_PUT, _Operation(delete=_Operation.Delete(key=b"d"))]},
        {"then": [_PUT, _Operation(put=_Operation.Put(value=b"v"))]},
        {"then": [_PUT, _Operation()]},
        {"compares": [_EXISTS]},
    ],
    ids=["compares", "otherwise", "another operation", "no key", "no operation", "no put"],
)
def test_what_is_not_puts_alone_has_the_whole_form(parts: dict[str, object]) -> None:
    command = transact(**parts)
    decoded = decode_one(command)
    assert decoded == decode_transact(command.transact)
    assert not isinstance(decoded, Puts)


def test_no_commands_and_no_payload_are_an_entry_without_commands() -> None:
    """A no-op's payload is an Envelope without commands (log.proto)."""
    assert codec.decode_envelope(codec.encode_envelope(5, b"")) == (5, [])
    assert codec.decode_envelope(b"") == (0, [])


# --- what cannot be read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        log_pb2.Command(),
        transact(compares=[_Compare(key=b"a", value=b"")]),
        transact(compares=[_Compare(key=b"a", operator=99, value=b"")]),  # type: ignore[arg-type]
        transact(compares=[_Compare(key=b"a", operator=_Compare.OPERATOR_EQUAL)]),
        transact(then=[_Operation()]),
        transact(otherwise=[_Operation()]),
    ],
    ids=["unknown", "no operator", "other operator", "no target", "then", "otherwise"],
)
def test_a_command_of_another_release_is_a_refusal_in_its_place(command: log_pb2.Command) -> None:
    put = log_pb2.Command(put=kv_pb2.PutRequest(key=b"k", id=ID))
    _, (first, second, third) = codec.decode_envelope(envelope(put, command, put))
    assert isinstance(second, Refused)
    assert second.code is Code.INVALID_ARGUMENT
    assert first == third == Put(b"k", b"", CORE_ID)


def test_fields_of_a_later_release_are_passed_over() -> None:
    put = kv_pb2.PutRequest(key=b"k", value=b"v", id=ID).SerializeToString() + b"\xfa\x07\x01x"
    size = len(put)
    commands = b"\x0a" + bytes([size + 2]) + b"\x0a" + bytes([size]) + put
    _, decoded = codec.decode_envelope(codec.encode_envelope(1, commands))
    assert decoded == [Put(b"k", b"v", CORE_ID)]


def test_unreadable_commands_keep_the_stamp() -> None:
    """PROTOCOL 2.1: clock := max(clock + 1, stamp), whatever the entry holds."""
    stamp, decoded = codec.decode_envelope(codec.encode_envelope(17, b"\xff\xff\xff"))
    assert stamp == 17
    assert [type(command) for command in decoded] == [Refused]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_no_payload_makes_it_raise(noise: bytes, wrapped: bool) -> None:
    """A committed entry is applied, whatever is in it."""
    stamp, decoded = codec.decode_envelope(codec.encode_envelope(1, noise) if wrapped else noise)
    assert 0 <= stamp < 1 << 64
    assert all(isinstance(c, Put | Delete | Transact | Puts | Advance | Refused) for c in decoded)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damaged_payload_makes_it_raise(data: st.DataObject) -> None:
    payload = bytearray(
        envelope(transact(then=[_Operation(get=_Operation.Get(key=b"g"))]), stamp=1 << 50)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    codec.decode_envelope(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


_DELETE = _Operation(delete=_Operation.Delete(key=b"d"))
_GET = _Operation(get=_Operation.Get(key=b"g"))
_ADD = _Operation(add=_Operation.Add(key=b"n", delta=1))
# Every command there is: what a node that runs out of disk does with it. A new one must be decided here.
ON_A_FULL_DISK = [
    (log_pb2.Command(put=kv_pb2.PutRequest(key=b"k")), "stores"),
    (log_pb2.Command(delete=kv_pb2.DeleteRequest(key=b"k")), "frees"),
    (log_pb2.Command(transact=kv_pb2.TransactRequest(then=[_GET, _DELETE])), "frees"),
    (log_pb2.Command(transact=kv_pb2.TransactRequest(then=[_GET], otherwise=[_PUT])), "stores"),
    (log_pb2.Command(transact=kv_pb2.TransactRequest(then=[_DELETE, _ADD])), "stores"),
    (log_pb2.Command(transact=kv_pb2.TransactRequest(then=[_Operation()])), "stores"),
    (log_pb2.Command(transact=kv_pb2.TransactRequest(then=[_GET])), "upkeep"),
    (log_pb2.Command(prepare=log_pb2.Prepare(then=[_GET], otherwise=[_DELETE])), "frees"),
    (log_pb2.Command(prepare=log_pb2.Prepare(then=[_GET])), "upkeep"),
    (log_pb2.Command(prepare=log_pb2.Prepare()), "upkeep"),
    (log_pb2.Command(prepare=log_pb2.Prepare(then=[_PUT])), "stores"),
    (log_pb2.Command(advance=log_pb2.Advance(version=1)), "upkeep"),
    (log_pb2.Command(resolve=log_pb2.Resolve(attempt=1)), "upkeep"),
    (log_pb2.Command(inquire=log_pb2.Inquire(attempt=1)), "upkeep"),
    (log_pb2.Command(forget=log_pb2.Forget(attempt=1)), "upkeep"),
    (log_pb2.Command(compare=log_pb2.CompareReplicas()), "upkeep"),
    (log_pb2.Command(configure=log_pb2.Configure(level=1)), "upkeep"),
    (log_pb2.Command(set_time=log_pb2.SetTime()), "upkeep"),
    (log_pb2.Command(), "stores"),  # of a newer program
]


@pytest.mark.parametrize(("command", "kind"), ON_A_FULL_DISK)
def test_a_full_disk_takes_what_frees_or_finishes(command: log_pb2.Command, kind: str) -> None:
    """FAULTS 84: `advance` was missing, and one full group failed the scans of all."""
    commands = log_pb2.Commands(commands=[command]).SerializeToString()
    assert codec.need_of(commands).name.lower() == kind


def test_a_message_stores_when_one_of_its_commands_does() -> None:
    put = log_pb2.Command(put=kv_pb2.PutRequest(key=b"k"))
    advance = log_pb2.Command(advance=log_pb2.Advance(version=1))
    both = log_pb2.Commands(commands=[advance, put]).SerializeToString()
    assert codec.need_of(both) is codec.Need.STORES
    assert codec.need_of(b"\xff") is codec.Need.STORES
    assert codec.need_of(b"") is codec.Need.UPKEEP


def test_what_a_full_disk_does_is_decided_for_every_command() -> None:
    known = {field.name for field in log_pb2.Command.DESCRIPTOR.oneofs_by_name["command"].fields}
    decided = {command.WhichOneof("command") for command, _ in ON_A_FULL_DISK}
    assert known == decided - {None}, (
        "add the new command to ON_A_FULL_DISK, and to codec._UPKEEP if it is"
    )


# --- results -----------------------------------------------------------------------------------------

RESULTS: list[tuple[Result, shard_pb2.Result]] = [
    (Written(9), shard_pb2.Result(put=kv_pb2.PutResponse(version=9))),
    (Deleted(9, True), shard_pb2.Result(delete=kv_pb2.DeleteResponse(version=9, existed=True))),
    (Deleted(9, False), shard_pb2.Result(delete=kv_pb2.DeleteResponse(version=9))),
    (
        Transacted(True, (OperationResult(True, b"v", 3), OperationResult(False, b"", 0)), 9),
        shard_pb2.Result(
            transact=kv_pb2.TransactResponse(
                succeeded=True,
                version=9,
                results=[
                    kv_pb2.OperationResult(found=True, value=b"v", version=3),
                    kv_pb2.OperationResult(),
                ],
            )
        ),
    ),
    (
        Transacted(True, (OperationResult(True, b"", 9),) * 3, 9),
        shard_pb2.Result(
            transact=kv_pb2.TransactResponse(
                succeeded=True,
                version=9,
                results=[kv_pb2.OperationResult(found=True, version=9)] * 3,
            )
        ),
    ),
    (
        Transacted(False, (OperationResult(False, b"", 0),) * 2, 9),
        shard_pb2.Result(
            transact=kv_pb2.TransactResponse(
                version=9, results=[kv_pb2.OperationResult(), kv_pb2.OperationResult()]
            )
        ),
    ),
    (
        Refused(Code.OUT_OF_RANGE, "too much"),
        shard_pb2.Result(error=kv_pb2.Error(code=11, message="too much")),
    ),
    (WrongGroup(4), shard_pb2.Result(wrong_group=shard_pb2.WrongGroup(epoch=4))),
    (Advanced(12), shard_pb2.Result(clock=12)),
]


@pytest.mark.parametrize(("result", "wire"), RESULTS, ids=lambda value: type(value).__name__)
def test_a_result(result: Result, wire: shard_pb2.Result) -> None:
    message = shard_pb2.Result()
    codec.fill_result(message, result)
    assert message == wire
    assert message.WhichOneof("result") == wire.WhichOneof("result") is not None


def test_an_answer_with_nothing_in_it_is_still_of_its_kind() -> None:
    """proto3 leaves zeros out; which answer it is must not get lost with them."""
    results: tuple[Result, ...] = (Deleted(0, False), Transacted(False, (), 0), Advanced(0))
    for result in results:
        message = shard_pb2.Result()
        codec.fill_result(message, result)
        assert message.WhichOneof("result") is not None, result


def test_values() -> None:
    """kv.proto, GetResponse: found may be empty; not found has version 0, a tombstone's too."""
    for found, wire in (
        ((9, b"v"), shard_pb2.Value(found=True, value=b"v", version=9)),
        ((9, b""), shard_pb2.Value(found=True, version=9)),
        ((9, None), shard_pb2.Value()),
        (None, shard_pb2.Value()),
    ):
        message = shard_pb2.Value()
        codec.fill_value(message, found)
        assert message == wire


def test_refused_reads() -> None:
    for refusal, wire in (
        (Behind(5), shard_pb2.Value(behind=shard_pb2.Behind(clock=5))),
        (WrongGroup(2), shard_pb2.Value(wrong_group=shard_pb2.WrongGroup(epoch=2))),
        (
            Refused(Code.FAILED_PRECONDITION, "old"),
            shard_pb2.Value(error=kv_pb2.Error(code=9, message="old")),
        ),
    ):
        message = shard_pb2.Value()
        codec.fill_read_refusal(message, refusal)
        assert message == wire


# --- members and the first element -----------------------------------------------------------------------

MEMBERS = (Member(1, "a:1"), Member(2, "b:2", voter=False))


def test_members_and_snapshots_come_back() -> None:
    """PROTOCOL 1.1, 3.3: clock and members are part of the element."""
    configuration = Configuration(MEMBERS, (2, 9))
    assert codec.decode_configuration(codec.encode_configuration(configuration)) == configuration
    snapshot = Snapshot(5, 2, 77, MEMBERS, "00000005", 1234, (2, 9))
    wire = codec.encode_snapshot(snapshot).SerializeToString()
    assert codec.decode_snapshot(log_pb2.SnapshotElement.FromString(wire)) == snapshot
