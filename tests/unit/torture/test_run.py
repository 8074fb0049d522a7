"""Whole runs against a store in memory: a sound one is all right, broken ones are found out."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from overdb.cli import app
from overdb.status import GroupMembers, Member
from overdb.v1 import cluster_pb2, kv_pb2
from overdb_torture import command
from overdb_torture.command import Choice
from overdb_torture.run import Run, leaders_of
from tests.sizes import Sizes
from tests.unit.client.fake_router import FakeRouter, RouterThread
from tests.unit.client.store import Answer, Entry, Store

Break = Callable[[Store, Entry, bool], Answer | None]

LIES = 20  # of a broken store; of lost writes about one in three is found out


def choice(report: Path, endpoint: object, **changes: object) -> Choice:
    values: dict[str, object] = {
        "seconds": 3.0,
        "workload": "registers,lists,bank,counters",
        "faults": None,
        "seed": 4,
        "report": report,
        "clients": 8,
        "rate": 60.0,
        "data": None,
        "compose": None,
        "endpoint": endpoint,
        "directory": None,
    }
    return Choice(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def router(router_thread: RouterThread) -> FakeRouter:
    fake: FakeRouter = router_thread.router
    fake.scan_page_items = (
        1000  # it reads each page when it is sent: several pages are several moments
    )
    group = fake.status.groups.add(group=0, leader_id=1)
    group.replicas.add(id=1, reachable=True, role=cluster_pb2.ROLE_LEADER)
    return fake


def test_a_sound_store_is_all_right(
    router: FakeRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is enough is the verdict's own matter; how much 3 s are depends on the machine.
    monkeypatch.setattr("overdb_torture.verdict.OK_MIN", 20)
    monkeypatch.setattr("overdb_torture.verdict.READS_MIN", 5)
    assert command.run(choice(tmp_path, router.address)) == 0
    assert (tmp_path / "verdict.txt").read_text().startswith("ALL RIGHT")
    assert "All right" in (tmp_path / "index.html").read_text()
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert {line["workload"] for line in history} == {"registers", "lists", "bank", "counters"}
    assert all(line["began"] <= line["ended"] for line in history)
    assert router.store.values == {}  # a cluster of somebody's is left as it was


def test_a_router_that_does_not_know_all_groups_yet_makes_none_of_them_unknown_for_good() -> None:
    """All faults behind a restart met members at random instead of leaders."""
    second = GroupMembers(1, (Member(4, "h:4", True, False), Member(5, "h:5", True, True)))
    first = GroupMembers(0, (Member(1, "h:1", True, False),))
    assert leaders_of([second], 2) == (0, 5)
    assert leaders_of([second, first], 2) == (0, 5)
    assert leaders_of([], 2) == (0, 0)


def _lost_write(store: Store, entry: Entry, chosen: bool) -> Answer | None:
    """A chosen put is acknowledged and forgotten."""
    if entry.WhichOneof("request") != "put" or not chosen:
        return None
    return Answer(tag=entry.tag, put=kv_pb2.PutResponse(version=store.clock + 1))


def _torn_transaction(store: Store, entry: Entry, chosen: bool) -> Answer | None:
    """A chosen transaction that changes several keys loses the last change."""
    if entry.WhichOneof("request") != "transact" or not chosen:
        return None
    then = entry.transact.then
    if len(then) != 2 or then[1].WhichOneof("operation") == "get":
        return None
    torn = Entry.FromString(entry.SerializeToString())
    del torn.transact.then[1]
    answer = store.answer(torn)
    answer.transact.results.add()
    return answer


def _doubled_add(store: Store, entry: Entry, chosen: bool) -> Answer | None:
    """A chosen add is done twice: a retry that was taken for a new request."""
    if entry.WhichOneof("request") != "transact" or not chosen:
        return None
    then = entry.transact.then
    if len(then) != 1 or then[0].WhichOneof("operation") != "add":
        return None
    answer = store.answer(entry)
    again = Entry.FromString(entry.SerializeToString())
    again.transact.id.request_number += 1 << 40
    store.answer(again)
    return answer


# How rare they are in the quick size and in the full one: each so-many-th request is chosen.
_EACH: dict[Break, tuple[int, int]] = {
    _lost_write: (8, 20),
    _torn_transaction: (6, 30),
    _doubled_add: (4, 10),
}


@pytest.mark.parametrize(
    ("workload", "broken"),
    [
        ("registers", _lost_write),
        ("registers", _doubled_add),
        ("lists", _torn_transaction),
        ("bank", _torn_transaction),
        ("counters", _doubled_add),
    ],
)
def test_a_broken_store_goes_red(
    router: FakeRouter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workload: str,
    broken: Break,
    sizes: Sizes,
) -> None:
    """The load lasts until there was enough to find, and not so many seconds: a machine may be slow."""
    count = lies = 0
    quick, full = _EACH[broken]
    each = sizes.pick(quick=quick, full=full)

    def rule(entry: Entry) -> Answer | None:
        nonlocal count, lies
        count += 1
        lie = broken(router.store, entry, count % each == 0)
        lies += lie is not None
        return lie or router.store.answer(entry)

    async def wait(_: Run, seconds: float, __: asyncio.Task[None]) -> None:
        with contextlib.suppress(TimeoutError):  # then fewer must do
            async with asyncio.timeout(seconds):
                while lies < LIES:
                    await asyncio.sleep(0.05)

    router.rule = rule
    monkeypatch.setattr(Run, "_wait", wait)
    assert command.run(choice(tmp_path, router.address, workload=workload, seconds=60.0)) == 1
    verdict = (tmp_path / "verdict.txt").read_text()
    assert "FOUND" in verdict
    assert f"{workload}: WRONG" in verdict


def test_a_load_that_was_too_small_in_its_time_goes_on(
    router: FakeRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overdb_torture.run.LONGER_TIMES_MAX", 1000.0)
    assert command.run(choice(tmp_path, router.address, seconds=0.1)) == 0
    assert (tmp_path / "verdict.txt").read_text().startswith("ALL RIGHT")


def test_too_small_a_load_is_not_all_right(
    router: FakeRouter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overdb_torture.run.LONGER_TIMES_MAX", 1.0)
    assert command.run(choice(tmp_path, router.address, clients=1, rate=5.0)) == 3
    assert "operations a second, of at least 20" in capsys.readouterr().out


def test_a_cluster_that_dies_under_the_load_is_not_all_right(
    router: FakeRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overdb_torture.run.LONGER_TIMES_MAX", 1.0)
    monkeypatch.setattr("overdb_torture.run.CONVERGE_SECONDS_MAX", 0.2)
    monkeypatch.setattr("overdb_torture.run.REQUEST_SECONDS", 1.0)
    monkeypatch.setattr("overdb_torture.run._CALM_REQUEST_SECONDS", 1.0)
    puts = 0

    def rule(entry: Entry) -> Answer | None:
        nonlocal puts
        puts += entry.WhichOneof("request") == "put"
        if puts > 5:
            router.health = b"\x08\x02"
            router.status.serving = False
            return None  # no answer
        return router.store.answer(entry)

    router.rule = rule
    assert command.run(choice(tmp_path, router.address, workload="registers", seconds=2.0)) != 0
    verdict = (tmp_path / "verdict.txt").read_text()
    assert "did not recover" in verdict
    assert "of at least 20" in verdict


def test_nobody_there_is_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(choice(tmp_path, "127.0.0.1:1")) == 2
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"faults": "kill,partition"}, "kill, partition: not possible on the cluster at"),
        ({"faults": "kil"}, "no fault 'kil': there are kill, pause,"),
        ({"workload": "list"}, "no workload 'list': there are registers,"),
        ({"workload": ""}, "there are registers,"),
        ({"compose": "overdb"}, "give one of --data, --compose"),
        ({"endpoint": None, "data": Path("/nowhere")}, "no cluster runs on /nowhere"),
    ],
)
def test_wrong_usage_is_code_2_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], said: str
) -> None:
    assert command.run(choice(tmp_path, **{"endpoint": "127.0.0.1:1", **changes})) == 2
    assert said in capsys.readouterr().err


def test_without_the_package_the_command_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        return None if name == "overdb_torture" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert app.run(["torture"]) == 2
    assert "pip install 'overdb[torture]'" in capsys.readouterr().err
    assert app.run(["local", "--faults"]) == 5
    assert "pip install 'overdb[torture]'" in capsys.readouterr().err


def test_the_command_line_hands_the_options_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["torture", "--endpoint", "127.0.0.1:1", "--report", str(tmp_path / "r")]
    assert app.run([*words, "--faults", "kill"]) == 2
    assert "kill: not possible on the cluster at 127.0.0.1:1" in capsys.readouterr().err
    assert app.run([*words, "--seconds", "0"]) == 2
    assert app.run(["local", "--faults", "--groups", "7", "--data", str(tmp_path / "d")]) == 5
    assert "7 x 3 nodes, at most 20" in capsys.readouterr().err


def test_the_line_that_does_it_again() -> None:
    typed = choice(Path("x"), "h:1", faults="none", workload="bank,lists")
    assert command.command_line(typed, 99) == (
        "overdb torture --seconds 3 --seed 99 --workload bank,lists --faults none --clients 8 "
        "--rate 60 --endpoint h:1"
    )
