"""``overdb txn status`` and ``overdb transactions``: what they print and how they end."""

from __future__ import annotations

import pytest

from overdb.v1 import cluster_pb2
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_cli import objects, on_a_terminal, refused
from tests.unit.client.fake_router import RouterThread, refusal
from tests.unit.client.store import Answer, Entry

ID, OTHER = b"\x01\xa2" * 8, b"\x01\xa3" * 8
NAME, OTHER_NAME = ID.hex() + "/7", OTHER.hex() + "/12345"


def open_ones() -> cluster_pb2.TransactionsResponse:
    told = cluster_pb2.TransactionsResponse()
    group = told.groups.add(group=0, reachable=True, count=1500)
    one = group.transactions.add(attempt=1, state="STATE_PREPARED", age_us=1_250_000, key_count=20)
    one.id.client_id, one.id.request_number = ID, 7
    one.participants.extend((0, 1))
    one.keys.extend((b"accounts/ann", b"\xff", b"c", b"d"))
    two = group.transactions.add(
        state="STATE_WAITING", age_us=300_000_000, key_count=1, keys=[b"k"]
    )
    two.id.client_id, two.id.request_number = OTHER, 12345
    two.participants.extend((0, 1))
    two.waits_for.add(client_id=ID, request_number=7)
    told.groups.add(group=1, reachable=True)
    return told


def show(router_thread: RouterThread, told: cluster_pb2.TransactionsResponse) -> None:
    router_thread.do(lambda: setattr(router_thread.router, "transactions", told))


def test_open_transactions_in_a_pipe_are_a_line_each(run: Run, router_thread: RouterThread) -> None:
    assert run("transactions").stdout == b""
    told = open_ones()
    show(router_thread, told)
    done = run("transactions")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        f"group 0\t{NAME}\tprepared\tage 1.250 s\tkeys accounts/ann \\xff c +17\twaits for -",
        f"group 0\t{OTHER_NAME}\twaiting\tage 5.0 min\tkeys k\twaits for {NAME}",
    ]
    first, second = objects(run("transactions", "--json"))
    assert second == {"group": 1, "reachable": True, "count": 0, "transactions": []}
    assert first["count"] == 1500
    assert first["transactions"][1] == {  # type: ignore[index]
        "id": OTHER_NAME,
        "attempt": 0,
        "state": "waiting",
        "age_us": 300_000_000,
        "participants": [0, 1],
        "keys": ["k"],
        "key_count": 1,
        "waits_for": [NAME],
    }
    assert len(objects(run("transactions", "--group", "1", "--json"))) == 1
    refused(run("transactions", "--group", "7"), 5, "no group 7")
    refused(run("transactions", "--group", "-1"), 2, "--group")
    told.groups[1].reachable = False
    show(router_thread, told)
    without = run("transactions")
    assert without.returncode == 3
    assert without.stdout.decode().splitlines()[-1] == "group 1: no leader answers"


def test_open_transactions_on_a_terminal_fit_80_columns(router_thread: RouterThread) -> None:
    show(router_thread, open_ones())
    shown = on_a_terminal("-e", router_thread.router.address, "transactions")
    assert "group 0: 1500 open (the oldest 2 are shown)" in shown
    assert "group 1: none open" in shown
    assert NAME in shown
    assert OTHER_NAME in shown
    (waiting,) = (line.split() for line in shown.splitlines() if "waiting" in line)
    assert waiting == ["#2", "waiting", "5.0", "min", "0,1", "#1", OTHER_NAME]
    assert max(len(line) for line in shown.splitlines()) <= 80, shown


def test_what_became_of_a_lost_answer_is_asked_with_its_id(
    run: Run, router_thread: RouterThread
) -> None:
    store = router_thread.router.store

    def lost(entry: Entry) -> Answer:
        store.answer(entry)
        return refusal(entry, 13, "lost by the test")

    router_thread.do(lambda: setattr(router_thread.router, "rule", lost))
    unknown = run("txn", given=b"then\n add n 5\n get none\n")
    assert unknown.returncode == 4
    ((client_id, number),) = store.results
    name = f"{client_id.hex()}/{number}"
    refused(unknown, 4, f"overdb txn status {name}")
    done = run("txn", "status", name)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        "committed",
        f"then ran at version {store.clock}",
        f"1\tno\t5\t{store.clock}",
        "2\tno\t\t0",
    ]
    (told,) = objects(run("txn", "status", name, "--json"))
    assert (told["id"], told["state"], told["branch"]) == (name, "committed", "then")
    shown = on_a_terminal("-e", router_thread.router.address, "txn", "status", name)
    assert shown.split()[0] == "committed"
    assert max(len(line) for line in shown.splitlines()) <= 80, shown


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("STATUS_ABORTED", 1, "aborted: it did nothing and never will"),
        ("STATUS_OPEN", 4, "open: not decided yet, ask again"),
        ("STATUS_UNKNOWN", 4, "unknown: never seen, or forgotten; it may have run"),
    ],
)
def test_other_states_have_their_exit_code(
    run: Run, router_thread: RouterThread, state: str, code: int, words: str
) -> None:
    router_thread.do(lambda: router_thread.router.states.update({(ID, 7): state}))
    done = run("txn", "status", NAME)
    assert (done.returncode, done.stdout.decode()) == (code, words + "\n")
    assert objects(run("txn", "status", NAME, "--json")) == [
        {"id": NAME, "state": state.removeprefix("STATUS_").lower()}
    ]


def test_wrong_ids_and_arguments_are_told(run: Run) -> None:
    refused(run("txn", "status", "nonsense"), 2, "expected 32 hexadecimal digits, a slash")
    refused(run("txn", "status"), 2, "expected an ID behind it")
    refused(run("txn", "file", "more"), 2, 'unexpected "more"')
    lines = f"txn status {NAME}\ntransactions\n".encode()
    done = run("shell", given=lines)
    assert (done.returncode, done.stdout) == (
        0,
        b"unknown: never seen, or forgotten; it may have run\n",
    )
    for name in ("txn", "transactions"):
        shown = run(name, "--help").stdout.decode()
        assert max(len(line) for line in shown.splitlines()) <= 80, shown
