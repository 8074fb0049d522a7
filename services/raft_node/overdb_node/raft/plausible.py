"""Messages that no member can have sent: bounds of every number, and one leader a term (PROTOCOL 1.5).

What is named here is dropped like a message that got lost. It bounds what a forged message can do; one that
says only what its sender could say cannot be told from a true one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from overdb_node.raft.messages import (
    Answer,
    Append,
    Chunk,
    ChunkAnswer,
    Message,
    Offer,
    OfferAnswer,
    TimeoutNow,
    VoteRequest,
)

if TYPE_CHECKING:
    from overdb_node.raft.core import Raft
    from overdb_node.raft.types import Entry

TERM_MAX = 1 << 62  # beyond it nobody campaigns
# A replica that has heard of nobody for years is not further behind: twenty elections a second for six years.
TERM_JUMP_MAX = 1 << 32
INDEX_MAX = (
    1 << 43
)  # the state machine makes tickets of indexes; 10,000 entries a second for 27 years
SNAPSHOT_BYTES_MAX = 1 << 62
PROMISE_US_MAX = 120_000_000  # the longest election timeout that a process may be started with
SENDERS_NOTED_MAX = 32


def implausible(raft: Raft, sender: int, message: Message) -> str:
    """Return why no member has sent this, in words; "" when one may have."""
    term = message.term
    if term > TERM_MAX:
        return f"term {term} is beyond the last one"
    if term > raft.term + TERM_JUMP_MAX:
        return f"term {term} is more than {TERM_JUMP_MAX} ahead of term {raft.term}"
    if isinstance(message, Append):
        return _refuse_entries(message) or _refuse_leader(raft, sender, message)
    if isinstance(message, Offer | Chunk):
        return _refuse_element(message) or _refuse_leader(raft, sender, message)
    if isinstance(message, TimeoutNow):
        return _refuse_leader(raft, sender, message)
    if isinstance(message, VoteRequest):
        if message.last_term >= term or message.last_index > INDEX_MAX:
            return f"a candidate of term {term} has entry {message.last_index} of term {message.last_term}"
        return ""
    if isinstance(message, Answer | OfferAnswer | ChunkAnswer):
        return _refuse_answer(raft, message)
    return ""


def _refuse_leader(raft: Raft, sender: int, message: Append | Offer | Chunk | TimeoutNow) -> str:
    """A term has one leader (paper 5.2). Who has heard of one in it takes no other one's messages."""
    if message.term != raft.term or raft.leader_id in (0, sender):
        return ""
    return (
        f"it leads in term {raft.term}, in which replica {raft.leader_id} leads: one of the two is forged, "
        "or a directory was restored from a copy"
    )


def _refuse_entries(message: Append) -> str:
    first, entries = message.first_index, message.entries
    if not 0 < first <= INDEX_MAX - len(entries) or message.leader_commit > INDEX_MAX:
        return f"entries from {first} on, committed up to {message.leader_commit}"
    if entries and not _terms_rise(entries, message.term):
        return f"the terms of its entries do not rise up to {message.term}"
    return ""


def _terms_rise(entries: tuple[Entry, ...], last: int) -> bool:
    before = 1
    for entry in entries:
        if entry.term < before:
            return False
        before = entry.term
    return before <= last


def _refuse_element(message: Offer | Chunk) -> str:
    if not 0 < message.index <= INDEX_MAX or not 0 < message.element_term <= message.term:
        return f"a first element {message.index} of term {message.element_term}"
    end = message.offset + len(message.data) if isinstance(message, Chunk) else 0
    if not end <= message.size <= SNAPSHOT_BYTES_MAX:
        return f"a snapshot of {message.size} bytes, a part of it up to {end}"
    return ""


def _refuse_answer(raft: Raft, message: Answer | OfferAnswer | ChunkAnswer) -> str:
    """Of this leader's own term an answer names a round that it has begun and entries that it has."""
    if isinstance(message, Answer) and message.promise_us > PROMISE_US_MAX:
        return f"a promise of {message.promise_us} us"
    if message.term != raft.term or not raft.is_leader:
        return ""
    if message.round > raft.leading.round:
        return f"an answer to round {message.round}, the newest is {raft.leading.round}"
    if isinstance(message, Answer):
        if message.agreed > raft.log.last_index:
            return f"it agrees up to entry {message.agreed}, the last one is {raft.log.last_index}"
        return ""
    offset = message.send_from if isinstance(message, OfferAnswer) else message.next_offset
    first = raft.log.snapshot
    if message.index == first.index and offset > first.size:
        return f"it asks for byte {offset} of a snapshot of {first.size}"
    return ""
