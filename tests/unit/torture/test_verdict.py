"""All right only if enough happened; an anomaly is one however little happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from overdb_torture import report
from overdb_torture.recorder import Record, Tally
from overdb_torture.verdict import Code, judge
from overdb_torture.workloads.base import Checked
from tests.unit.torture.runs import bad_checks, good_checks, good_record

Change = Callable[[Record], None]


def test_enough_of_everything_and_nothing_wrong_is_all_right() -> None:
    verdict = judge(good_record(), good_checks())
    assert (verdict.code, verdict.anomalies, verdict.shortfalls) == (Code.ALL_RIGHT, (), ())


def _idle(record: Record) -> None:
    record.seconds = record.seconds_wanted = 2000 / 19.9  # operations a second


def _few(record: Record) -> None:
    record.tallies["bank"] = Tally(ok=99, reads=50)


def _blind(record: Record) -> None:
    record.tallies["bank"] = Tally(ok=5000, reads=9)


def _dead(record: Record) -> None:
    record.tallies.clear()


def _lost(record: Record) -> None:
    record.tallies["registers"] = Tally(ok=1000, maybe=2000, reads=400)


def _gentle(record: Record) -> None:
    record.faults = record.faults[:1]


def _failed_fault(record: Record) -> None:
    record.faults[1] = replace(record.faults[1], problem="nobody took links-wanted.json")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_idle, "19.9 operations a second"),
        (_few, "bank: 99 operations succeeded"),
        (_blind, "bank: 9 reads"),
        (_dead, "registers: 0 operations succeeded"),
        (_lost, "registers: 2000 of 3000 operations have no known outcome"),
        (_gentle, "partition: none was carried out (no time was left for it)"),
        (_failed_fault, "partition: none was carried out (nobody took links-wanted.json)"),
    ],
)
def test_too_little_is_code_3_and_says_of_what(change: Change, what: str) -> None:
    record = good_record()
    change(record)
    verdict = judge(record, good_checks())
    assert verdict.code is Code.TOO_LITTLE
    assert int(verdict.code) == 3
    assert any(what in one for one in verdict.shortfalls), verdict.shortfalls
    assert "TOO LITTLE" in report.text(record, verdict)


def test_a_check_that_is_missing_or_did_not_end_is_too_little() -> None:
    checks = good_checks()
    verdict = judge(good_record(), checks[:1])
    assert (verdict.code, verdict.shortfalls) == (Code.TOO_LITTLE, ("bank: was not checked",))
    undecided = Checked("bank", [], "it took too long", undecided=True)
    verdict = judge(good_record(), [checks[0], undecided])
    assert verdict.code == Code.TOO_LITTLE
    assert "undecided" in verdict.shortfalls[0]


def test_an_anomaly_is_code_1_also_when_the_load_was_too_small() -> None:
    record = good_record()
    _dead(record)
    verdict = judge(record, bad_checks())
    assert verdict.code is Code.ANOMALY
    assert int(verdict.code) == 1
    text = report.text(record, verdict)
    assert "1 ANOMALY FOUND" in text
    assert "key k&1 is not linearizable" in text
    assert "process 5 reads 6 behind it" in text
    assert "And too little" in text


def test_not_to_recover_and_an_error_without_reason_are_anomalies() -> None:
    record = good_record()
    record.not_converged = "after 60 s group 1 has no leader"
    assert judge(record, good_checks()).code == Code.ANOMALY
    record = good_record()
    record.unexpected.append("bank: Internal: a bug")
    verdict = judge(record, good_checks())
    assert verdict.code == Code.ANOMALY
    assert "bank: Internal: a bug" in verdict.anomalies[0].what


@pytest.mark.parametrize("checks", [good_checks(), bad_checks()])
def test_the_text_fits_80_columns_and_says_what_was_done(checks: list[Checked]) -> None:
    record = good_record()
    record.title = "the processes of " + "/a-long-directory" * 3
    record.faults[0] = replace(record.faults[0], what="with other settings, " * 5 + "until healed")
    text = report.text(record, judge(record, checks))
    assert max(len(line) for line in text.splitlines()) <= 80
    for said in (
        "seed 7",
        "2 faults",
        "partition apart",
        "node-2, node-4",
        "until healed",
        "whole again after 0.4 s",
    ):
        assert said in text


def test_a_run_that_was_cut_short_says_so() -> None:
    record = good_record()
    record.interrupted, record.seconds_wanted = True, 60.0
    assert "cut short of 60 s" in report.text(record, judge(record, good_checks()))
