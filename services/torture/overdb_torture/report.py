"""The verdict as text, for a terminal of 80 columns and for ``verdict.txt``."""

from __future__ import annotations

import textwrap

from overdb_torture.recorder import Record
from overdb_torture.verdict import Code, Verdict

COLUMNS = 80
_ANOMALIES_SHOWN_MAX = 10
_EVIDENCE_LINES_MAX = 12


def text(record: Record, verdict: Verdict) -> str:
    """The whole verdict."""
    lines = [verdict.headline, ""]
    lines += _paragraphs(_summary(record))
    lines += ["", "  workload     ok      failed  unknown  reads   ok a second"]
    for name in record.workloads:
        if (tally := record.tallies.get(name)) is None:
            continue
        rate = tally.ok / record.seconds if record.seconds else 0.0
        lines.append(
            f"  {name:<11}{tally.ok:>7} {tally.failed:>9} {tally.maybe:>8} {tally.reads:>6} {rate:>12.1f}"
        )
    lines += ["", *_faults(record)]
    lines += ["", *_checks(verdict)]
    if verdict.anomalies:
        lines += ["", "Anomalies"]
        for anomaly in verdict.anomalies[:_ANOMALIES_SHOWN_MAX]:
            where = f"{anomaly.workload}: " if anomaly.workload else ""
            lines += _paragraphs([where + anomaly.what], "  - ", "    ")
            for line in anomaly.evidence[:_EVIDENCE_LINES_MAX]:
                lines += _paragraphs([line], "      ", "        ")
        left = len(verdict.anomalies) - _ANOMALIES_SHOWN_MAX
        lines += [f"  and {left} more"] if left > 0 else []
    if verdict.shortfalls:
        lines += ["", "Too little" if verdict.code is Code.TOO_LITTLE else "And too little"]
        lines += _paragraphs(verdict.shortfalls, "  - ", "    ")
    return "\n".join(lines) + "\n"


def _summary(record: Record) -> list[str]:
    cut = f", cut short of {record.seconds_wanted:g} s" if record.interrupted else ""
    carried_out = sum(not fault.problem for fault in record.faults)
    sentences = [
        f"{record.seconds:.1f} s{cut} of load on {record.title}, seed {record.seed}; "
        f"{carried_out} faults."
    ]
    if record.convergence_seconds is not None:
        sentences.append(
            f"With everything healed it was whole again after {record.convergence_seconds:.1f} s."
        )
    if record.command:
        sentences.append(f"Again: {record.command}")
    return sentences


def _faults(record: Record) -> list[str]:
    if not record.faults:
        return ["No faults"]
    lines = ["Faults"]
    for fault in record.faults:
        what = f"{fault.kind} {fault.what}".strip()
        whom = ", ".join(fault.victims) if len(fault.victims) < 4 else "all processes"
        when = f"  {fault.began:6.1f} to {fault.ended:6.1f} s  "
        lines += _paragraphs([f"{what:<28} {whom}"], when, " " * 24)
        if fault.problem:
            lines += _paragraphs([f"not carried out: {fault.problem}"], " " * 24, " " * 24)
    return lines


def _checks(verdict: Verdict) -> list[str]:
    lines = ["Checks"]
    for one in verdict.checked:
        word = "undecided" if one.undecided else "WRONG" if one.anomalies else "ok"
        lines += _paragraphs([f"{one.workload}: {word}. {one.note}"], "  ", "    ")
    return lines


def _paragraphs(sentences: object, first: str = "", rest: str = "") -> list[str]:
    assert isinstance(sentences, list | tuple)
    lines: list[str] = []
    for sentence in sentences:
        lines += textwrap.wrap(sentence, COLUMNS, initial_indent=first, subsequent_indent=rest) or [
            ""
        ]
    return lines
