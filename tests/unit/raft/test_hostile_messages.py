"""No message ends a replica, whoever sends it and whatever is in it (PROTOCOL 1.5; FAULTS 87).

``OVERDB_TEST_HOSTILE_SEEDS=FIRST:COUNT`` runs other seeds, and as many as are wanted.
"""

from __future__ import annotations

import os
import struct
from random import Random

import pytest

from overdb.internal.v1 import raft_pb2
from overdb_node.raft.messages import (
    Answer,
    Append,
    Message,
    OfferAnswer,
    TimeoutNow,
    VoteAnswer,
    VoteRequest,
)
from overdb_node.raft.output import EventKind, Role
from overdb_node.raft.plausible import INDEX_MAX, TERM_JUMP_MAX, TERM_MAX
from overdb_node.transport import wire
from tests.paper.helpers import TICKS_MAX, Node, entries, leader
from tests.unit.raft.hostile_messages import Hostile

FIRST, COUNT = map(int, os.environ.get("OVERDB_TEST_HOSTILE_SEEDS", "0:300").split(":"))
STEPS = 60
U64 = struct.Struct(">Q")


def run(seed: int) -> set[Role]:
    """Return the roles that the replica had."""
    random = Random(seed)
    hostile = Hostile(random)
    node = random.choice((Node, leader))("1.1 1.2 2.3")
    roles = set()
    for _ in range(STEPS):
        action = random.random()
        if action < 0.7:
            node.receive(random.choice((2, 2, 3, 77)), hostile.message(node.raft))
        elif action < 0.8:
            node.tick(random.choice((1, TICKS_MAX)))
        elif action < 0.85:
            node = node.restarted()
        elif node.raft.serves and not node.raft.leading.transfer_to and action < 0.9:
            node.raft.propose([b"x"])
            node.pump()
        else:
            node.settle()
        check(node)
        roles.add(node.raft.role)
    return roles


def check(node: Node) -> None:
    raft = node.raft
    assert raft.term <= TERM_MAX
    assert raft.log.last_index <= INDEX_MAX
    assert len(raft.refused) <= 32
    for number in (raft.term, raft.vote, raft.log.last_index, raft.log.last_term):
        U64.pack(number)
    for _, message in node.taken():
        wire.encode(message, raft_pb2.RaftMessage())


def test_a_replica_outlives_every_message() -> None:
    roles: set[Role] = set()
    for seed in range(FIRST, FIRST + COUNT):
        try:
            roles |= run(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert {Role.LEADER, Role.FOLLOWER} <= roles, "a search that meets no leader is no search"


# --- each bound ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", [TERM_JUMP_MAX + 3, TERM_MAX + 1, (1 << 64) - 2, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [VoteRequest, VoteAnswer, Append, Answer])
def test_a_term_that_nobody_can_have_come_to_is_not_adopted(term: int, kind: type) -> None:
    messages: dict[type, Message] = {
        VoteRequest: VoteRequest(term, 9, 2, transfer=True),
        VoteAnswer: VoteAnswer(term, False),
        Append: Append(term, 1, 1, (), 0),
        Answer: Answer(term, 1, True, 1, 1),
    }
    node = leader("1.1")
    node.receive(2, messages[kind])
    assert (node.raft.term, node.raft.role) == (2, Role.LEADER)
    assert str(term) in node.raft.refused[2]


def test_a_term_that_a_partition_of_years_explains_is_adopted() -> None:
    node = Node("1.1")
    node.receive(2, Append(1 + TERM_JUMP_MAX, 1, 1, (), 0))
    assert node.raft.term == 1 + TERM_JUMP_MAX


def test_behind_the_last_term_nobody_campaigns() -> None:
    node = Node("1.1", term=TERM_MAX)
    node.tick(2 * TICKS_MAX)
    node.receive(2, TimeoutNow(TERM_MAX))
    assert (node.raft.term, node.raft.role) == (TERM_MAX, Role.FOLLOWER)


@pytest.mark.parametrize(
    "message",
    [
        Answer(2, 10**6, True, 1, 1),  # to a round that has not begun
        Answer(2, 1, True, 10**6, 2),  # entries that the leader does not have
        Answer(2, 1, True, 1, 1, promise_us=1 << 63),
        OfferAnswer(2, 1, 0, 0, 10**6),  # a byte behind the end
    ],
)
def test_a_leader_takes_no_answer_to_what_it_has_not_said(message: Answer | OfferAnswer) -> None:
    node = leader("1.1")
    before = node.raft.leading.progress[2]
    known = (before.match, before.next, before.round)
    node.receive(2, message)
    after = node.raft.leading.progress[2]
    assert (after.match, after.next, after.round) == known
    assert 2 in node.raft.refused


@pytest.mark.parametrize("text", ["0.2", "3.2", "2.2 1.3", "1.2 2.3 1.4"])
def test_entries_whose_terms_do_not_rise_to_the_leader_s_are_refused(text: str) -> None:
    node = Node("1.1")
    node.receive_settled(2, Append(2, 1, 2, entries(text), 0))
    assert node.log == "1.1"


def test_a_candidate_whose_entries_are_of_its_own_term_is_none() -> None:
    node = Node("1.1")
    assert node.receive_settled(2, VoteRequest(2, 9, 2, transfer=True)) == []
    assert (node.raft.term, node.raft.vote) == (1, 0)


def test_refusals_are_told_once_a_term_for_each_sender_and_do_not_pile_up() -> None:
    node = Node("1.1")
    for sender in range(2, 100):
        for _ in range(3):
            node.receive(sender, VoteAnswer((1 << 64) - 1, True))
    told = [event for event in node.events if event.kind is EventKind.MESSAGE_REFUSED]
    assert len(told) == len(node.raft.refused) == 32
    node.receive(2, Append(2, 1, 1, (), 0))
    assert not node.raft.refused
