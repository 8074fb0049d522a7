"""``overdb members``: what is sent, what is printed, how it ends."""

from __future__ import annotations

import json

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]

from overdb.v1 import cluster_pb2
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_router import RouterThread

ADDRESS = "127.0.0.1:7499"


def refuse(thread: RouterThread, reason: str, message: str, times: int = 1) -> None:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="overdb"))
    refused = status_pb2.Status(
        code=code_pb2.FAILED_PRECONDITION, message=message, details=[packed]
    )
    thread.do(lambda: thread.router.refusals.extend([refused] * times))


def test_members_are_listed(run: Run) -> None:
    assert run("members").stdout == b"0\t1\t127.0.0.1:7410\tleader\n"
    one = json.loads(run("members", "--json").stdout)
    assert one == {"group": 0, "id": 1, "address": "127.0.0.1:7410", "role": "leader"}
    assert run("members", "--group", "9").returncode == 5


def test_each_change_sends_its_request_and_prints_the_members(
    run: Run, router_thread: RouterThread
) -> None:
    group = ("--group", "0", "--id", "7")
    done = run("members", "add", *group, "--address", ADDRESS)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"0\t1\t127.0.0.1:7410\tleader\n"
    assert run("members", "promote", *group).returncode == 0
    assert run("members", "remove", *group, "--force").returncode == 0
    done = run("members", "transfer", "--group", "0", "--to", "3")
    assert done.stdout == b"replica 3 leads group 0\n"
    assert router_thread.router.administered == [
        cluster_pb2.AddMemberRequest(group=0, id=7, address=ADDRESS),
        cluster_pb2.PromoteMemberRequest(group=0, id=7),
        cluster_pb2.RemoveMemberRequest(group=0, id=7, force=True),
        cluster_pb2.TransferLeadershipRequest(group=0, to=3),
    ]


def test_a_refusal_is_one_line_and_exit_code_5(run: Run, router_thread: RouterThread) -> None:
    refuse(router_thread, "QUORUM_AT_RISK", "group 0: no majority would be left")
    done = run("members", "remove", "--group", "0", "--id", "2")
    assert (done.returncode, done.stdout) == (5, b"")
    assert done.stderr == b"overdb: group 0: no majority would be left\n"


def test_wait_tries_again_while_it_lags_and_for_nothing_else(
    run: Run, router_thread: RouterThread
) -> None:
    promote = ("members", "promote", "--group", "0", "--id", "7")
    refuse(router_thread, "NOT_CAUGHT_UP", "lags", times=2)
    assert run(*promote).returncode == 5
    refuse(router_thread, "NOT_CAUGHT_UP", "lags")
    assert run(*promote, "--wait").returncode == 0
    refuse(router_thread, "NO_SUCH_MEMBER", "nobody")
    assert run(*promote, "--wait").returncode == 5


def test_what_is_missing_is_told_before_anything_is_sent(
    run: Run, router_thread: RouterThread
) -> None:
    for words in (("add",), ("promote", "--group", "0"), ("remove", "--group", "0", "--id", "0")):
        done = run("members", *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    assert router_thread.router.administered == []


def test_help_fits_80_columns(run: Run) -> None:
    for words in ((), ("add",), ("promote",), ("remove",), ("transfer",)):
        done = run("members", *words, "--help")
        assert done.returncode == 0
        assert max(map(len, done.stdout.decode().splitlines())) <= 80
