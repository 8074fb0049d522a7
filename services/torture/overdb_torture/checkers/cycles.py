"""Shortest cycles among the transactions of one strongly connected component.

Real time is not walked along its chain of moments: a transaction that ended precedes every transaction that
began later, in one step. A breadth-first search takes that step with one pointer into the transactions in
order of their beginning, so a search costs the edges and the nodes that it reaches, and the cycle that it
returns has no detours. The newest transaction is searched first: a stale read is the newest one of the
cycle that it closes, however long the history is that it ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from overdb_torture.checkers.graph import Edges

# Bounds the search for a shorter cycle than the first: exact for components of up to 200 transactions,
# some searches through the whole component for larger ones.
VISITS_MIN = 40_000
VISITS_PER_NODE = 8

Starts = Callable[[int], Iterable[int]]


class CycleSearch:
    """``spans``: of each transaction, its beginning, and its end where real time counts it, else None.

    ``visited`` counts the nodes that all searches so far have reached.
    """

    def __init__(self, edges: Edges, spans: Sequence[tuple[int, int | None]]) -> None:
        self._edges = edges
        self._spans = spans
        self.visited = 0

    def shortest(self, nodes: Collection[int], kinds: Collection[str]) -> list[int] | None:
        """Return the nodes of a cycle along edges of ``kinds``, its first node again at its end."""
        return self._shortest(nodes, kinds, lambda node: (node,))

    def shortest_single(self, nodes: Collection[int], kinds: Collection[str]) -> list[int] | None:
        """Return a cycle of one rw edge, which comes first, and else edges of ``kinds``."""

        def starts(node: int) -> list[int]:
            return [after for after, kind in self._edges[node].items() if kind == "rw"]

        return self._shortest(nodes, kinds, starts)

    def _shortest(
        self, nodes: Collection[int], kinds: Collection[str], starts: Starts
    ) -> list[int] | None:
        by_beginning = sorted(
            (node for node in nodes if node < len(self._spans)),
            key=lambda node: (self._spans[node][0], node),
        )
        members = set(by_beginning)
        limit = self.visited + max(VISITS_MIN, VISITS_PER_NODE * len(by_beginning))
        best: list[int] | None = None
        for goal in reversed(by_beginning):
            begin = [node for node in starts(goal) if node in members]
            # A cycle along rw has one edge more than the path from its end.
            longest = len(by_beginning) if best is None else len(best) - 2
            longest -= begin != [goal]
            found = self._path(begin, goal, by_beginning, members, kinds, longest)
            if found is not None:
                best = found if begin == [goal] else [goal, *found]
            if self.visited >= limit or (best is not None and len(best) == 3):
                break
        return best

    def _path(
        self,
        begin: list[int],
        goal: int,
        by_beginning: list[int],
        members: set[int],
        kinds: Collection[str],
        longest: int,
    ) -> list[int] | None:
        """Return a shortest path of 1 to ``longest`` edges from a node of ``begin`` to ``goal``."""
        before: dict[int, int | None] = dict.fromkeys(begin)
        level, later = begin, len(by_beginning)
        for _ in range(longest):
            self.visited += len(level)
            for node in level:
                if self._precedes(node, goal, kinds):
                    return _walked(before, node, goal)
            following = []
            for node in level:
                for after, kind in self._edges[node].items():
                    if kind in kinds and after in members and after not in before:
                        before[after] = node
                        following.append(after)
            ended, first = self._first_ended(level) if "rt" in kinds else (None, 0)
            while ended is not None and later and self._spans[by_beginning[later - 1]][0] > ended:
                later -= 1
                if by_beginning[later] not in before:
                    before[by_beginning[later]] = first
                    following.append(by_beginning[later])
            level = following
            if not level:
                break
        return None

    def _precedes(self, node: int, goal: int, kinds: Collection[str]) -> bool:
        if self._edges[node].get(goal, "") in kinds:
            return True
        ended = self._spans[node][1]
        return "rt" in kinds and ended is not None and ended < self._spans[goal][0]

    def _first_ended(self, level: list[int]) -> tuple[int | None, int]:
        ends = [(ended, node) for node in level if (ended := self._spans[node][1]) is not None]
        return min(ends, default=(None, 0))


def _walked(before: dict[int, int | None], last: int, goal: int) -> list[int]:
    walked, node = [goal], last
    while True:
        walked.append(node)
        above = before[node]
        if above is None:
            return walked[::-1]
        node = above
