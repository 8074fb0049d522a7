"""The page of a run: what it explains, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.figures import Sample
from bench.report import markdown
from bench.stores import KeyValue
from bench.targets import Target


def _open() -> KeyValue:
    raise AssertionError("nobody calls")


def _page(*names: str) -> str:
    targets = [Target(name, _open, {"node-1": 1}, "1.0", "fsynced") for name in names]
    cpu = {"client": 1.0}
    one = Sample("overdb", "get", 1, 0, 1, 100, 1.0, {}, 1.0, 2.0, 3.0, cpu, {}, 0)
    samples = [replace(one, system=name, begun=7, routed=7) for name in names]
    plots = [Path("results/throughput.png"), Path("results/throughput.svg")]
    return markdown(samples, targets, {"overdb": 100_000}, "python -m bench", plots)


def test_goals_come_first_and_processes_last() -> None:
    page = _page("overdb", "etcd-leader")
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [
        "# Results",
        "## Goals",
        "## All rows",
        "### get",
        "## Which way the calls took",
        "## Every process",
    ]
    assert "![throughput](results/throughput.png)" in page
    assert ".svg" not in page
    assert "| overdb | 1.0 | 1 | 100,000 | fsynced |" in page


def test_leases_are_explained_where_they_were_measured() -> None:
    assert "off by default" in _page("overdb", "overdb-leases")
    assert "trusts that the clocks" in _page("overdb", "overdb-leases")
    assert "off by default" not in _page("overdb", "etcd-leader")


def test_what_was_left_out_is_on_the_page_with_how_to_install_it() -> None:
    page = _page("overdb")
    assert "apt-get install etcd-server" in page
    assert page.count("run scripts/setup.sh bench") == 2
