"""Strongly connected components, for graphs of a hundred thousand edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

Edges = Sequence[dict[int, str]]  # by node: the nodes after it, each with the kind of the edge


def components(
    edges: Edges, nodes: Iterable[int], follow: Callable[[str], bool]
) -> list[list[int]]:
    """Tarjan's strongly connected components of more than one node, along the edges ``follow`` takes."""
    search = _Tarjan(edges, set(nodes), follow)
    for node in sorted(search.allowed):
        if node not in search.index:
            search.visit(node)
    return search.found


class _Tarjan:
    """Without recursion: histories are longer than Python's stack."""

    def __init__(self, edges: Edges, allowed: set[int], follow: Callable[[str], bool]) -> None:
        self._edges = edges
        self._follow = follow
        self.allowed = allowed
        self.index: dict[int, int] = {}
        self.found: list[list[int]] = []
        self._low: dict[int, int] = {}
        self._stack: list[int] = []
        self._on_stack: set[int] = set()

    def visit(self, root: int) -> None:
        work = [self._enter(root)]
        while work:
            node, following = work[-1]
            new = self._advance(node, following)
            if new is not None:
                work.append(self._enter(new))
                continue
            work.pop()
            if work:
                above = work[-1][0]
                self._low[above] = min(self._low[above], self._low[node])
            if self._low[node] == self.index[node]:
                self._take(node)

    def _enter(self, node: int) -> tuple[int, Iterator[int]]:
        self.index[node] = self._low[node] = len(self.index)
        self._stack.append(node)
        self._on_stack.add(node)
        return node, self._after(node)

    def _after(self, node: int) -> Iterator[int]:
        for after, kind in self._edges[node].items():
            if after in self.allowed and self._follow(kind):
                yield after

    def _advance(self, node: int, following: Iterator[int]) -> int | None:
        """The next node that was not visited yet."""
        for after in following:
            if after not in self.index:
                return after
            if after in self._on_stack:
                self._low[node] = min(self._low[node], self.index[after])
        return None

    def _take(self, root: int) -> None:
        component = []
        while True:
            member = self._stack.pop()
            self._on_stack.discard(member)
            component.append(member)
            if member == root:
                break
        if len(component) > 1:
            self.found.append(sorted(component))
