"""Rates and latencies against the number of callers, as PNG and SVG. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Sample, chosen

INSTALL = "plots are left out: to have them, run scripts/setup.sh bench"
_FORMATS = ("png", "svg")
_PANELS = ("put", "get")


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

    figure, panels = plt.subplots(1, len(_PANELS), figsize=(10, 4.2), sharey=True)
    for axes, workload in zip(panels, _PANELS, strict=True):
        _panel(axes, samples, workload, figure_of)
    panels[0].set_ylabel(label)
    panels[0].legend(frameon=False)
    figure.tight_layout()
    paths = [stem.with_suffix(f".{form}") for form in _FORMATS]
    for path in paths:
        figure.savefig(path, dpi=110)
    plt.close(figure)
    return paths


def _panel(
    axes: Any, samples: Sequence[Sample], workload: str, figure_of: Callable[[Sample], float]
) -> None:
    """A line for each system: the median, and from the least to the greatest as a shade."""
    for system in dict.fromkeys(s.system for s in samples):
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
            axes.plot(callers, [statistics.median(row) for row in rows], marker="o", label=system)
            axes.fill_between(callers, [min(r) for r in rows], [max(r) for r in rows], alpha=0.15)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({s.callers for s in samples if s.workload == workload})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("concurrent callers")
    axes.set_title(workload)
    axes.grid(visible=True, alpha=0.3)
