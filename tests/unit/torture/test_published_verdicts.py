"""The checkers agree with the published verdicts on other checkers' histories (verdicts/ORIGIN.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overdb_torture.checkers import check_lists, check_registers
from overdb_torture.checkers.linearizability import StepsExceeded, Stuck, search
from overdb_torture.history import Append, ListTransaction, Operation, Outcome, Read

_FOLDER = Path(__file__).parent / "verdicts"
_STEPS_MAX = 5_000_000


def _lines(name: str) -> dict[str, tuple[str, str]]:
    """By name of a history: verdict and text."""
    found = {}
    for line in (_FOLDER / name).read_text().splitlines():
        history, verdict, text = line.split(" ", 2)
        found[history] = (verdict, text)
    return found


def _timed(text: str) -> Iterator[tuple[int, int | None, Outcome, str]]:
    for word in text.split():
        span, what = word.split(":", 1)
        began, ended = span.split("-")
        outcome = Outcome.OK if ended else Outcome.MAYBE
        yield int(began), int(ended) if ended else None, outcome, what


def _registers(text: str) -> list[Operation]:
    operations = []
    for began, ended, outcome, what in _timed(text):
        argument: object = None
        result: object = None
        if what[0] == "r":
            kind, result = "read", None if what == "r-" else int(what[1:])
        elif what[0] == "w":
            kind, argument = "write", int(what[1:])
        else:
            expected, new = what[1:-1].split(",")
            kind, argument = "compare_and_set", (int(expected), int(new))
            result = {"+": True, "!": False, "?": None}[what[-1]]
        operations.append(Operation(began, kind, b"k", argument, result, began, ended, outcome))
    return operations


REGISTERS = _lines("registers.txt")


@pytest.mark.parametrize("name", REGISTERS)
def test_registers(name: str) -> None:
    verdict, text = REGISTERS[name]
    assert check_registers(_registers(text)).ok is (verdict == "good")


class _Mutex:
    start = False

    def step(self, held: bool, one: Operation) -> tuple[bool, bool]:
        acquires = one.kind == "a"
        return one.outcome is Outcome.MAYBE or acquires is not held, acquires

    def observes(self, _: Operation) -> bool:
        return False

    def sets(self, _: Operation) -> bool:
        return True


def test_a_mutex() -> None:
    verdict, text = _lines("mutex.txt")["knossos/etcd"]
    operations = [
        Operation(began, what, b"", None, None, began, ended, outcome)
        for began, ended, outcome, what in _timed(text)
    ]
    assert verdict == "bad"
    assert isinstance(search(operations, _Mutex(), steps_max=_STEPS_MAX), Stuck)


class _Text:
    """A value that is read, put and appended to: what was put last, and what was appended since."""

    start = ()

    def step(self, state: tuple[str, ...], one: Operation) -> tuple[bool, tuple[str, ...]]:
        argument: Any = one.argument
        if one.kind == "g":
            return argument == state, state
        return True, argument if one.kind == "p" else state + argument

    def observes(self, one: Operation) -> bool:
        return one.kind == "g"

    def sets(self, one: Operation) -> bool:
        return one.kind == "p"


def _texts(text: str) -> list[Operation]:
    longer, timed = text.split("|")
    read: list[tuple[str, ...]] = [()]
    for word in longer.split():
        if word != "-":
            above, more = word.split("+")
            read.append((*read[int(above)], *more.split(",")))
    return [
        Operation(
            began,
            what[0],
            b"",
            read[int(what[1:])] if what[0] == "g" else tuple(filter(None, what[1:].split(","))),
            None,
            began,
            ended,
            outcome,
        )
        for began, ended, outcome, what in _timed(timed)
    ]


def _files() -> dict[str, list[tuple[str, str]]]:
    by_file: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, line in _lines("kv.txt").items():
        by_file[name.split("/")[0]].append(line)
    return by_file


KV = _files()


def _explained(text: str) -> bool | None:
    try:
        return search(_texts(text), _Text(), steps_max=_STEPS_MAX // 10) is None
    except StepsExceeded:
        return None


@pytest.mark.parametrize("name", KV)
def test_values_that_are_appended_to(name: str) -> None:
    """One bad key is enough: with 50 clients other keys take too long, since every order differs."""
    verdicts = (_explained(text) for _, text in KV[name])
    if KV[name][0][0] == "good":
        assert set(verdicts) == {True}
    else:
        assert False in verdicts


def _lists(text: str) -> list[ListTransaction]:
    history = []
    for number, part in enumerate(text.split("|")):
        words = part.split()
        began, ended, outcome = 0, 100, Outcome.OK
        if words[0] in ("?", "!"):
            outcome = Outcome.MAYBE if words.pop(0) == "?" else Outcome.FAILED
        elif words[0][0].isdigit():
            began, ended = map(int, words.pop(0).split("-"))
        operations = tuple(
            Append(word[1:2].encode(), int(word[2:]))
            if word[0] == "a"
            else Read(word[1:2].encode(), tuple(map(int, word[2:])))
            for word in words
        )
        end = None if outcome is Outcome.MAYBE else ended
        history.append(ListTransaction(number, operations, began, end, outcome))
    return history


LISTS = _lines("lists.txt")


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str) -> None:
    strict, text = LISTS[name]
    serializable, text = text.split(" ", 1)
    history = _lists(text)
    assert check_lists(history).ok is (strict == "good")
    assert check_lists(history, strict=False).ok is (serializable == "good")
