"""The picture of a run as SVG: operations a second, the faults under them, who led each group."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overdb_torture.history import Outcome
from overdb_torture.recorder import FaultRecord, LeaderSample, Record

WIDTH = 1000  # of the drawing, in its own units; the page scales it
LEFT, RIGHT = 112, 14
CHART_HEIGHT = 180
LANE_HEIGHT, LANE_GAP = 22, 6
_TOP = 14
_HEADING = 24
_CHARACTER_WIDTH = 6.4  # of the labels, about
_X_TICKS_MAX = 12
_SAMPLE_SECONDS = 0.5
OUTCOMES = (
    (Outcome.OK, "ok", "succeeded"),
    (Outcome.FAILED, "failed", "certainly did nothing"),
    (Outcome.MAYBE, "maybe", "outcome not known"),
)


@dataclass(frozen=True)
class Scale:
    """Seconds to the right."""

    seconds: float

    def x(self, at: float) -> float:
        share = min(max(at, 0.0), self.seconds) / self.seconds
        return LEFT + share * (WIDTH - LEFT - RIGHT)


@dataclass(frozen=True)
class Leading:
    """One node led one group from ``began`` to ``ended``, seconds. Node 0: nobody, as far as is known."""

    node: int
    began: float
    ended: float


def timeline(record: Record) -> str:
    """Return the whole drawing."""
    last = max((fault.ended for fault in record.faults), default=0.0)
    scale = Scale(max(record.seconds, last, 1.0))
    parts: list[str] = []
    parts += _chart(record, scale)
    y = _TOP + CHART_HEIGHT + _HEADING
    kinds = sorted({fault.kind for fault in record.faults}, key=record.kinds.index)
    parts += _x_axis(scale, _TOP + CHART_HEIGHT)
    y += 14
    for kind in kinds:
        parts += _fault_lane(kind, [f for f in record.faults if f.kind == kind], scale, y)
        y += LANE_HEIGHT + LANE_GAP
    y += 8
    for group, stretches in enumerate(leading(record.leaders, record.seconds)):
        parts += _leader_lane(group, stretches, scale, y)
        y += LANE_HEIGHT + LANE_GAP
    parts = [*_shades(record.faults, scale, y), *parts]
    return (
        f'<svg viewBox="0 0 {WIDTH} {y + 4}" role="img" aria-label="Operations a second, faults '
        f'and leaders over time" xmlns="http://www.w3.org/2000/svg">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def leading(samples: Sequence[LeaderSample], seconds: float) -> list[list[Leading]]:
    """For each group, who led it from when to when, as the samples saw it."""
    groups = max((len(sample.leaders) for sample in samples), default=0)
    stretches: list[list[Leading]] = [[] for _ in range(groups)]
    ends = [sample.at for sample in samples[1:]] + [
        sample.at + _SAMPLE_SECONDS for sample in samples[-1:]
    ]
    for sample, ended in zip(samples, ends, strict=True):
        for group in range(groups):
            node = sample.leaders[group] if group < len(sample.leaders) else 0
            known = stretches[group]
            if known and known[-1].node == node:
                known[-1] = Leading(node, known[-1].began, min(ended, seconds))
            else:
                known.append(Leading(node, sample.at, min(ended, seconds)))
    return stretches


def nice_steps(top: float, count_max: int) -> list[float]:
    """Round numbers from 0 to about ``top``: steps of 1, 2 or 5 times a power of ten."""
    if top <= 0:
        return [0.0]
    rough = top / count_max
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)
    return [number * step for number in range(int(top / step) + 1)]


# --- parts ------------------------------------------------------------------------------------------


def _chart(record: Record, scale: Scale) -> Iterator[str]:
    """Stacked bars, one a second."""
    seconds = range(math.ceil(record.seconds))
    top = max(
        (sum(record.by_second[s].values()) for s in seconds if s in record.by_second), default=0
    )
    bottom, top = _TOP + CHART_HEIGHT, max(top, 1)
    for value in nice_steps(top, 4):
        y = bottom - value / top * CHART_HEIGHT
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        yield _text(LEFT - 8, y + 4, f"{value:g}", "end", "tick")
    yield _text(8, _TOP + 4, "operations", "start", "name")
    yield _text(8, _TOP + 19, "a second", "start", "name")
    for second in seconds:
        counts = record.by_second.get(second)
        if not counts:
            continue
        x, following = scale.x(second), scale.x(min(second + 1, record.seconds))
        gap = min(1.0, (following - x) * 0.15)
        y = float(bottom)
        for outcome, name, words in OUTCOMES:
            if not (count := counts[outcome]):
                continue
            height = count / top * CHART_HEIGHT
            y -= height
            yield (
                f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{max(following - x - gap, 0.3):.1f}" height="{height:.1f}">'
                f"<title>second {second}: {count} {words}</title></rect>"
            )


def _x_axis(scale: Scale, bottom: float) -> Iterator[str]:
    yield f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>'
    for value in nice_steps(scale.seconds, _X_TICKS_MAX):
        yield _text(scale.x(value), bottom + 16, f"{value:g} s", "middle", "tick")


def _shades(faults: Sequence[FaultRecord], scale: Scale, height: float) -> Iterator[str]:
    """Behind everything, where some fault was at work."""
    for fault in faults:
        x = scale.x(fault.began)
        width = max(scale.x(fault.ended) - x, 1.0)
        yield (
            f'<rect class="shade" x="{x:.1f}" y="{_TOP}" width="{width:.1f}" '
            f'height="{height - _TOP:.1f}"/>'
        )


def _fault_lane(kind: str, faults: Sequence[FaultRecord], scale: Scale, y: float) -> Iterator[str]:
    yield _text(8, y + 15, kind, "start", "name")
    yield _lane(y)
    limits = [scale.x(fault.began) for fault in faults[1:]] + [WIDTH]
    for fault, limit in zip(faults, limits, strict=False):
        x = scale.x(fault.began)
        width = max(scale.x(fault.ended) - x, 3.0)
        free = limit - x - width
        whom = "everybody" if len(fault.victims) > 3 else ", ".join(fault.victims)
        words = " ".join(part for part in (whom, fault.what, fault.problem) if part)
        name = "fault missed" if fault.problem else "fault"
        yield (
            f"<g><title>{_escape(f'{kind} {words}, {fault.began:.1f} to {fault.ended:.1f} s')}</title>"
            f'<rect class="{name}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LANE_HEIGHT}" rx="3"/>'
        )
        inside = _label(x, y, width, "label", words)
        beside = _label(x + width, y, free, "beside", words, whom)
        yield (inside or beside or _label(x, y, width, "label", whom)) + "</g>"


def _leader_lane(group: int, stretches: Sequence[Leading], scale: Scale, y: float) -> Iterator[str]:
    yield _text(8, y + 15, f"leader, group {group}", "start", "name")
    yield _lane(y)
    nodes = sorted({one.node for one in stretches if one.node})
    for one in stretches:
        if not one.node:
            continue
        x = scale.x(one.began)
        width = max(scale.x(one.ended) - x, 1.0)
        colour = nodes.index(one.node) % 4
        words = f"node-{one.node}"
        yield (
            f"<g><title>{words} leads group {group}, {one.began:.1f} to {one.ended:.1f} s</title>"
            f'<rect class="leader leader-{colour}" x="{x:.1f}" y="{y}" width="{max(width - 1, 1):.1f}" '
            f'height="{LANE_HEIGHT}" rx="3"/>'
        )
        yield _label(x, y, width, "label", words, str(one.node)) + "</g>"


def _lane(y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" y1="{y + LANE_HEIGHT / 2}" x2="{WIDTH - RIGHT}" '
        f'y2="{y + LANE_HEIGHT / 2}"/>'
    )


def _label(x: float, y: float, width: float, name: str, *choices: str) -> str:
    """The first of the texts that fits into the width; nothing if none does."""
    for words in choices:
        if words and len(words) * _CHARACTER_WIDTH + 8 <= width:
            return _text(x + 5, y + 15, words, "start", name)
    return ""


def _text(x: float, y: float, words: str, anchor: str, name: str) -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escape(words)}</text>'


def _escape(words: str) -> str:
    return html.escape(words, quote=True)
