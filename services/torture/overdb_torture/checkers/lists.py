"""Strict serializability of transactions over lists (Kingsbury and Alvaro, "Elle", VLDB 2020).

A list shows the order of its appends, so reads recover the order of versions, and from it follow the edges:
ww (wrote behind), wr (read what was written), rw (did not see what was written next), rt (ended before the
other began). A cycle among them is an anomaly, named after Adya by the edges that it needs:

    G0 only ww; G1c ww and wr; G-single one rw; G2 several rw; "-realtime" behind it: it needs rt too

A transaction of unknown outcome may have run. If one of its appends was read it did run: all its appends
count then, those that no read shows included (half a commit is a cycle), and so do its own reads. If none
was read, edges only lead to it, and it can be no part of a cycle.

Seen without a graph: G1a (a read of a failed append), G1b (a read of a transaction's middle), internal
(a transaction that does not see itself), duplicate, incompatible-order, garbage (a number nobody appended),
timestamp-order (versions that contradict the lists).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from overdb_torture.checkers.cycles import CycleSearch
from overdb_torture.checkers.graph import components
from overdb_torture.history import Append, ListTransaction, Outcome, Read

_ANOMALIES_MAX = 100
_VALUES_SHOWN_MAX = 8  # of a read, in descriptions: the last ones


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What was observed and must not be. ``cycle``: its transactions; ``edges``: why each comes first."""

    kind: str
    description: str
    cycle: tuple[ListTransaction, ...] = ()
    edges: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.description}"


@dataclass(slots=True)
class ListVerdict:
    """``ok`` when there is no anomaly. ``visited``: nodes that the search for short cycles reached."""

    transactions: int = 0
    anomalies: list[Anomaly] = field(default_factory=list)
    visited: int = 0

    @property
    def ok(self) -> bool:
        return not self.anomalies


def check_lists(transactions: Iterable[ListTransaction], *, strict: bool = True) -> ListVerdict:
    """Check a history; ``strict``: real time counts. Raises ValueError when a number was appended twice."""
    history = list(transactions)
    check = _Check(history, strict=strict)
    check.run()
    return ListVerdict(len(history), check.anomalies[:_ANOMALIES_MAX], check.cycles.visited)


class _Check:
    def __init__(self, history: list[ListTransaction], *, strict: bool) -> None:
        self._history = history
        self._strict = strict
        self.anomalies: list[Anomaly] = []
        self._writer: dict[tuple[bytes, int], int] = {}
        # What a transaction appends to a key, in order.
        self._appends: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        self._ran: list[int] = []  # transactions that certainly took effect, ascending
        self._order: dict[bytes, tuple[int, ...]] = {}
        self._edges: list[dict[int, str]] = [{} for _ in history]
        spans = [(one.began, one.ended if one.outcome is Outcome.OK else None) for one in history]
        self.cycles = CycleSearch(self._edges, spans)

    def run(self) -> None:
        self._index_appends()
        self._find_ran()
        self._find_order()
        for number in self._ran:
            self._check_transaction(number, self._history[number])
        self._add_dependencies()
        self._check_timestamps()
        if self._strict:
            self._add_real_time()
        self._find_cycles()

    def _found(self, kind: str, description: str) -> None:
        self.anomalies.append(Anomaly(kind, description))

    # --- what every key says --------------------------------------------------------------------------

    def _index_appends(self) -> None:
        for number, one in enumerate(self._history):
            for operation in one.operations:
                if isinstance(operation, Append):
                    known = self._writer.setdefault((operation.key, operation.value), number)
                    if known != number:
                        raise ValueError(
                            f"{operation.value} is appended to {operation.key!r} twice"
                        )
                    self._appends[number, operation.key].append(operation.value)

    def _find_ran(self) -> None:
        """Those that are OK, those whose appends they saw, those whose appends these saw, and so on."""
        history = self._history
        ran = {number for number, one in enumerate(history) if one.outcome is Outcome.OK}
        work = list(ran)
        while work:
            for key, values in _reads(history[work.pop()]):
                for value in values:
                    writer = self._writer.get((key, value))
                    if writer is None or writer in ran:
                        continue
                    if history[writer].outcome is Outcome.MAYBE:
                        ran.add(writer)
                        work.append(writer)
        self._ran = sorted(ran)

    def _reads(self) -> Iterator[tuple[int, bytes, tuple[int, ...]]]:
        for number in self._ran:
            for key, values in _reads(self._history[number]):
                yield number, key, values

    def _find_order(self) -> None:
        """The longest read of each key is the order of its versions; all others are its beginnings."""
        for _, key, values in self._reads():
            if len(values) > len(self._order.get(key, ())):
                self._order[key] = values
        for number, key, values in self._reads():
            if len(set(values)) != len(values):
                self._found("duplicate", f"{key!r} was read as {values} by {self._name(number)}")
            elif self._order.get(key, ())[: len(values)] != values:
                self._found(
                    "incompatible-order",
                    f"{key!r} was read as {values} by {self._name(number)} and as {self._order[key]}",
                )
        self._check_order_of_appends()

    def _check_order_of_appends(self) -> None:
        for key, values in self._order.items():
            shown: dict[int, list[int]] = defaultdict(list)
            for value in values:
                writer = self._writer.get((key, value))
                if writer is not None:
                    shown[writer].append(value)
            for writer, seen in shown.items():
                if self._appends[writer, key][: len(seen)] != seen:
                    self._found(
                        "internal", f"{key!r} shows the appends of {self._name(writer)} as {seen}"
                    )

    def _check_transaction(self, number: int, one: ListTransaction) -> None:
        own: dict[bytes, list[int]] = defaultdict(list)
        seen: dict[bytes, tuple[int, ...]] = {}
        for operation in one.operations:
            if isinstance(operation, Append):
                own[operation.key].append(operation.value)
            elif operation.values is not None:
                self._check_read(number, operation.key, operation.values, own[operation.key], seen)

    def _check_read(
        self,
        number: int,
        key: bytes,
        values: tuple[int, ...],
        own: list[int],
        seen: dict[bytes, tuple[int, ...]],
    ) -> None:
        others = values[: len(values) - len(own)] if own else values
        if own and tuple(own) != values[len(others) :]:
            self._found(
                "internal", f"{self._name(number)} does not see its appends in {key!r}: {values}"
            )
            return
        if seen.setdefault(key, others) != others:
            self._found("internal", f"{self._name(number)} saw {key!r} change under itself")
        for value in others:
            writer = self._writer.get((key, value))
            if writer == number:
                self._found(
                    "internal",
                    f"{self._name(number)} saw its own {value} in {key!r} before it appended it",
                )
            elif writer is None:
                self._found(
                    "garbage", f"{self._name(number)} read {value} in {key!r}; nobody appended it"
                )
            elif self._history[writer].outcome is Outcome.FAILED:
                self._found(
                    "G1a",
                    f"{self._name(number)} read {value} in {key!r} of {self._name(writer)}, which failed",
                )
        if others:
            writer = self._writer.get((key, others[-1]))
            if (
                writer is not None
                and writer != number
                and self._appends[writer, key][-1] != others[-1]
            ):
                self._found(
                    "G1b",
                    f"{self._name(number)} read {key!r} in the middle of {self._name(writer)}",
                )

    # --- edges ----------------------------------------------------------------------------------------

    def _edge(self, before: int | None, after: int | None, kind: str) -> None:
        if before is not None and after is not None and before != after:
            known = self._edges[before].get(after)
            if known is None or known == "rw":  # the stronger reason counts
                self._edges[before][after] = kind

    def _add_dependencies(self) -> None:
        unseen: dict[bytes, list[int]] = defaultdict(list)
        shown = {(key, value) for key, values in self._order.items() for value in values}
        for (key, value), writer in self._writer.items():
            if self._history[writer].outcome is not Outcome.FAILED and (key, value) not in shown:
                unseen[key].append(writer)
        for key, values in self._order.items():
            writers = [self._writer.get((key, value)) for value in values]
            for before, after in pairwise(writers):
                self._edge(before, after, "ww")
            for writer in unseen[key] if writers else ():
                self._edge(writers[-1], writer, "ww")
        for number, key, values in self._reads():
            others = [v for v in values if self._writer.get((key, v)) != number]
            if others:
                self._edge(self._writer.get((key, others[-1])), number, "wr")
            order = self._order.get(key, ())
            following = next(
                (v for v in order[len(others) :] if self._writer.get((key, v)) != number), None
            )
            if following is not None:
                self._edge(number, self._writer.get((key, following)), "rw")
            else:
                for writer in unseen[key]:
                    self._edge(number, writer, "rw")

    def _check_timestamps(self) -> None:
        """The versions of a list's transactions, where they are known, grow with the list."""
        for key, values in self._order.items():
            newest, before = 0, None
            for value in values:
                writer = self._writer.get((key, value))
                timestamp = None if writer is None else self._history[writer].timestamp
                if timestamp is not None and writer != before:
                    if timestamp <= newest:
                        self._found(
                            "timestamp-order",
                            f"{value} in {key!r} has version {timestamp} behind {newest}",
                        )
                    newest, before = timestamp, writer

    def _add_real_time(self) -> None:
        """A chain of moments instead of an edge for each pair: behind those that ended, before who began."""
        events: list[tuple[int, int, int]] = []
        for number, one in enumerate(self._history):
            if one.outcome is Outcome.FAILED:
                continue
            events.append((one.began, 0, number))  # at the same moment nothing is claimed
            if one.ended is not None and one.outcome is Outcome.OK:
                events.append((one.ended, 1, number))
        events.sort()
        moment: int | None = None
        for _, kind, number in events:
            if kind == 0:
                if moment is not None:
                    self._edges[moment][number] = "rt"
                continue
            if moment is None or self._edges[moment]:  # the last one is in use: a new one behind it
                self._edges.append({})
                if moment is not None:
                    self._edges[moment][len(self._edges) - 1] = "rt"
                moment = len(self._edges) - 1
            self._edges[number].setdefault(moment, "rt")

    # --- cycles ---------------------------------------------------------------------------------------

    def _find_cycles(self) -> None:
        for component in components(self._edges, range(len(self._edges)), lambda _: True):
            nodes = set(component)
            found = self._classified(nodes)
            if found is not None:
                kind, cycle = found
                self.anomalies.append(self._anomaly(kind, cycle))

    def _classified(self, nodes: set[int]) -> tuple[str, list[int]] | None:
        """Return the kind that needs the fewest reasons, and a short cycle of it."""
        for suffix, extra in (("", ()), ("-realtime", ("rt",))):
            for kind, kinds in (("G0", ("ww",)), ("G1c", ("ww", "wr"))):
                inside = self._component(nodes, {*kinds, *extra})
                cycle = self.cycles.shortest(inside, {*kinds, *extra})
                if cycle is not None:
                    return kind + suffix, cycle
            inside = self._component(nodes, {"ww", "wr", "rw", *extra})
            cycle = self.cycles.shortest_single(inside, {"ww", "wr", *extra})
            if cycle is not None:
                return "G-single" + suffix, cycle
            cycle = self.cycles.shortest(inside, {"ww", "wr", "rw", *extra})
            if cycle is not None:
                return "G2" + suffix, cycle
        return None

    def _component(self, nodes: set[int], kinds: set[str]) -> list[int]:
        found = components(self._edges, nodes, kinds.__contains__)
        return found[0] if found else []

    def _anomaly(self, kind: str, cycle: list[int]) -> Anomaly:
        edges = [self._edges[before].get(after, "rt") for before, after in pairwise(cycle)]
        told = self._name(cycle[0])
        for edge, node in zip(edges, cycle[1:], strict=True):
            told += f" -{edge}-> {self._name(node)}"
        transactions = tuple(self._history[node] for node in cycle[:-1])
        return Anomaly(kind, told, transactions, tuple(edges))

    def _name(self, number: int | None) -> str:
        assert number is not None
        one = self._history[number]
        parts = []
        for operation in one.operations:
            if isinstance(operation, Append):
                parts.append(f"append({operation.key.decode(errors='replace')}, {operation.value})")
            else:
                values = _shortened(operation.values)
                parts.append(f"read({operation.key.decode(errors='replace')})={values}")
        return f"T{number}[{' '.join(parts)}]"


def _reads(one: ListTransaction) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    for operation in one.operations:
        if isinstance(operation, Read) and operation.values is not None:
            yield operation.key, operation.values


def _shortened(values: tuple[int, ...] | None) -> str:
    if values is None or len(values) <= _VALUES_SHOWN_MAX:
        return str(values)
    last = ", ".join(map(str, values[-_VALUES_SHOWN_MAX:]))
    return f"({len(values) - _VALUES_SHOWN_MAX} more, {last})"
