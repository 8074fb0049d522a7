"""Plots are made: a panel for each workload, in both formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import plots
from bench.figures import Sample
from bench.workloads import ROWS

FILES = [
    f"{name}.{form}"
    for name in ("throughput", "latency-p50", "latency-p99")
    for form in ("png", "svg")
]


def samples() -> list[Sample]:
    cpu = {"client": 1.0}
    one = Sample("overdb", "get", 1, 0, 1, 100, 1.0, {}, 1.0, 2.0, 3.0, cpu, {}, 0)
    rows = [replace(one, workload=w, callers=n, calls=100 * n) for w, n in ROWS]
    return [*rows, replace(one, system="etcd-leader"), replace(one, system="x", calls=0)]


def test_every_workload_has_a_panel_and_every_system_that_answered_a_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = plots.draw(samples(), tmp_path)
    assert [path.name for path in made] == FILES
    assert all(path.stat().st_size > 1000 for path in made)
    drawing = (tmp_path / "throughput.svg").read_text()
    for workload in {w for w, _ in ROWS}:
        assert f"<!-- {workload} -->" in drawing
    assert "<!-- etcd-leader -->" in drawing
    assert "<!-- x -->" not in drawing, "it answered nothing"


def test_one_workload_is_drawn_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert len(plots.draw(samples()[:2], tmp_path)) == len(FILES)


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert plots.draw(samples(), tmp_path) == []
    assert "scripts/setup.sh bench" in capsys.readouterr().out
