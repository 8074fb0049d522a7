"""Whose the Python is."""

from __future__ import annotations

import pytest

from bench.interpreter import division, owner_of, table

RAW = """run (overdb_common/process.py);_turn (overdb_node/replica.py);apply (overdb_node/machine.py) 30
run (overdb_common/process.py);_turn (overdb_node/replica.py) 10
run (overdb_common/process.py);wait (asyncio/locks.py:210) 20
run (overdb_common/process.py);write (grpc/aio/_call.py) 40
no count here
"""


def test_samples_count_for_the_function_that_ran() -> None:
    divided = division(RAW)
    assert divided is not None
    shares = {"our code": 0.4, "asyncio": 0.2, "grpc.aio": 0.4, "metrics": 0.0, "other": 0.0}
    assert divided.shares == pytest.approx(shares)
    assert divided.functions == pytest.approx({"apply": 0.3, "_turn": 0.1})


def test_files_belong_to_whom_they_are_of() -> None:
    assert owner_of("overdb/_batch.py") == "our code"
    assert owner_of("prometheus_client/values.py") == "metrics"
    assert owner_of("threading.py") == "other"


def test_nothing_sampled_is_no_division() -> None:
    assert division("") is None


def test_the_table_has_a_line_for_each_hop_and_names_functions() -> None:
    divided = division(RAW)
    assert divided is not None
    assert table({"leader": divided})[2] == (
        "| leader | 40 | 40 | 20 | 0 | 0 | `apply` 30, `_turn` 10 |"
    )
