"""Rates and latencies against the number of callers, as PNG and SVG. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Sample, chosen

INSTALL = "plots are left out: to have them, run scripts/setup.sh bench"
_FORMATS = ("png", "svg")
_MARKS = "osD^vPX"
_ACROSS = 4  # panels, one for each workload


def draw(samples: Sequence[Sample], directory: Path) -> list[Path]:
    """Write throughput and latency; return the files. Nothing without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        print(INSTALL)
        return []
    directory.mkdir(parents=True, exist_ok=True)
    return [
        *_draw(samples, directory / "throughput", "operations a second", lambda s: s.rate),
        *_draw(samples, directory / "latency-p50", "p50, ms", lambda s: s.p50_ms),
        *_draw(samples, directory / "latency-p99", "p99, ms", lambda s: s.p99_ms),
    ]


def _draw(
    samples: Sequence[Sample], stem: Path, label: str, figure_of: Callable[[Sample], float]
) -> list[Path]:
    import matplotlib as mpl  # noqa: PLC0415  # optional, and slow to import

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415  # behind the choice of what draws

    workloads = list(dict.fromkeys(s.workload for s in samples))
    systems = list(dict.fromkeys(s.system for s in samples))
    across = min(_ACROSS, len(workloads))
    down = math.ceil(len(workloads) / across)
    size = (4 * across + 1.5, 3.1 * down + 1)
    figure, grid = plt.subplots(down, across, figsize=size, squeeze=False)
    panels = list(grid.flat)
    for axes, workload in zip(panels, workloads, strict=False):
        _panel(axes, samples, workload, systems, figure_of)
    for axes in panels[len(workloads) :]:
        axes.set_visible(False)
    figure.supylabel(label)
    figure.supxlabel("concurrent callers")
    named = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(
        [named[s] for s in systems if s in named],
        [s for s in systems if s in named],
        loc="outside upper center",
        ncols=len(named),
        frameon=False,
    )
    figure.set_layout_engine("constrained")
    paths = [stem.with_suffix(f".{form}") for form in _FORMATS]
    for path in paths:
        figure.savefig(path, dpi=110)
    plt.close(figure)
    return paths


def _panel(
    axes: Any,
    samples: Sequence[Sample],
    workload: str,
    systems: Sequence[str],
    figure_of: Callable[[Sample], float],
) -> None:
    """A line for each system: the median, and from the least to the greatest as a shade."""
    for number, system in enumerate(systems):
        callers = sorted(
            {
                s.callers
                for s in samples
                if s.workload == workload and s.system == system and s.calls
            }
        )
        rows = [
            [figure_of(s) for s in chosen(samples, system, workload, n) if s.calls] for n in callers
        ]
        if rows:
            middle = [statistics.median(row) for row in rows]
            color = f"C{number}"  # the same in all panels, as the mark
            mark = _MARKS[number % len(_MARKS)]
            axes.plot(callers, middle, marker=mark, markersize=4, label=system, color=color)
            low, high = [min(r) for r in rows], [max(r) for r in rows]
            axes.fill_between(callers, low, high, alpha=0.15, linewidth=0, color=color)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({s.callers for s in samples if s.workload == workload})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(workload)
    axes.grid(visible=True, alpha=0.3)
