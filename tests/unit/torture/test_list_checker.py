"""The list checker on histories whose verdict is known, and against a search of all orders."""

from __future__ import annotations

from random import Random

import pytest

from overdb_torture.checkers import check_lists
from overdb_torture.history import Append, ListTransaction, Outcome, Read
from tests.calls import calls_of
from tests.sizes import Sizes
from tests.unit.torture.brute_force import explained, random_lists

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
    "unknown, and all of it there": [t("ax1 ay1", 0, outcome=MAYBE), t("rx1 ry1", 5, 6)],
    "unknown, its reads too": [t("ax1", 0, 1), t("rx1 ay1", 0, outcome=MAYBE), t("ry1", 5, 6)],
    "unknown, not there, its reads do not count": [t("rx7 ay1", 0, outcome=MAYBE), t("ry", 5, 6)],
    "two appends of one transaction have one version": [t("ax1 ax2", version=5), t("rx12")],
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


@pytest.mark.parametrize(
    "readers",
    [
        [t("rx1 ry", 5, 6)],
        [t("rx1", 5, 6), t("ry", 7, 8)],
        [t("rx1 ry2", 5, 6), t("ay2", 5, 6)],
        [t("rx1 az1", 5, 6), t("rz1 ry", 5, 9)],
    ],
)
def test_half_a_commit_of_unknown_outcome_is_found(readers: list[ListTransaction]) -> None:
    """Nobody need read the other half later: the transaction ran, and a reader missed part of it."""
    assert not check_lists([t("ax1 ay1", 0, outcome=MAYBE), *readers]).ok


def test_the_reads_of_an_unknown_transaction_count_when_its_append_was_read() -> None:
    history = [t("ax1", 0, 1), t("rx ay1", 2, outcome=MAYBE)]
    assert check_lists(history).ok
    assert not check_lists([*history, t("ry1", 5, 6)]).ok


def test_appends_of_one_transaction_stay_in_their_order() -> None:
    assert not check_lists([t("ax1 ax2"), t("ax3"), t("rx213")]).ok


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


def test_the_work_grows_with_the_transactions_and_no_faster(sizes: Sizes) -> None:
    def calls(count: int) -> int:
        history = executed(count, Random(1), 60)
        return calls_of(lambda: check_lists(history))

    fewer, many = sizes.pick(quick=(1_000, 6_000), full=(2_000, 20_000))
    assert calls(4 * fewer) < 4.5 * calls(fewer)
    assert check_lists(executed(many, Random(1), 60)).ok


def with_a_stale_read(history: list[ListTransaction]) -> list[ListTransaction]:
    """At the end somebody reads a list as it was at its first append."""
    key, first = next(
        (operation.key, operation.value)
        for one in history
        for operation in one.operations
        if isinstance(operation, Append)
    )
    end = history[-1].began + 1000
    read = ListTransaction(0, (Read(key, (first,)),), end, end + 1, OK, len(history) + 1)
    return [*history, read]


def test_a_stale_read_over_a_long_history_is_a_cycle_of_two(sizes: Sizes) -> None:
    """However much lies between: all of it is one strongly connected component."""
    visited = {}
    most = sizes.pick(quick=6_000, full=16_000)
    for count in (1_000, most):
        verdict = check_lists(with_a_stale_read(executed(count, Random(2), 60)))
        assert [one.kind for one in verdict.anomalies] == ["G-single-realtime"]
        assert len(verdict.anomalies[0].cycle) == 2
        assert len(str(verdict.anomalies[0])) < 1_000
        visited[count] = verdict.visited
    assert visited[most] <= visited[1_000] + 10


def test_the_shortest_cycle_is_found_where_the_newest_transaction_is_in_a_longer_one() -> None:
    history = [t("ax1", 0, 1), t("ax2 az1", 2, 3), t("rx1 ay1", 4, 20), t("rz1 ry1", 15, 16)]
    found = check_lists([*history, t("rx12", 30, 31)]).anomalies
    assert [(one.kind, len(one.cycle)) for one in found] == [("G-single-realtime", 2)]


def test_a_long_cycle_without_a_shorter_one_is_found() -> None:
    """A ring: each of a thousand reads what the one before it appended."""
    ring = [t(f"a{chr(1000 + n)}1 r{chr(1000 + (n - 1) % 1000)}1") for n in range(1000)]
    found = check_lists(ring).anomalies
    assert [(one.kind, len(one.cycle)) for one in found] == [("G1c", 1000)]


# --- against all orders -----------------------------------------------------------------------------------


def test_agrees_with_a_search_of_all_orders() -> None:
    """With unknown outcomes; ``python -m tests.unit.torture.brute_force`` tries more."""
    for seed in range(4000):
        history = random_lists(seed)
        assert check_lists(history).ok is explained(history), f"seed {seed}: {history}"
