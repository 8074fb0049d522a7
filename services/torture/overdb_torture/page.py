"""The verdict as one HTML page that needs nothing else: no script, no font, no file beside it."""

from __future__ import annotations

import html as _html
from collections.abc import Iterable, Iterator, Sequence

from overdb_torture.recorder import Record, Tally
from overdb_torture.timeline import OUTCOMES, timeline
from overdb_torture.verdict import Code, Verdict
from overdb_torture.workloads.base import Anomaly

_ANOMALIES_MAX = 50
_EVIDENCE_LINES_MAX = 200

_STYLE = """
:root { color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1c1d1f; --soft: #5f6368; --line: #dfe1e5;
  --good: #17703a; --bad: #b3261e; --poor: #8a5a00;
  --ok: #3b78c3; --failed: #e09f3e; --maybe: #b04a8f; --fault: #c65a4b; --shade: #c65a4b14;
  --l0: #2f6f73; --l1: #8a7a2f; --l2: #6757a8; --l3: #47743b; }
@media (prefers-color-scheme: dark) { :root {
  --page: #151618; --card: #1d1f22; --ink: #e8e9eb; --soft: #a0a5ab; --line: #36393e;
  --good: #6fce93; --bad: #ff8a80; --poor: #f0bb5e;
  --ok: #5b97e0; --failed: #e0a54c; --maybe: #d07ab4; --fault: #b9584b; --shade: #ff8a8014;
  --l0: #34797d; --l1: #7f7130; --l2: #6e5fb0; --l3: #4a7a3d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h1.code-0 { color: var(--good); } h1.code-1 { color: var(--bad); } h1.code-3 { color: var(--poor); }
h2 { font-size: 17px; margin: 34px 0 10px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
dl.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 18px 0 0; }
dl.facts div { min-width: 80px; } dt { color: var(--soft); font-size: 13px; }
dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; }
.wide { overflow-x: auto; } .wide svg { display: block; min-width: 720px; width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 13px;
  color: var(--soft); margin: 0 0 8px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13px; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } .number { text-align: right; }
.word-ok { color: var(--good); } .word-wrong { color: var(--bad); } .word-undecided { color: var(--poor); }
details { margin: 8px 0; } summary { cursor: pointer; }
pre { margin: 8px 0 0; padding: 10px 12px; overflow-x: auto; background: var(--page);
  border: 1px solid var(--line); border-radius: 6px; font: 12.5px/1.45 ui-monospace, Menlo, monospace; }
code { font: 13px ui-monospace, Menlo, monospace; overflow-wrap: anywhere; }
svg text { font: 11.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .tick { fill: var(--soft); } svg .name { font-size: 12px; } svg .label { fill: #fff; }
svg .beside { fill: var(--soft); }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .ok { fill: var(--ok); } svg .failed { fill: var(--failed); } svg .maybe { fill: var(--maybe); }
svg .shade { fill: var(--shade); } svg .fault { fill: var(--fault); }
svg .missed { fill: none; stroke: var(--fault); stroke-dasharray: 4 3; }
svg g:has(.missed) .label { fill: var(--ink); }
svg .leader-0 { fill: var(--l0); } svg .leader-1 { fill: var(--l1); }
svg .leader-2 { fill: var(--l2); } svg .leader-3 { fill: var(--l3); }
"""


def html(record: Record, verdict: Verdict) -> str:
    """Return the whole page."""
    body = "\n".join(
        [
            *_head(record, verdict),
            *_anomalies(verdict.anomalies),
            *_shortfalls(verdict),
            *_picture(record),
            "<h2>Checks</h2>",
            *_table(("workload", "", "what was looked at"), (), _check_rows(verdict)),
            "<h2>Operations</h2>",
            *_table(
                ("workload", "succeeded", "did nothing", "not known", "reads", "a second"),
                (1, 2, 3, 4, 5),
                _operation_rows(record),
            ),
            *_errors(record),
            "<h2>Faults</h2>",
            *_table(("from", "to", "fault", "how", "whom", ""), (0, 1), _fault_rows(record)),
            *_again(record),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>OverDB torture: {_text(verdict.headline.lower())}</title>"
        f"<style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _head(record: Record, verdict: Verdict) -> Iterator[str]:
    headline = verdict.headline[0] + verdict.headline[1:].lower()
    yield f'<h1 class="code-{verdict.code.value}">{_text(headline)}</h1>'
    yield f'<p class="soft">overdb torture on {_text(record.title)}</p>'
    if record.interrupted:
        yield (
            f"<p><strong>Cut short</strong> after {record.seconds:.1f} of {record.seconds_wanted:g} s."
            "</p>"
        )
    tallies = record.tallies.values()
    done = sum(tally.ok for tally in tallies)
    whole = "never" if record.convergence_seconds is None else f"{record.convergence_seconds:.1f} s"
    facts = {
        "load": f"{record.seconds:.1f} s",
        "operations that succeeded": f"{done:,}",
        "a second": f"{done / record.seconds:.0f}" if record.seconds else "0",
        "outcome not known": f"{sum(tally.maybe for tally in tallies):,}",
        "faults": str(sum(not fault.problem for fault in record.faults)),
        "whole again after": whole,
        "seed": str(record.seed),
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    yield f'<dl class="facts">{cells}</dl>'


def _anomalies(anomalies: Sequence[Anomaly]) -> Iterator[str]:
    if not anomalies:
        return
    yield "<h2>Anomalies</h2>"
    for anomaly in anomalies[:_ANOMALIES_MAX]:
        where = f"<strong>{_text(anomaly.workload)}</strong>: " if anomaly.workload else ""
        lines = anomaly.evidence[:_EVIDENCE_LINES_MAX]
        shown = f"<pre>{_text(chr(10).join(lines))}</pre>" if lines else ""
        yield (
            f'<details class="card" open><summary>{where}{_text(anomaly.what)}</summary>{shown}'
            "</details>"
        )
    if len(anomalies) > _ANOMALIES_MAX:
        yield f"<p>And {len(anomalies) - _ANOMALIES_MAX} more.</p>"


def _shortfalls(verdict: Verdict) -> Iterator[str]:
    if not verdict.shortfalls:
        return
    yield "<h2>Too little</h2>" if verdict.code is Code.TOO_LITTLE else "<h2>And too little</h2>"
    yield "<ul>" + "".join(f"<li>{_text(one)}</li>" for one in verdict.shortfalls) + "</ul>"


def _picture(record: Record) -> Iterator[str]:
    yield "<h2>Over time</h2>"
    keys = [(f"var(--{name})", words) for _, name, words in OUTCOMES]
    keys.append(("var(--fault)", "fault at work (shaded above)"))
    legend = "".join(f'<span><i style="background:{c}"></i>{words}</span>' for c, words in keys)
    yield f'<div class="card"><div class="legend">{legend}</div><div class="wide">'
    yield timeline(record)
    yield "</div></div>"


def _check_rows(verdict: Verdict) -> Iterator[tuple[str, ...]]:
    for one in verdict.checked:
        word = "undecided" if one.undecided else "wrong" if one.anomalies else "ok"
        yield one.workload, f'<span class="word-{word}">{word}</span>', _text(one.note)


def _operation_rows(record: Record) -> Iterator[tuple[str, ...]]:
    for name in record.workloads:
        tally = record.tallies.get(name, Tally())
        rate = tally.ok / record.seconds if record.seconds else 0.0
        numbers = (tally.ok, tally.failed, tally.maybe, tally.reads)
        yield name, *(f"{number:,}" for number in numbers), f"{rate:.1f}"


def _errors(record: Record) -> Iterator[str]:
    if record.errors:
        said = ", ".join(f"{count} {name}" for name, count in record.errors.most_common())
        yield f'<p class="soft">What the others were told: {_text(said)}.</p>'


def _fault_rows(record: Record) -> Iterator[tuple[str, ...]]:
    for fault in record.faults:
        problem = (
            f'<span class="word-undecided">{_text(fault.problem)}</span>' if fault.problem else ""
        )
        yield (
            f"{fault.began:.1f} s",
            f"{fault.ended:.1f} s",
            fault.kind,
            _text(fault.what),
            _text(", ".join(fault.victims)),
            problem,
        )


def _again(record: Record) -> Iterator[str]:
    yield "<h2>Again</h2>"
    if record.command:
        yield f"<p><code>{_text(record.command)}</code></p>"
    yield (
        '<p class="soft">The seed decides which faults come when and what clients do; processes and '
        "networks decide the rest. Every operation is in <code>history.jsonl</code> beside this page, "
        "times in nanoseconds since the load began.</p>"
    )


def _table(
    columns: Sequence[str], right: Sequence[int], rows: Iterable[Sequence[str]]
) -> Iterator[str]:
    """``right``: the columns of numbers. Cells are HTML."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = (
            f'<{tag} class="number">{cell}</{tag}>' if i in right else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    yield '<div class="card wide"><table>' + line("th", columns)
    yield from (line("td", row) for row in rows)
    yield "</table></div>"


def _text(words: str) -> str:
    return _html.escape(words)
