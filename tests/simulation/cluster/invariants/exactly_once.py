"""A request is applied with effect at most once in a group, whoever repeats it (PROTOCOL 2.2; FAULTS 51)."""

from __future__ import annotations

from collections.abc import Iterator

from overdb_node.machine.types import (
    Delete,
    Deleted,
    Put,
    Puts,
    Result,
    Transact,
    Transacted,
    TransactionId,
    Unread,
    Waits,
    Written,
)
from tests.simulation.cluster.invariants.base import Applied, Violation

Effect = Written | Deleted | Transacted


class ExactlyOnce:
    """The version in an answer says when a request ran: within this entry, or in an earlier one."""

    def __init__(self) -> None:
        self._ran: dict[tuple[int, TransactionId], Effect] = {}
        self._results: dict[tuple[int, int], list[Result]] = {}  # of each entry of each group
        self.repeated = 0  # answers from what was kept
        self.waited = 0

    def check_entry(self, applied: Applied) -> None:
        key = (applied.group, applied.index)
        first = self._results.setdefault(key, applied.results)
        if first is not applied.results:
            if first != applied.results:
                raise Violation(
                    f"{applied.name} answers entry {applied.index} with {applied.results}; "
                    f"elsewhere it is {first}"
                )
            return
        self.waited += sum(type(one) is Waits for one in applied.results)
        for identity, result in _answers(applied):
            ran = self._ran.setdefault((applied.group, identity), result)
            if ran.version != result.version:
                raise Violation(
                    f"{applied.name}: request {identity} ran at {ran.version}, and again at "
                    f"{result.version} with entry {applied.index}"
                )
            self.repeated += ran is not result


def _answers(applied: Applied) -> Iterator[tuple[TransactionId, Effect]]:
    """Of requests inside this group: those of the entry, and those that it has set free."""
    for command, result in zip(applied.commands, applied.results, strict=True):
        known = result.result if isinstance(result, Unread) else result
        if isinstance(command, Put | Delete | Transact | Puts) and isinstance(known, Effect):
            yield TransactionId(*command.id[:2]), known
    for token, result in applied.machine.participant._released:
        known = result.result if isinstance(result, Unread) else result
        if not token.attempt and isinstance(known, Effect):
            yield TransactionId(token.client_id, token.request_number), known
