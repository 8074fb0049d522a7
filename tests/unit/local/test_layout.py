"""Where the processes of a local cluster listen, what they keep where, and what is refused beforehand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from overdb.cli import _local_layout, local
from overdb.cli._local_layout import Layout, Refused


def silent(_: str) -> None:
    """Nobody listens."""


def test_ids_ports_and_members_follow_from_the_shape(tmp_path: Path) -> None:
    layout = Layout(tmp_path, groups=2, replicas=3, routers=2, base_port=7400)
    assert [plan.address for plan in layout.router_plans] == ["127.0.0.1:7400", "127.0.0.1:7401"]
    assert [plan.address for plan in layout.nodes] == [f"127.0.0.1:{7410 + i}" for i in range(6)]
    fifth = layout.nodes[4]
    assert fifth.environment["OVERDB_NODE_ID"] == "5"
    assert fifth.environment["OVERDB_GROUP"] == "1"
    assert fifth.environment["OVERDB_MEMBERS"] == (
        "4=127.0.0.1:7413,5=127.0.0.1:7414,6=127.0.0.1:7415"
    )
    assert fifth.environment["OVERDB_DATA"] == str(tmp_path / "node-5")
    assert fifth.metrics_address == "127.0.0.1:7514"
    assert fifth.log_file == tmp_path / "logs" / "node-5.log"


@pytest.mark.parametrize(
    ("groups", "replicas"), [(2, 3), (13, 3), (14, 3), (30, 3), (31, 3), (64, 7)]
)
def test_no_port_is_given_twice(tmp_path: Path, groups: int, replicas: int) -> None:
    layout = Layout(tmp_path, groups, replicas, routers=10, base_port=7400)
    ports = [a for plan in layout.plans for a in (plan.address, plan.metrics_address)]
    ports += [node.environment["OVERDB_DIRECT_LISTEN"] for node in layout.nodes]
    assert len(set(ports)) == len(ports) == 3 * groups * replicas + 2 * 10


def test_a_directory_with_files_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, base_port: int
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        pytest.raises(Refused, match=r"thesis\.txt"),
        Layout(tmp_path, 2, 3, 1, base_port).claim(silent),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_ports_in_use_are_named_and_nothing_is_started(tmp_path: Path, base_port: int) -> None:
    layout = Layout(tmp_path / "data", 2, 3, 1, base_port)
    with (
        socket.create_server(("127.0.0.1", base_port)),
        socket.create_server(("", base_port + 12)),
        pytest.raises(Refused, match="in use") as refused,
        layout.claim(silent),
    ):
        pass
    assert f"{base_port} (router-0), {base_port + 12} (node-3) are in use" in str(refused.value)
    assert not layout.file.exists()
    assert not (tmp_path / "data" / "logs").exists()


def test_ports_beyond_the_last_are_refused_with_the_highest_base_port(tmp_path: Path) -> None:
    with (
        pytest.raises(Refused, match="at most 65420"),
        Layout(tmp_path, 2, 3, 1, 65_500).claim(silent),
    ):
        pass
    assert (
        max(
            int(plan.metrics_address.rsplit(":", 1)[1])
            for plan in Layout(tmp_path, 2, 3, 1, 65_420).plans
        )
        == 65_535
    )


def test_another_shape_over_the_same_data_is_refused_with_the_founded_numbers(
    tmp_path: Path, base_port: int
) -> None:
    with Layout(tmp_path, 2, 3, 1, base_port).claim(silent):
        Layout(tmp_path, 2, 3, 1, base_port).write()
    for groups, replicas in ((3, 3), (2, 1)):
        layout = Layout(tmp_path, groups, replicas, 1, base_port)
        with pytest.raises(Refused, match="--groups 2 --replicas 3"), layout.claim(silent):
            pass
    with Layout(tmp_path, 2, 3, 4, base_port).claim(silent):
        pass  # routers hold nothing: any number will do


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"founded": 7}', '{"founded": {"groups": "x"}}']
)
def test_an_unreadable_founding_file_is_refused(
    tmp_path: Path, base_port: int, content: str
) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with (
        pytest.raises(Refused, match=r"cluster\.json cannot be read"),
        Layout(tmp_path, 2, 3, 1, base_port).claim(silent),
    ):
        pass


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path, base_port: int) -> None:
    (tmp_path / "file").write_text("")
    layout = Layout(tmp_path / "file" / "data", 2, 3, 1, base_port)
    with pytest.raises(Refused, match="choose another --data"), layout.claim(silent):
        pass


def test_cluster_json_says_what_runs_where(tmp_path: Path, base_port: int) -> None:
    layout = Layout(tmp_path, 2, 3, 2, base_port)
    layout.nodes[2].pid = 4711
    layout.write()
    content = json.loads(layout.file.read_text())
    assert content["supervisor_pid"] == os.getpid()
    assert [entry["name"] for entry in content["routers"]] == ["router-0", "router-1"]
    third = content["nodes"][2]
    assert third == {
        "node_id": 3,
        "group": 0,
        "replica": 2,
        "direct_address": f"127.0.0.1:{base_port + 52}",
        "data_directory": str(tmp_path / "node-3"),
        "address": f"127.0.0.1:{base_port + 12}",
        "metrics": f"http://127.0.0.1:{base_port + 112}/metrics",
        "pid": 4711,
        "log_file": str(tmp_path / "logs" / "node-3.log"),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]


def test_a_long_log_is_put_aside_and_the_last_line_is_found(
    tmp_path: Path, base_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Layout(tmp_path, 1, 1, 1, base_port).nodes[0]
    assert plan.last_line() == ""
    for text in (b"first\n", b"x" * 10_000 + b"\nsecond\n"):
        log = plan.open_log()
        os.write(log, text)
        os.close(log)
    assert plan.log_file.read_bytes().startswith(b"first")
    assert plan.last_line() == "second"
    monkeypatch.setattr(_local_layout, "LOG_BYTES_MAX", 1000)
    os.close(plan.open_log())
    assert plan.log_file.read_bytes() == b""
    assert plan.log_file.with_suffix(".log.1").read_bytes().endswith(b"second\n")


def test_the_supervisor_brings_no_grpc() -> None:
    """It idles for as long as the cluster runs, and it starts processes all the time."""
    code = (
        "import sys, overdb.cli.local\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('grpc', 'google', 'pydantic')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout.strip() == "[]"


def test_without_the_servers_libraries_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "_SERVERS_NEED", ("uvloop", "no_such_library"))
    with pytest.raises(Exception, match="5"):
        local.local(data=tmp_path / "data")
    assert "pip install 'overdb[cli,server]'" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_replaced_node_joins_under_its_new_id_at_the_same_place(tmp_path: Path) -> None:
    """And it is remembered: the next start needs no option. A second loss replaces the second one."""
    layout = Layout(tmp_path, 2, 3, 1, 7400)
    layout.write()
    again = layout.remembered().replace(["3=7"])
    before, now = layout.nodes[2], again.nodes[2]
    assert (now.name, now.address) == ("node-7", before.address)
    assert now.environment["OVERDB_NODE_ID"] == "7"
    assert now.environment["OVERDB_JOIN"] == "true"
    assert now.environment["OVERDB_DATA"].endswith("node-7")
    assert now.environment["OVERDB_MEMBERS"] == before.environment["OVERDB_MEMBERS"]
    assert again.nodes[1] == layout.nodes[1]
    again.write()
    third = Layout(tmp_path, 2, 3, 1, 7400).remembered().replace(["3=7", "7=8"])
    assert third.nodes[2].name == "node-8"


@pytest.mark.parametrize("pair", ["3", "3=x", "3=2", "9=10", "3=3", "3=0"])
def test_a_replacement_that_cannot_be_is_refused(tmp_path: Path, pair: str) -> None:
    with pytest.raises(Refused, match=f"--replace {pair}"):
        Layout(tmp_path, 2, 3, 1, 7400).replace([pair])


def test_an_id_is_not_used_twice(tmp_path: Path) -> None:
    layout = Layout(tmp_path, 2, 3, 1, 7400).replace(["3=7"])
    for pair in ("3=8", "1=7", "7=3"):
        with pytest.raises(Refused):
            layout.replace([pair])
