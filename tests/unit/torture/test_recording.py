"""What an answer means for the history: done, certainly not done, or nobody knows."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

import overdb
from overdb.ids import RequestId
from overdb_torture.history import Outcome
from overdb_torture.recorder import Record, Recorder
from overdb_torture.workloads.bank import Bank
from overdb_torture.workloads.base import Worker
from overdb_torture.workloads.counters import Counters
from overdb_torture.workloads.registers import OPERATIONS_PER_KEY_MAX, Registers

_ID = RequestId(b"i" * 16, 7, 1, 0)
UNKNOWN = overdb.OutcomeUnknown("no answer", request_id=_ID)


class Scripted:
    """A client whose calls end as they are told to, one after the other."""

    def __init__(self, *ends: object) -> None:
        self._ends = list(ends)
        self.request_ids: list[RequestId | None] = []

    async def _end(self, *_: object, request_id: RequestId | None = None, **__: object) -> Any:
        self.request_ids.append(request_id)
        end = self._ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end

    put = get = delete = transact = _end


def worker_of(client: Scripted, file: Path | None = None) -> Worker:
    record = Record("nothing", 1, 1.0, ("registers",), ())
    return Worker(client, Random(1), Recorder(record, file))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "outcome", "unexpected"),
    [
        (UNKNOWN, Outcome.MAYBE, 0),
        (overdb.Unavailable("nobody"), Outcome.FAILED, 0),
        (overdb.Aborted("a rival"), Outcome.FAILED, 0),
        (overdb.ResourceExhausted("full"), Outcome.FAILED, 0),
        (overdb.Internal("a bug"), Outcome.MAYBE, 1),
        (overdb.DataLoss("damage"), Outcome.MAYBE, 1),
        (overdb.InvalidArgument("ours"), Outcome.MAYBE, 1),
    ],
)
async def test_only_what_is_certain_counts_as_not_run(
    error: overdb.OverDBError, outcome: Outcome, unexpected: int
) -> None:
    worker, registers = worker_of(Scripted(error)), Registers(b"t/")
    before = worker.process
    await registers._write(worker, b"t/k")
    (written,) = registers.operations
    assert (written.process, written.outcome, written.argument) == (before, outcome, 1000)
    # It may run on for ever, and the next operation must not seem to come behind it.
    assert (written.ended is None) is (outcome is Outcome.MAYBE)
    assert (worker.process != before) is (outcome is Outcome.MAYBE)
    assert len(worker.recorder.record.unexpected) == unexpected
    tally = worker.recorder.record.tallies["registers"]
    assert (tally.ok, tally.failed, tally.maybe) == (
        0,
        outcome is Outcome.FAILED,
        outcome is Outcome.MAYBE,
    )


async def test_an_add_of_unknown_outcome_is_repeated_under_its_id_until_it_is_known() -> None:
    done = SimpleNamespace(results=[SimpleNamespace(value=b"12")], succeeded=True, version=5)
    client = Scripted(UNKNOWN, overdb.Unavailable("nobody"), UNKNOWN, done)
    worker, counters = worker_of(client), Counters(b"t/")
    await counters._add(worker, b"t/c")
    assert client.request_ids == [None, _ID, _ID, _ID]
    (added,) = counters.operations
    assert (added.outcome, added.result) == (Outcome.OK, 12)


async def test_an_add_whose_repeats_are_refused_too_may_still_have_run() -> None:
    client = Scripted(UNKNOWN, *(overdb.Unavailable("nobody") for _ in range(50)))
    worker, counters = worker_of(client), Counters(b"t/")
    await counters._add(worker, b"t/c")
    (added,) = counters.operations
    assert (added.outcome, added.ended) == (Outcome.MAYBE, None)


async def test_a_key_is_given_up_for_a_fresh_one_before_it_is_too_much_to_check() -> None:
    worker, registers = worker_of(Scripted()), Registers(b"t/")
    picked = [registers._pick(worker) for _ in range(40 * OPERATIONS_PER_KEY_MAX)]
    assert max(picked.count(key) for key in set(picked)) == OPERATIONS_PER_KEY_MAX
    assert set(picked) <= set(registers.keys())


async def test_the_history_is_one_line_for_each_operation(tmp_path: Path) -> None:
    found = overdb.Value(b"5000", 9)
    worker = worker_of(Scripted(found, None, UNKNOWN), tmp_path / "history.jsonl")
    registers = Registers(b"t/")
    await registers._read(worker, b"t/k")
    await registers._read(worker, b"t/\xff")
    await registers._write(worker, b"t/k")
    worker.recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(one["kind"], one["key"], one["result"], one["outcome"]) for one in lines] == [
        ("read", "t/k", 5000, "ok"),
        ("read", "t/\\xff", None, "ok"),
        ("write", "t/k", None, "maybe"),
    ]
    assert lines[2]["ended"] is None


@pytest.mark.parametrize(
    ("error", "unexpected"),
    [
        (overdb.ResourceExhausted("group 0: replica 1: disk full (0 MiB free)"), 1),
        (overdb.ResourceExhausted("32 calls are open on this connection"), 0),
        (overdb.Unavailable("nobody"), 0),
    ],
)
async def test_a_scan_that_a_full_disk_refuses_is_a_fault_of_the_store(
    error: overdb.OverDBError, unexpected: int
) -> None:
    class Refusing:
        def scan(self, *_: object) -> Refusing:
            return self

        def __aiter__(self) -> Refusing:
            return self

        async def __anext__(self) -> object:
            raise error

    worker = worker_of(Refusing())  # type: ignore[arg-type]
    await Bank(b"t/")._look_at_snapshot(worker)
    assert len(worker.recorder.record.unexpected) == unexpected
