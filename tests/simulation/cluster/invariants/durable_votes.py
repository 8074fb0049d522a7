"""What a replica has said of terms and votes holds over restarts: one vote a term, its own too (FAULTS 1)."""

from __future__ import annotations

from typing import Any

from overdb_node.raft.messages import VoteAnswer, VoteRequest
from tests.simulation.cluster.invariants.base import Seen, Violation


class DurableVotes:
    """Looks at packets, since what was said binds, and at how replicas come back."""

    def __init__(self) -> None:
        self._votes: dict[tuple[int, int], int] = {}
        self._terms: dict[int, int] = {}  # replica -> newest term that it told

    def on_packet(self, sender_id: int, receiver_id: int, messages: list[Any]) -> None:
        for message in messages:
            if getattr(message, "pre", False):
                continue  # a question binds nobody
            if message.term > self._terms.get(sender_id, 0):
                self._terms[sender_id] = message.term
            kind = type(message)
            if kind is VoteRequest:
                self._vote(sender_id, message.term, sender_id)
            elif kind is VoteAnswer and message.granted:
                self._vote(sender_id, message.term, receiver_id)

    def _vote(self, sender_id: int, term: int, candidate: int) -> None:
        first = self._votes.setdefault((sender_id, term), candidate)
        if first != candidate:
            raise Violation(
                f"replica {sender_id} gave its vote of term {term} to {first} and to {candidate}"
            )

    def check(self, seen: Seen) -> None:
        """How it came back. One that lost its disk, or has an old one, takes part in nothing: it need not
        remember."""
        if not seen.begins:
            return
        now, told = seen.now, self._terms.get(seen.replica_id, 0)
        vote = self._votes.get((seen.replica_id, now.term))
        if now.term < told or (vote is not None and now.vote != vote):
            raise Violation(
                f"{seen.name} started in term {now.term} with its vote for {now.vote}; before it had "
                f"told term {told}, and voted for {vote}"
            )
