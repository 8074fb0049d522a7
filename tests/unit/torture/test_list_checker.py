"""The list checker on histories whose verdict is known, and against a search of all orders."""

from __future__ import annotations

import time
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overdb_torture.checkers import check_lists
from overdb_torture.history import Append, ListTransaction, Outcome, Read

OK, FAILED, MAYBE = Outcome.OK, Outcome.FAILED, Outcome.MAYBE


def parse(text: str) -> tuple[Append | Read, ...]:
    """``ax1 rx12 ry`` : append 1 to x, read x as (1, 2), read y as empty."""
    operations: list[Append | Read] = []
    for word in text.split():
        key = word[1].encode()
        if word[0] == "a":
            operations.append(Append(key, int(word[2:])))
        else:
            operations.append(Read(key, tuple(int(digit) for digit in word[2:])))
    return tuple(operations)


def t(
    text: str,
    began: int = 0,
    ended: int | None = 100,
    outcome: Outcome = OK,
    version: int | None = None,
) -> ListTransaction:
    return ListTransaction(
        0, parse(text), began, None if outcome is MAYBE else ended, outcome, version
    )


GOOD = {
    "nothing": [],
    "one after the other": [t("ax1", 0, 1), t("rx1 ax2", 2, 3), t("rx12", 4, 5)],
    "beside each other": [t("ax1 ay1"), t("ax2 ay2"), t("rx12 ry12")],
    "reads its own appends": [t("ax1 rx1 ax2 rx12")],
    "unknown, and there": [t("ax1", 0, outcome=MAYBE), t("rx1", 5, 6)],
    "unknown, and never there": [t("ax1", 0, outcome=MAYBE), t("rx", 5, 6)],
    "unknown, and there much later": [t("ax1", 0, outcome=MAYBE), t("rx", 5, 6), t("rx1", 7, 8)],
    "failed, and not there": [t("ax1", 0, 1, FAILED), t("rx", 5, 6)],
    "versions grow with the list": [t("ax1", version=5), t("ax2", version=9), t("rx12")],
    "never read": [t("ax1", 0, 1), t("ax2", 2, 3)],
}
BAD = {
    # Adya's phenomena, as Elle's paper shows them on lists
    "G0": [t("ax1 ay2"), t("ax3 ay4"), t("rx13 ry42")],
    "G1a": [t("ax1", outcome=FAILED), t("rx1")],
    "G1b": [t("ax1 ax2"), t("rx1"), t("rx12")],
    "G1c": [t("ax1 ry2"), t("ay2 rx1")],
    "G-single": [t("ax1 ay2"), t("rx ry2"), t("rx1")],  # a read skew
    "G2": [t("rx ay1"), t("ry ax1"), t("rx1 ry1")],  # a write skew
    "internal": [t("ax1 rx")],
    "duplicate": [t("ax1"), t("rx11")],
    "garbage": [t("rx7")],
    "incompatible-order": [t("ax1"), t("ax2"), t("rx12"), t("rx21")],
    "timestamp-order": [t("ax1", version=9), t("ax2", version=5), t("rx12")],
    # serializable, and not strictly
    "G0-realtime": [t("ax1", 0, 1), t("ax2", 2, 3), t("rx21", 0, 100)],
    "G1c-realtime": [t("rx1", 0, 1), t("ax1", 2, 3)],
    "G-single-realtime": [t("ax1", 0, 1), t("rx", 2, 3), t("rx1", 0, 100)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    verdict = check_lists(GOOD[name])
    assert verdict.ok, [str(one) for one in verdict.anomalies]


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    kinds = {one.kind for one in check_lists(BAD[name]).anomalies}
    assert name in kinds


@pytest.mark.parametrize(
    "text", ["ax1 rx", "rx1 ax1", "rx1 ax1 rx1", "ax1 rx12 ax2", "ax1 ax2 rx1"]
)
def test_a_transaction_sees_exactly_what_it_has_appended_so_far(text: str) -> None:
    assert "internal" in {one.kind for one in check_lists([t(text)]).anomalies}


def test_a_lost_append_is_found() -> None:
    """Acknowledged, and a later read does not show it, nor does anybody's."""
    found = check_lists([t("ax1", 0, 1), t("rx", 2, 3)]).anomalies
    assert [one.kind for one in found] == ["G-single-realtime"]


def test_a_long_fork_is_found() -> None:
    """Two readers see two appends in different orders."""
    history = [t("ax1"), t("ay1"), t("rx1 ry"), t("rx ry1"), t("rx1 ry1")]
    assert [one.kind for one in check_lists(history).anomalies] == ["G2"]


def test_real_time_counts_only_when_it_is_asked_for() -> None:
    history = [t("ax1", 0, 1), t("rx", 2, 3), t("rx1", 0, 100)]
    assert not check_lists(history).ok
    assert check_lists(history, strict=False).ok


def test_a_cycle_is_told_with_the_reason_of_each_step() -> None:
    found = check_lists([t("ax1 ay2"), t("rx ry2"), t("rx1")]).anomalies[0]
    assert (found.kind, sorted(found.edges), len(found.cycle)) == ("G-single", ["rw", "wr"], 2)
    assert "-rw->" in str(found)


def test_a_number_appended_twice_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="twice"):
        check_lists([t("ax1"), t("ax1")])


def executed(count: int, random: Random, overlap: int) -> list[ListTransaction]:
    """A strictly serial execution, with intervals that overlap."""
    state: dict[bytes, list[int]] = {b"%d" % key: [] for key in range(10)}
    history = []
    for number in range(count):
        operations: list[Append | Read] = []
        for key in random.sample(sorted(state), random.randint(1, 3)):
            operations.append(Read(key, tuple(state[key])))
            if random.random() < 0.5:
                state[key].append(number)
                operations.append(Append(key, number))
            if len(state[key]) > 20:  # go on with a new list
                del state[key]
                state[b"%d-%d" % (number, len(operations))] = []
        at = number * 10
        began, ended = at - random.randint(0, overlap), at + random.randint(1, overlap + 1)
        history.append(ListTransaction(number, tuple(operations), began, ended, OK, number + 1))
    return history


def test_twenty_thousand_transactions_take_seconds() -> None:
    history = executed(20_000, Random(1), 60)
    began = time.monotonic()
    assert check_lists(history).ok
    assert time.monotonic() - began < 10


# --- against all orders -----------------------------------------------------------------------------------


def explained(history: list[ListTransaction]) -> bool:
    known = [one for one in history if one.outcome is OK]
    maybe = [one for one in history if one.outcome is MAYBE]
    for chosen in range(1 << len(maybe)):
        taken = known + [one for n, one in enumerate(maybe) if chosen >> n & 1]
        if any(_is_legal(order) for order in permutations(taken)):
            return True
    return False


def _is_legal(order: tuple[ListTransaction, ...]) -> bool:
    for position, one in enumerate(order):
        if any(later.ended is not None and later.ended < one.began for later in order[position:]):
            return False
    state: dict[bytes, tuple[int, ...]] = {}
    for one in order:
        for operation in one.operations:
            if isinstance(operation, Append):
                state[operation.key] = (*state.get(operation.key, ()), operation.value)
            elif operation.values is not None and operation.values != state.get(operation.key, ()):
                return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[ListTransaction]:
    """An execution in some order, of which some reads are then told wrongly, or at the wrong time."""
    count = draw(st.integers(1, 5))
    state: dict[bytes, tuple[int, ...]] = {b"x": (), b"y": ()}
    history = []
    for number in range(1, count + 1):
        operations: list[Append | Read] = []
        maybe = draw(st.integers(0, 9)) == 0
        for key in draw(
            st.lists(st.sampled_from([b"x", b"y"]), min_size=1, max_size=2, unique=True)
        ):
            values = state[key]
            told_wrongly = draw(st.integers(0, 15))
            if told_wrongly < 2:
                values = values[:-1]
            elif told_wrongly == 2:
                values = (*values, number)  # that of this very transaction, which may come later
            if not maybe:
                operations.append(Read(key, values))
            if draw(st.booleans()):
                state[key] = (*state[key], number)
                operations.append(Append(key, number))
        at = number * 10
        began = at - draw(st.integers(0, 25))
        ended = max(began + 1, at + draw(st.integers(-10, 25)))
        outcome = MAYBE if maybe else OK
        history.append(
            ListTransaction(number, tuple(operations), began, None if maybe else ended, outcome)
        )
    reads = [
        ListTransaction(90 + n, (Read(key, values),), 200, 201, OK)
        for n, (key, values) in enumerate(state.items())
    ]
    return history + reads


@settings(max_examples=500, deadline=None)
@given(histories())
def test_agrees_with_a_search_of_all_orders(history: list[ListTransaction]) -> None:
    """All appends are read at the end, so the order of versions is known, and the verdict is exact."""
    assert check_lists(history).ok is explained(history)
