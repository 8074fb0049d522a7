"""Small random histories with unknown outcomes, and a search of all their orders.

    python -m tests.unit.torture.brute_force --first 0 --count 300000

compares the checkers with the search, and prints how many histories were invalid, missed and false alarms.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

from overdb_torture.checkers import check_lists, check_registers
from overdb_torture.history import Append, ListTransaction, Operation, Outcome, Read

OK, FAILED, MAYBE = Outcome.OK, Outcome.FAILED, Outcome.MAYBE
_ILLEGAL = object()


def explained(history: list[Any]) -> bool:
    """Whether some order of all known operations and some of the unknown ones respects time and is legal."""
    taken = [one for one in history if one.outcome is not FAILED]
    known = sum(1 << n for n, one in enumerate(taken) if one.outcome is OK)
    step = _transaction if taken and isinstance(taken[0], ListTransaction) else _operation
    return _search(taken, known, (1 << len(taken)) - 1, None, step, set())


def _search(
    taken: list[Any], known: int, left: int, state: Any, step: Any, failed: set[Any]
) -> bool:
    if not left & known:
        return True
    if (left, state) in failed:
        return False
    ends = [one.ended for n, one in enumerate(taken) if left & known & 1 << n]
    first = min(ended for ended in ends if ended is not None)
    for n, one in enumerate(taken):
        if left & 1 << n and one.began <= first:
            after = step(state, one)
            if after is not _ILLEGAL and _search(
                taken, known, left & ~(1 << n), after, step, failed
            ):
                return True
    failed.add((left, state))
    return False


def _transaction(state: Any, one: ListTransaction) -> Any:
    lists = dict(state or ())
    for operation in one.operations:
        held = lists.get(operation.key, ())
        if isinstance(operation, Append):
            lists[operation.key] = (*held, operation.value)
        elif operation.values is not None and operation.values != held:
            return _ILLEGAL
    return tuple(sorted(lists.items()))


def _operation(state: Any, one: Operation) -> Any:
    """The model of a key, written a second time."""
    sure = one.outcome is OK
    if one.kind == "read":
        return state if not sure or one.result == state else _ILLEGAL
    if one.kind == "write":
        return one.argument
    if one.kind == "delete":
        wrong = sure and one.result is not None and one.result != (state is not None)
        return _ILLEGAL if wrong else None
    if one.kind == "compare_and_set":
        argument: Any = one.argument
        expected, new = argument
        if sure and one.result != (state == expected):
            return _ILLEGAL
        return new if state == expected else state
    assert one.kind == "add"
    total = int(state or b"0") + one.argument  # type: ignore[operator]
    return _ILLEGAL if sure and one.result != total else b"%d" % total


# --- lists ----------------------------------------------------------------------------------------


def random_lists(seed: int) -> list[ListTransaction]:
    """An execution in some order. Some outcomes are lost, some reads or times are then changed."""
    random = Random(seed)
    keys = [b"x", b"y", b"z"][: random.randint(1, 3)]
    maybe_share, wrong_share = random.choice([0.1, 0.3, 0.6]), random.choice([0.0, 0.1, 0.3])
    state: dict[bytes, tuple[int, ...]] = dict.fromkeys(keys, ())
    history: list[ListTransaction] = []
    value = 0
    for number in range(1, random.randint(2, 6)):
        outcome = MAYBE if random.random() < maybe_share else OK
        ran = outcome is OK or random.random() < 0.6
        lists = dict(state)
        operations: list[Append | Read] = []
        for _ in range(random.randint(1, 4)):
            key = random.choice(keys)
            if random.random() < 0.5:
                value += 1
                lists[key] = (*lists[key], value)
                operations.append(Append(key, value))
            else:
                shown: tuple[int, ...] | None = lists[key]
                if random.random() < wrong_share:
                    shown = _changed(lists[key], random)
                elif outcome is MAYBE and random.random() < 0.5:
                    shown = None
                operations.append(Read(key, shown))
        if ran:
            state = lists
        at = number * 10
        began = at - random.randint(0, 25)
        ended = None if outcome is MAYBE else max(began + 1, at + random.randint(-5, 25))
        history.append(ListTransaction(number, tuple(operations), began, ended, outcome))
    if random.random() < 0.4:  # part of the end is seen
        for key in random.sample(keys, random.randint(1, len(keys))):
            history.append(ListTransaction(90, (Read(key, state[key]),), 200, 201, OK))
    return history


def _changed(values: tuple[int, ...], random: Random) -> tuple[int, ...]:
    draw = random.random()
    if draw < 0.7 or not values:
        return values[:-1]
    if draw < 0.85:
        return values[1:]
    return tuple(random.sample(values, len(values)))


# --- registers ------------------------------------------------------------------------------------


def random_registers(seed: int) -> list[Operation]:
    """An execution on one key. Some outcomes are lost, some results or times are then changed."""
    random = Random(seed)
    maybe_share, wrong_share = random.choice([0.1, 0.3, 0.6]), random.choice([0.0, 0.1, 0.3])
    state: bytes | None = None
    history: list[Operation] = []
    for number in range(1, random.randint(2, 9)):
        kind = random.choice(["read", "read", "write", "delete", "compare_and_set", "add"])
        outcome = MAYBE if random.random() < maybe_share else OK
        argument: object = None
        if kind == "write":
            argument = _value(random)
        elif kind == "add":
            argument = random.randint(1, 2)
        elif kind == "compare_and_set":
            argument = (random.choice([None, state, _value(random)]), _value(random))
        result, after = _ran(kind, argument, state)
        if outcome is OK or random.random() < 0.6:
            state = after
        if random.random() < wrong_share:
            result = _wrong(kind, result, random)
        at = number * 10
        began = at - random.randint(0, 25)
        ended = None if outcome is MAYBE else max(began + 1, at + random.randint(-5, 25))
        told = None if outcome is MAYBE else result
        history.append(Operation(number, kind, b"k", argument, told, began, ended, outcome))
    return history


def _value(random: Random) -> bytes:
    return b"%d" % random.randint(0, 4)


def _ran(kind: str, argument: Any, state: bytes | None) -> tuple[object, bytes | None]:
    if kind == "read":
        return state, state
    if kind == "write":
        return None, argument
    if kind == "delete":
        return state is not None, None
    if kind == "compare_and_set":
        return state == argument[0], argument[1] if state == argument[0] else state
    total = int(state or b"0") + argument
    return total, b"%d" % total


def _wrong(kind: str, result: object, random: Random) -> object:
    if kind == "read":
        return random.choice([None, _value(random)])
    if isinstance(result, bool):
        return not result
    return result + random.choice([-1, 1]) if isinstance(result, int) else result


# --- many -----------------------------------------------------------------------------------------


def compared(first: int, count: int) -> Iterator[tuple[str, int, bool, bool | None]]:
    """For each seed of both kinds: kind, seed, what the search says, what the checker says."""
    for seed in range(first, first + count):
        lists = random_lists(seed)
        yield "lists", seed, explained(lists), check_lists(lists).ok
        registers = random_registers(seed)
        yield "registers", seed, explained(registers), check_registers(registers).ok


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for kind, seed, right, said in compared(options.first, options.count):
        counts[f"{kind}: histories"] += 1
        counts[f"{kind}: invalid"] += not right
        if said is not right:
            what = "missed" if said else "false alarm"
            counts[f"{kind}: {what}"] += 1
            print(f"{kind} {seed}: {what}" if said is not None else f"{kind} {seed}: undecided")
    for name, number in sorted(counts.items()):
        print(f"{name}: {number}")


if __name__ == "__main__":
    main()
