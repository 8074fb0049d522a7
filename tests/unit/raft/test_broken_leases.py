"""Each deliberate break of the leases turns the test of its rule red."""

from __future__ import annotations

from functools import partial

import pytest

from tests.paper import test_leases as rules
from tests.unit.raft import lease_variants as broken
from tests.unit.raft.test_broken_variants import Rule, Variant, name_of, red

RULES: list[tuple[Variant, Rule]] = [
    (
        broken.lease_never_expires,
        rules.test_a_leader_that_stood_still_does_not_answer_from_an_old_lease,
    ),
    (broken.old_time, rules.test_a_leader_that_stood_still_does_not_answer_from_an_old_lease),
    (
        broken.begins_with_the_answer,
        rules.test_the_lease_begins_when_the_round_was_begun_not_when_it_was_answered,
    ),
    (broken.any_round_counts, rules.test_an_answer_proves_no_more_than_the_round_it_names),
    (broken.all_answers_promise, rules.test_who_promises_nothing_does_not_count),
    (broken.own_timeout_for_all, rules.test_the_quorum_lasts_as_long_as_its_shortest_promise),
    (broken.one_promise_will_do, partial(rules.test_a_lease_takes_a_quorum_of_promises, 5, 2)),
    (
        broken.lease_before_the_own_commit,
        rules.test_no_lease_before_the_own_term_has_committed,
    ),
    (
        broken.lease_outlives_a_transfer,
        rules.test_a_transfer_ends_the_lease_for_the_rest_of_the_term,
    ),
    (
        broken.lease_ends_with_the_transfer_only,
        rules.test_a_transfer_ends_the_lease_for_the_rest_of_the_term,
    ),
    (broken.lease_outlives_the_term, rules.test_a_lease_does_not_outlive_its_term),
    (
        broken.lease_survives_a_change_of_members,
        rules.test_a_change_of_the_members_ends_the_lease_until_a_round_behind_it,
    ),
    (broken.learners_count, rules.test_a_learners_promise_does_not_count_and_a_new_voters_does),
    (broken.promise_not_kept, rules.test_a_newer_term_takes_no_promise_back),
    (broken.promise_ends_with_the_leader, rules.test_a_newer_term_takes_no_promise_back),
    (broken.promise_forgotten_at_a_restart, rules.test_a_restart_takes_no_promise_back),
    (
        broken.note_of_the_earlier_life_ignored,
        rules.test_a_restart_with_leases_off_keeps_the_promise_of_the_life_before,
    ),
    (
        broken.note_of_the_earlier_life_ignored,
        rules.test_who_has_promised_does_not_campaign_even_if_its_timer_says_so,
    ),
]


@pytest.mark.parametrize(("variant", "rule"), RULES, ids=name_of)
def test_a_break_turns_the_test_of_its_rule_red(
    variant: Variant, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert red(rule) is None, "green on the whole core"
    variant(monkeypatch)
    assert red(rule) is not None
