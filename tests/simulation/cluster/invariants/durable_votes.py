"""A vote that was sent, for whatever candidate, is the only one of that replica in that term (FAULTS 1)."""

from __future__ import annotations

from typing import Any

from overdb_node.raft.messages import VoteAnswer
from tests.simulation.cluster.invariants.base import Violation


class DurableVotes:
    """Looks at packets instead of replicas: what was said must hold over restarts too."""

    def __init__(self) -> None:
        self._votes: dict[tuple[int, int], int] = {}

    def on_packet(self, sender_id: int, receiver_id: int, messages: list[Any]) -> None:
        for message in messages:
            if type(message) is VoteAnswer and message.granted and not message.pre:
                first = self._votes.setdefault((sender_id, message.term), receiver_id)
                if first != receiver_id:
                    raise Violation(
                        f"replica {sender_id} granted its vote of term {message.term} to {first} "
                        f"and to {receiver_id}"
                    )
