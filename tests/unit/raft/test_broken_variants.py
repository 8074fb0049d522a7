"""Tests of the tests: each deliberate break of the core turns a named check red.

``RULES`` names a paper test that must fail on the variant, ``SCHEDULES`` the variants that random
schedules catch too, and by which check. The others want an order of events that is too rare for
seeds: they are why the tests of single rules exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest

from overdb_node.raft.errors import ProtocolViolation
from tests.paper import (
    test_disk_and_log,
    test_elections,
    test_leader_and_answers,
    test_leadership_transfer,
    test_membership,
    test_pre_vote_and_check_quorum,
    test_reads,
    test_replication,
    test_snapshot_chunks,
    test_snapshots,
)
from tests.paper.helpers import append
from tests.sizes import Sizes
from tests.unit.raft import variants
from tests.unit.raft.simulator import first_red_seed

Variant = Callable[[pytest.MonkeyPatch], None]
Rule = Callable[[], None]

SCHEDULES_STEPS = 3000
SEEDS_MAX = 1600
# A seed that turns a variant red, where many are green: quick runs begin with it.
KNOWN = {"read_round_not_new": 1220, "snapshot_keeps_a_conflicting_tail": 168}

RULES: list[tuple[Variant, Rule]] = [
    (
        variants.vote_not_saved,
        test_elections.test_killed_right_after_granting_it_gives_no_second_vote,
    ),
    (variants.words_before_disk, test_elections.test_a_vote_is_on_disk_before_it_is_said),
    (
        variants.words_before_disk,
        test_elections.test_a_vote_request_leaves_after_the_fsync_of_term_vote_and_log,
    ),
    (
        variants.own_vote_counted_early,
        test_elections.test_the_own_vote_counts_only_once_it_is_on_disk,
    ),
    (
        variants.own_vote_counted_early,
        test_elections.test_with_the_own_vote_in_flight_one_other_of_three_is_no_majority,
    ),
    (
        variants.own_copy_counted_early,
        test_replication.test_the_leaders_own_copy_counts_only_once_it_is_on_disk,
    ),
    (
        variants.cut_leaves_durable,
        test_disk_and_log.test_the_end_of_a_fsync_does_not_make_durable_what_was_cut_meanwhile,
    ),
    (
        variants.old_terms_commit_by_counting,
        test_replication.test_an_entry_of_an_older_term_is_not_committed_by_counting,
    ),
    (variants.no_no_op, test_replication.test_a_new_leader_begins_with_a_no_op),
    (
        variants.any_log_gets_the_vote,
        partial(
            test_elections.test_only_a_candidate_with_an_up_to_date_log_gets_the_vote,
            "1.1 2.2",
            "1.9",
            False,
        ),
    ),
    (
        variants.pre_vote_off,
        test_pre_vote_and_check_quorum.test_an_isolated_replica_keeps_its_term_for_ever,
    ),
    (
        variants.check_quorum_off,
        test_pre_vote_and_check_quorum.test_a_leader_without_a_quorum_steps_down,
    ),
    (
        variants.always_cut,
        partial(
            test_replication.test_a_delayed_shorter_append_removes_nothing, append(2, 2, "2.2")
        ),
    ),
    (
        variants.below_commit_is_a_difference,
        test_replication.test_entries_at_or_below_the_commit_index_are_skipped,
    ),
    (
        variants.heartbeat_moves_commit,
        test_replication.test_a_heartbeat_does_not_move_the_commit_index_of_a_log_that_does_not_match,
    ),
    (
        variants.agreed_kept_over_a_vote,
        partial(
            test_replication.test_agreed_is_forgotten_too_when_the_term_was_adopted_before_its_leader_spoke,
            "vote",
        ),
    ),
    (variants.agreed_kept_over_a_restart, test_replication.test_a_restart_forgets_agreed),
    (
        variants.answer_before_fsync,
        test_replication.test_a_heartbeats_answer_says_no_more_than_is_durable,
    ),
    (
        variants.answers_of_any_term_count,
        test_leader_and_answers.test_answers_of_another_term_count_for_nothing,
    ),
    (variants.match_falls, test_leader_and_answers.test_match_never_falls),
    (
        variants.next_never_falls,
        partial(test_leader_and_answers.test_next_follows_the_answer_also_below_match, False),
    ),
    (
        variants.refusals_count_for_match,
        test_leader_and_answers.test_a_refusal_does_not_count_for_match,
    ),
    (
        variants.tripwire_off,
        test_leader_and_answers.test_an_answer_that_contradicts_the_leaders_log_raises_the_alarm,
    ),
    (
        variants.install_without_second_test,
        test_snapshot_chunks.test_it_is_tested_again_when_the_last_chunk_is_in,
    ),
    (
        variants.snapshot_keeps_a_conflicting_tail,
        test_snapshot_chunks.test_over_a_conflicting_log_the_snapshot_drops_it,
    ),
    (
        variants.snapshot_drops_a_matching_tail,
        test_snapshot_chunks.test_over_a_matching_log_the_snapshot_keeps_the_tail,
    ),
    (
        variants.compacted_while_streamed,
        test_snapshots.test_the_log_is_not_compacted_while_its_first_element_is_streamed,
    ),
    (
        variants.read_without_own_term_commit,
        test_reads.test_a_new_leader_serves_no_read_before_it_committed_in_its_term,
    ),
    (variants.read_round_not_new, test_reads.test_an_answer_of_an_older_round_does_not_count),
    (
        variants.read_round_not_new,
        test_reads.test_a_read_that_comes_during_a_round_takes_the_next_one,
    ),
    (variants.reads_survive_the_leader, test_reads.test_a_deposed_leader_never_answers),
    (
        variants.answers_of_any_term_count,
        test_reads.test_an_answer_of_another_term_does_not_count,
    ),
    (
        variants.transfer_never_given_up,
        test_leadership_transfer.test_an_interrupted_transfer_leaves_a_leader_that_takes_writes,
    ),
    (variants.duplicated_votes_count, test_elections.test_a_duplicated_vote_counts_once),
    (
        variants.vote_dropped_when_stepping_down,
        test_elections.test_a_candidate_that_steps_down_in_its_own_term_keeps_its_vote,
    ),
    (
        variants.members_at_apply,
        test_membership.test_the_newest_configuration_in_the_log_counts_committed_or_not,
    ),
]

SCHEDULES: list[tuple[Variant, str]] = [
    (variants.vote_not_saved, "unwritten vote"),
    (variants.words_before_disk, "unwritten"),
    (variants.own_vote_counted_early, "leads in a term that is not on its disk"),
    (variants.own_copy_counted_early, "have it on disk"),
    (variants.no_no_op, "not healed"),
    (variants.any_log_gets_the_vote, "misses the committed entry"),
    (variants.always_cut, "have it on disk"),
    (variants.below_commit_is_a_difference, "contradicts the committed entry"),
    (variants.heartbeat_moves_commit, "applied"),
    (variants.agreed_kept_over_a_vote, "applied|same everywhere|the newest is"),
    (
        variants.agreed_kept_over_a_restart,
        "have it on disk|a false alarm of the tripwire|not healed",
    ),
    (variants.answer_before_fsync, "acknowledged what is not on its disk"),
    (variants.next_never_falls, "messages without end"),
    (variants.snapshot_keeps_a_conflicting_tail, "not the same everywhere"),
    (variants.read_without_own_term_commit, "a stale read"),
    (variants.read_round_not_new, "a stale read"),
    (variants.duplicated_votes_count, "two leaders|not healed"),
]


def name_of(value: object) -> str:
    function = value.func if isinstance(value, partial) else value
    return getattr(function, "__name__", "").removeprefix("test_")


def red(rule: Rule) -> BaseException | None:
    """How the rule's test fails; None if it passes."""
    try:
        rule()
    except (AssertionError, ProtocolViolation) as error:
        return error
    return None


@pytest.mark.parametrize(("variant", "rule"), RULES, ids=name_of)
def test_a_break_turns_the_test_of_its_rule_red(
    variant: Variant, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert red(rule) is None, "green on the whole core"
    variant(monkeypatch)
    assert red(rule) is not None


@pytest.mark.parametrize(("variant", "check"), SCHEDULES, ids=name_of)
def test_a_break_turns_random_schedules_red(
    variant: Variant, check: str, monkeypatch: pytest.MonkeyPatch, sizes: Sizes
) -> None:
    variant(monkeypatch)
    seeds = sizes.from_known(KNOWN.get(name_of(variant), 0), SEEDS_MAX)
    found = first_red_seed(seeds, SCHEDULES_STEPS)
    assert found is not None, f"{SEEDS_MAX} seeds do not notice {name_of(variant)}"
    seed, error = found
    assert re.search(check, f"{type(error).__name__} {error}"), f"seed {seed}: {error!r}"
