"""The commit protocol by itself, through every order of answers (PROTOCOL 2.3, 2.4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, permutations, product

import pytest

from overdb_router.txn.commit import Commit, State
from overdb_router.txn.types import (
    Action,
    Backoff,
    Branch,
    Committed,
    Failed,
    Forget,
    NotRun,
    Outcome,
    Prepare,
    Prepared,
    Refused,
    Resolve,
    Reused,
    Rival,
    Stale,
    Superseded,
    Unknown,
    Verdict,
    Vote,
)
from tests.sizes import Sizes

RIVAL = Rival(b"r" * 16, 7, b"key", 1)


def yes(version: int = 10, attempt: int = 0, *, holds: bool = True) -> Prepared:
    return Prepared(attempt, holds, version)


def no(attempt: int = 0, *, again: bool = True) -> Refused:
    return Refused(attempt, "refused", again, RIVAL if again else None)


def verdicts(actions: Sequence[Action]) -> list[object]:
    return [action.verdict for action in actions if isinstance(action, Verdict)]


def begun(groups: int = 2, *, own_id: bool = False) -> Commit:
    commit = Commit(range(groups), own_id=own_id)
    assert commit.start() == [Prepare(group, 0) for group in range(groups)]
    return commit


# --- one thing at a time ---------------------------------------------------------------------------------


def test_the_answer_leaves_with_the_last_vote_and_before_any_resolve() -> None:
    commit = begun()
    first, second = yes(10), yes(12)
    assert commit.vote(1, second) == []
    assert commit.vote(0, first) == [
        Verdict(Committed(Branch.THEN, 12, {0: first, 1: second})),
        Resolve(0, 0, Branch.THEN, 12),
        Resolve(1, 0, Branch.THEN, 12),
    ]
    assert commit.resolved(0, 0) == []
    assert commit.resolved(0, 0) == []
    assert commit.resolved(1, 0) == [Forget(0, 0), Forget(1, 0)]
    assert commit.done


def test_one_compare_that_does_not_hold_makes_it_otherwise() -> None:
    commit = begun()
    commit.vote(0, yes(10))
    actions = commit.vote(1, yes(9, holds=False))
    assert actions[1:] == [Resolve(g, 0, Branch.OTHERWISE, 10) for g in (0, 1)]


def test_an_operation_that_cannot_be_carried_out_commits_without_effect() -> None:
    commit = begun(3)
    commit.vote(2, Prepared(0, True, 10, then_error="second"))
    commit.vote(1, Prepared(0, True, 11, then_error="first"))
    assert commit.vote(0, Prepared(0, True, 9, otherwise_error="not asked")) == [
        Verdict(Failed("first")),
        *(Resolve(group, 0, Branch.NONE, 11) for group in range(3)),
    ]


def test_an_error_of_the_branch_that_does_not_run_is_none() -> None:
    commit = begun()
    commit.vote(0, Prepared(0, False, 9, then_error="not asked"))
    [verdict] = verdicts(commit.vote(1, yes(10)))
    assert isinstance(verdict, Committed)
    assert verdict.branch is Branch.OTHERWISE


def test_an_outcome_is_taken_as_it_is_and_the_other_results_are_waited_for() -> None:
    commit = begun()
    assert commit.vote(0, Prepared(0, True, 10, outcome=Outcome(Branch.OTHERWISE, 30))) == []
    assert commit.vote(1, no()) == []  # cannot be: the outcome is a fact
    [verdict] = verdicts(commit.vote(1, yes(11)))
    assert isinstance(verdict, Committed)
    assert (verdict.branch, verdict.version) == (Branch.OTHERWISE, 30)


def test_a_duplicate_may_bring_the_outcome() -> None:
    commit = begun()
    commit.vote(0, yes(10))
    commit.vote(0, Prepared(0, True, 10, outcome=Outcome(Branch.NONE, 30)))
    actions = commit.vote(1, yes(11))
    assert verdicts(actions) == [Failed(None)]
    assert Resolve(1, 0, Branch.NONE, 30) in actions


def test_an_aborted_outcome_leads_to_the_next_attempt() -> None:
    commit = begun()
    actions = commit.vote(0, Prepared(0, True, 10, outcome=Outcome(Branch.ABORTED)))
    assert actions[-1] == Backoff(0)


def test_a_refusal_aborts_everywhere_and_is_tried_again_after_a_while() -> None:
    commit = begun()
    commit.vote(0, yes())
    assert commit.vote(1, no()) == [
        Resolve(0, 0, Branch.ABORTED, 0),
        Resolve(1, 0, Branch.ABORTED, 0),
        Backoff(0),
    ]
    assert commit.vote(0, no()) == []
    assert commit.resolved(0, 0) == []
    assert commit.resolved(1, 0) == []  # what was aborted is not forgotten by us
    assert commit.wake() == [Prepare(0, 1), Prepare(1, 1)]
    assert commit.wake() == []
    assert commit.vote(0, yes()) == []  # of the attempt before
    assert commit.vote(1, yes()) == []
    assert commit.vote(1, no(1))[-1] == Backoff(1)


def test_acknowledgements_of_the_attempt_before_count_for_nothing() -> None:
    commit = begun()
    commit.vote(1, no())
    commit.wake()
    commit.vote(0, yes(10, 1))
    commit.vote(1, yes(11, 1))
    for group in (0, 1):
        assert commit.resolved(group, 0) == []
    assert commit.resolved(0, 1) == []
    assert commit.resolved(1, 1) == [Forget(0, 1), Forget(1, 1)]


def test_a_final_refusal_is_the_verdict() -> None:
    commit = begun()
    assert commit.vote(1, no(again=False)) == [
        Verdict(Failed("refused")),
        Resolve(0, 0, Branch.ABORTED, 0),
        Resolve(1, 0, Branch.ABORTED, 0),
    ]
    assert commit.done


def test_a_final_refusal_ends_the_backoff_too() -> None:
    commit = begun()
    commit.vote(0, no())
    assert commit.vote(1, no(again=False)) == [Verdict(Failed("refused"))]
    assert commit.wake() == []


def test_a_newer_attempt_is_joined_and_an_older_one_is_not() -> None:
    commit = begun()
    assert commit.vote(0, Superseded(3)) == [Prepare(0, 3), Prepare(1, 3)]
    assert commit.vote(1, Superseded(3)) == []
    assert commit.vote(1, Superseded(2)) == []
    assert commit.vote(1, no(0)) == []
    assert commit.vote(1, no(3))[-1] == Backoff(0)
    assert commit.vote(1, Superseded(9)) == [Prepare(0, 9), Prepare(1, 9)]
    assert commit.wake() == []  # of the backoff before


@pytest.mark.parametrize("kind", [Stale, Reused])
def test_no_vote_stops_everything(kind: type[Stale | Reused]) -> None:
    commit = begun()
    commit.vote(0, yes())
    assert commit.vote(1, kind(0, "why")) == [Verdict(Failed("why"))]
    for vote in (yes(), no(), Superseded(5)):
        assert commit.vote(1, vote) == []
    assert commit.give_up() == []


@pytest.mark.parametrize("own_id", [False, True])
def test_given_up_while_votes_are_missing_it_is_unknown(own_id: bool) -> None:
    commit = begun(3, own_id=own_id)
    commit.vote(1, no())
    commit.wake()
    commit.vote(0, yes(attempt=1))
    assert commit.give_up() == [Verdict(Unknown(RIVAL, 2, (1, 2)))]
    assert commit.give_up() == []


def test_given_up_in_backoff_it_has_not_run_if_nobody_else_can_run_it() -> None:
    for own_id, verdict in ((True, NotRun(RIVAL, 1)), (False, Unknown(RIVAL, 1, ()))):
        commit = begun(own_id=own_id)
        commit.vote(1, no())
        assert commit.give_up() == [Verdict(verdict)]
        assert commit.wake() == []
        assert commit.vote(0, Superseded(4)) == []


def test_given_up_what_the_votes_say_later_is_still_carried_out() -> None:
    commit = begun()
    commit.vote(0, yes(10))
    commit.give_up()
    assert commit.vote(1, yes(11)) == [Resolve(group, 0, Branch.THEN, 11) for group in (0, 1)]
    commit = begun()
    commit.give_up()
    assert commit.vote(1, no()) == [Resolve(group, 0, Branch.ABORTED, 0) for group in (0, 1)]
    assert commit.done
    commit = begun()
    commit.give_up()
    assert commit.vote(1, Superseded(2)) == []


def test_a_participant_that_cannot_take_part_ends_it_without_a_resolve() -> None:
    commit = begun()
    commit.vote(0, yes())
    assert commit.fail("broken") == [Verdict(Failed("broken"))]
    assert commit.fail("broken") == []


# --- every order ----------------------------------------------------------------------------------------

GIVE_UP = "give up"
Event = tuple[int, Vote] | str


class Checked:
    """A Commit that is watched: what it does has to follow from what it was told."""

    def __init__(self, groups: int, *, own_id: bool) -> None:
        self.groups = groups
        self.own_id = own_id
        self.commit = Commit(range(groups), own_id=own_id)
        self.told: dict[int, dict[int, list[Vote]]] = {}  # attempt -> group -> votes
        self.known: set[int] = set()  # attempts that others are known to have started
        self.acknowledged: dict[int, set[int]] = {}
        self.verdicts: list[object] = []
        self.prepared: set[int] = set()
        self.outcomes: dict[int, set[tuple[Branch, int]]] = {}
        self.todo: deque[Action] = deque()
        self.given_up = self.stopped = False
        self.do(self.commit.start())

    def tell(self, event: Event) -> None:
        if isinstance(event, str):
            self.given_up = True
            self.do(self.commit.give_up())
            return
        group, vote = event
        if isinstance(vote, Superseded):
            self.known.add(vote.attempt)
        else:
            self.told.setdefault(vote.attempt, {}).setdefault(group, []).append(vote)
        live = vote.attempt == self.commit.attempt and self.commit.state is State.PREPARING
        actions = self.commit.vote(group, vote)
        if live and isinstance(vote, Stale | Reused):
            self.stopped = True
            assert not [action for action in actions if not isinstance(action, Verdict)]
        self.do(actions)

    def do(self, actions: list[Action]) -> None:
        sees_verdict = [isinstance(action, Verdict) for action in actions]
        assert not any(sees_verdict[1:]), "the verdict goes first"
        for action in actions:
            if isinstance(action, Verdict):
                self.verdicts.append(action.verdict)
                self.check_verdict(action.verdict)
            else:
                self.check(action)
                self.todo.append(action)

    def check(self, action: Action) -> None:
        assert not self.stopped, "stale or reused: nothing more is sent"
        if isinstance(action, Prepare):
            assert not self.given_up
            assert not self.verdicts
            before = action.attempt - 1
            assert action.attempt == 0 or action.attempt in self.known or self.aborted(before)
            self.prepared.add(action.attempt)
        elif isinstance(action, Resolve):
            outcome = (action.branch, action.version)
            self.outcomes.setdefault(action.attempt, set()).add(outcome)
            assert len(self.outcomes[action.attempt]) == 1, "one outcome for each attempt"
            if action.branch is Branch.ABORTED:
                assert self.aborted(action.attempt)
            else:
                assert outcome == self.committed(action.attempt)
        elif isinstance(action, Forget):
            assert self.acknowledged[action.attempt] == set(range(self.groups))
        else:
            assert isinstance(action, Backoff)
            assert not self.given_up

    def check_verdict(self, verdict: object) -> None:
        assert len(self.verdicts) == 1, "one answer"
        if isinstance(verdict, Committed):
            assert (verdict.branch, verdict.version) == self.committed(self.commit.attempt)
            assert set(verdict.votes) == set(range(self.groups))
            assert not self.acknowledged.get(self.commit.attempt)
        elif isinstance(verdict, NotRun):
            assert self.own_id
            assert self.aborted(max(self.prepared))
        elif isinstance(verdict, Unknown):
            assert self.given_up

    def aborted(self, attempt: int) -> bool:
        votes = [one for many in self.told.get(attempt, {}).values() for one in many]
        return any(isinstance(vote, Refused) for vote in votes)

    def committed(self, attempt: int) -> tuple[Branch, int] | None:
        """What the votes of an attempt come to, None while one is missing."""
        votes = []
        for group in range(self.groups):
            told = self.told.get(attempt, {}).get(group, [])
            votes += [vote for vote in told if isinstance(vote, Prepared)][:1]
        if len(votes) < self.groups:
            return None
        branch = Branch.THEN if all(vote.holds for vote in votes) else Branch.OTHERWISE
        if any(vote.error(branch) is not None for vote in votes):
            branch = Branch.NONE
        return branch, max(vote.version for vote in votes)

    def finish(self) -> None:
        """From here on everything goes well: it has to come to an end."""
        steps = 0
        while self.todo:
            steps += 1
            assert steps < 200, "no end"
            action = self.todo.popleft()
            if isinstance(action, Prepare):
                # An attempt that was superseded is answered so; a vote that was told is told again.
                newest = max((*self.known, self.commit.attempt))
                if action.attempt < newest:
                    self.tell((action.group, Superseded(newest)))
                else:
                    told = self.told.get(action.attempt, {}).get(action.group)
                    vote = told[0] if told else yes(50 + action.group, action.attempt)
                    self.tell((action.group, vote))
            elif isinstance(action, Resolve):
                self.acknowledged.setdefault(action.attempt, set()).add(action.group)
                self.do(self.commit.resolved(action.group, action.attempt))
            elif isinstance(action, Backoff):
                self.do(self.commit.wake())
        assert len(self.verdicts) == 1
        if isinstance(self.verdicts[0], Committed):
            assert self.commit.done


def votes_of(group: int) -> list[Vote]:
    """Everything that a participant may answer to attempt 0."""
    version = 10 + group
    return [
        yes(version),
        yes(version, holds=False),
        Prepared(0, True, version, then_error=f"error {group}"),
        no(),
        no(again=False),
        Superseded(1),
        Superseded(2),
        Stale(0, "stale"),
        Reused(0, "reused"),
    ]


def scenarios(groups: int, noise: Sequence[Event]) -> Iterator[list[Event]]:
    for votes in product(*(votes_of(group) for group in range(groups))):
        yield [*enumerate(votes), *noise]


# What comes late, twice, or from attempts that are not there yet.
NOISE: list[list[Event]] = [
    [],
    [GIVE_UP],
    [(0, no(attempt=7)), (1, yes(attempt=7))],
    [(0, yes(10)), GIVE_UP],
    [(1, Superseded(0)), (1, Superseded(1))],
    [(0, no(1)), (1, yes(11, 1))],
]


@pytest.mark.parametrize("own_id", [False, True])
@pytest.mark.parametrize("noise", NOISE, ids=str)
@pytest.mark.parametrize("groups", [2, 3])
def test_every_order_of_answers(
    groups: int, noise: list[Event], own_id: bool, sizes: Sizes
) -> None:
    if groups == 3 and len(noise) > 1:
        noise = noise[:1]  # 5! orders of 729 combinations each say no more
    # Of three groups a quick run takes every fourth combination, from a drawn one on.
    step = sizes.pick(quick=4, full=1) if groups == 3 else 1
    for events in islice(scenarios(groups, noise), sizes.first_seed // 100_000 % step, None, step):
        for order in permutations(events):
            checked = Checked(groups, own_id=own_id)
            for event in order:
                checked.tell(event)
            checked.finish()


def test_all_prepared_commits_in_every_order_with_every_duplicate() -> None:
    votes: list[Event] = [(group, yes(10 + group)) for group in range(3)]
    for order in permutations([*votes, *votes]):
        checked = Checked(3, own_id=True)
        for event in order:
            checked.tell(event)
        checked.finish()
        [verdict] = checked.verdicts
        assert isinstance(verdict, Committed)
        assert verdict.version == 12
        assert checked.prepared == {0}
