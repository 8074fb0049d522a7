"""How samples divide among libraries and hops."""

from __future__ import annotations

import pytest

from bench.figures import Sample
from bench.profile import hops, part_of, shares

REPORT = """# a comment
    30.00%;  101:python       ;libpython3.11.so.1.0
    10.00%;  101:python       ;[kernel.kallsyms]
     5.00%;  202:python       ;cygrpc.cpython-311-x86_64-linux-gnu.so
     5.00%;  203:event_engine ;libc.so.6
"""


def test_samples_divide_within_each_process() -> None:
    assert shares(REPORT, {101: 101, 202: 202, 203: 202}) == {
        101: pytest.approx({"Python": 0.75, "kernel": 0.25}),
        202: pytest.approx({"gRPC": 0.5, "other": 0.5}),
    }


def test_libraries_have_their_columns() -> None:
    assert part_of("rocksdict.cpython-311-x86_64-linux-gnu.so") == "RocksDB"
    assert part_of("libc.so.6") == "other"


def test_a_replica_is_charged_for_the_operations_of_its_group() -> None:
    cpu = {
        "client": 1.0,
        "router-0": 2.0,
        "node-1": 1.0,
        "node-2": 0.5,
        "node-3": 1.0,
        "node-4": 0.5,
    }
    sample = Sample("overdb", "put", 1, 0, 1, 1000, 1.0, {}, 1, 1, 1, cpu, {}, 0)
    pids = {name: number for number, name in enumerate(cpu)}
    divided = {pid: {"Python": 1.0} for pid in pids.values()}
    lines = hops(sample, pids, {"node-1", "node-3"}, divided)
    first = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines]
    assert first == [
        ["client", "1000.0", "1000.0"],
        ["router", "2000.0", "2000.0"],
        ["leader", "2000.0", "2000.0"],
        ["follower", "1000.0", "1000.0"],
    ]
