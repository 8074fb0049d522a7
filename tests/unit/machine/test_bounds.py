"""What no member says is refused and leaves nothing behind, from level 1 on (PROTOCOL 2.11; FAULTS 87)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overdb_node.machine.bounds import LIMIT_BOUNDS
from overdb_node.machine.clock import EXHAUSTED
from overdb_node.machine.machine import CLOCK_RECORD, MachineSettings
from overdb_node.machine.settings import LIMITS
from overdb_node.machine.types import (
    Acknowledged,
    Advance,
    Advanced,
    Code,
    Configure,
    Inquire,
    Outcome,
    Prepare,
    Put,
    Refused,
    RequestId,
    Resolve,
    TransactionId,
    Untimely,
    Vote,
    VoteKind,
    Written,
)
from overdb_node.settings import NodeSettings
from tests.unit.machine.helpers import HOUR, NOW, Group, client, put, refused, request

U64_MAX = (1 << 64) - 1
OLD = MachineSettings(level=0)
IDENTITY = TransactionId(*request(1)[:2])


def prepare(id_: RequestId, **changes: object) -> Prepare:
    whole = Prepare(id_, 0, (0, 1), 7, (), (put(b"a", b"1"),), (), (0,), ())
    return whole._replace(**changes)  # type: ignore[arg-type]


def prepared(group: Group) -> Vote:
    vote = group.one(prepare(request(1)))
    assert isinstance(vote, Vote)
    assert vote.kind is VoteKind.PREPARED
    return vote


def commit(version: int) -> Resolve:
    return Resolve(IDENTITY, 0, Outcome.THEN, version)


@pytest.mark.parametrize("version", [U64_MAX, (1 << 63) + 1, 0, NOW - 1])
def test_a_commit_timestamp_that_no_votes_give_is_refused(version: int) -> None:
    group = Group()
    prepared(group)
    clock = group.machine.clock
    refused(group.one(commit(version)), Code.DATA_LOSS, str(version))
    assert group.machine.clock == clock + 1  # that of the entry
    assert group.machine.participant.alarms
    assert isinstance(group.one(commit(clock + 5)), Acknowledged)
    assert group.value(b"a") == b"1"


def test_at_level_0_only_a_version_that_ends_the_group_is_refused() -> None:
    group = Group(OLD)
    prepared(group)
    refused(group.one(commit(U64_MAX)), Code.DATA_LOSS, str(U64_MAX))
    assert isinstance(group.one(commit(1 << 63)), Acknowledged)  # as the release before does


def test_at_level_0_no_advance_ends_the_group_however_far_ahead_it_may_be() -> None:
    """Otherwise a key gets a version above the clock, and later writes to it stay invisible."""
    group = Group(OLD)
    limits = [
        U64_MAX if name == "ahead_us_max" else value
        for name, value in zip(LIMITS, OLD.limits, strict=True)
    ]
    assert isinstance(group.one(Configure(tuple(limits), 0)), Acknowledged)
    refused(group.one(Advance(EXHAUSTED)), Code.INVALID_ARGUMENT, str(EXHAUSTED))
    refused(group.one(Advance((1 << 63) + 1)), Code.INVALID_ARGUMENT, str(1 << 63))
    assert isinstance(group.one(Advance(1 << 63)), Advanced)  # as the release before does
    assert isinstance(group.one(Put(b"b", b"1", request(2))), Written)
    assert max(group.store.versions[b"b"]) <= group.machine.clock < EXHAUSTED
    # Votes that count on from this clock stay below the largest commit timestamp that is accepted.
    assert isinstance(group.one(commit(prepared(group).version)), Acknowledged)


def test_a_version_far_ahead_is_taken_when_a_sister_s_clock_is_there() -> None:
    """It would be torn otherwise: the other participants have written their parts (PROTOCOL 2.3)."""
    group = Group()
    prepared(group)
    assert isinstance(group.one(commit(NOW + 10 * 365 * 24 * HOUR)), Acknowledged)


def test_a_clock_that_a_forged_commit_has_exhausted_counts_on() -> None:
    group = Group(OLD)
    prepared(group)
    group.store.names[CLOCK_RECORD] = U64_MAX.to_bytes(8, "big") + NOW.to_bytes(8, "big")
    group.restart()
    assert isinstance(group.one(Put(b"b", b"1", request(2))), Written)
    assert NOW <= group.machine.clock < EXHAUSTED


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt": 1 << 31},
        {"participants": ()},
        {"participants": (1, 2)},
        {"participants": (1, 0)},
        {"participants": (0, 0)},
        {"participants": (0, 4096)},
        {"participants": tuple(range(5000))},
        {"then_positions": (0, 1)},
        {"then_positions": (1 << 31,)},
        {"otherwise_positions": (0,)},
    ],
)
def test_a_prepare_that_no_router_sends_leaves_nothing(changes: dict[str, object]) -> None:
    group = Group()
    refused(group.one(prepare(request(1), **changes)), Code.INVALID_ARGUMENT, "nothing was stored")
    assert not list(group.machine.participant.transactions())
    assert group.machine.sessions_open == 0


FAR = client(9, NOW + 24 * HOUR)
YEAR_10889 = b"\xff" * 6 + client(9)[6:]


@pytest.mark.parametrize("client_id", [b"", b"\xff" * 9, b"\xff" * 16, YEAR_10889, FAR])
def test_no_record_is_kept_under_an_id_that_does_not_expire_soon(client_id: bytes) -> None:
    group = Group()
    group.entry()  # the group's time is NOW
    id_ = RequestId(client_id, 1, NOW, 0)
    for command in (
        prepare(id_),
        Inquire(id_, 0, 7, (0, 1)),
        Resolve(TransactionId(client_id, 1), 0, Outcome.ABORTED, 0),
    ):
        result = group.one(command)
        assert not isinstance(result, Vote) or result.kind is VoteKind.REFUSED
    assert not list(group.machine.participant.transactions())
    assert group.machine.sessions_open == 0
    group.restart()
    assert group.machine.sessions_open == 0


def test_an_id_a_little_ahead_is_refused_by_a_vote_that_is_kept() -> None:
    """Refused is only answered when it is stored: another copy might be voted for later (PROTOCOL 2.3)."""
    group = Group()
    group.entry()
    id_ = request(1, created=NOW + HOUR)
    vote = group.one(prepare(id_))
    assert isinstance(vote, Vote)
    assert vote.kind is VoteKind.REFUSED
    later = group.one(prepare(id_), stamp=NOW + HOUR)
    assert later == vote


def test_a_vote_that_is_repeated_is_the_same_on_a_replica_that_was_restarted() -> None:
    """An id from ahead is told the group's time. What is kept has none, and it is told again."""
    group = Group()
    group.entry()
    id_ = request(1, created=NOW + HOUR)
    first = group.one(prepare(id_))
    answers = [first, group.one(prepare(id_))]
    group.restart()
    answers.append(group.one(prepare(id_)))
    refusals = [answer.refusal for answer in answers if isinstance(answer, Vote)]
    assert refusals[0] == refusals[1] == refusals[2]
    times = [refusal.group_time_us for refusal in refusals if isinstance(refusal, Untimely)]
    assert times == [NOW, NOW, NOW]
    later = group.one(prepare(id_), stamp=NOW + HOUR)  # ahead no more
    assert isinstance(later, Vote)
    assert type(later.refusal) is Refused


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [1, U64_MAX])
def test_absurd_limits_are_refused(name: str, value: int) -> None:
    group = Group()
    before = group.machine.limits
    absurd = tuple(value for _ in LIMITS)
    refused(group.one(Configure(absurd)), Code.INVALID_ARGUMENT)
    if name in LIMIT_BOUNDS and not LIMIT_BOUNDS[name][0] <= value <= LIMIT_BOUNDS[name][1]:
        one = replace(MachineSettings(), **{name: value}).limits  # type: ignore[arg-type]
        refused(group.one(Configure(one)), Code.INVALID_ARGUMENT, name, str(value))
    assert group.machine.limits == before


_FIELDS = {
    "client_id_lifetime_us": ("client_id_seconds", 1_000_000),
    "ahead_us_max": ("ahead_seconds_max", 1_000_000),
    "retention_us": ("retention_seconds", 1_000_000),
    "unacknowledged_per_client_max": ("unacknowledged_max", 1),
}


@pytest.mark.parametrize("name", sorted(LIMIT_BOUNDS.keys() - {"parked_keys_max"}))
def test_what_a_process_may_be_started_with_is_within_the_bounds(name: str) -> None:
    field, unit = _FIELDS.get(name, (name, 1))
    least, most = LIMIT_BOUNDS[name]
    bounds = NodeSettings.model_fields[field].metadata
    allowed = [getattr(one, "ge", getattr(one, "le", None)) for one in bounds]
    for value in (one for one in allowed if one is not None):
        assert least <= value * unit <= most
