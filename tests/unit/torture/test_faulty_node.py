"""What a faulty node suffers: slow and full disks, wrong clocks, detours; and that it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from overdb_node.settings import NodeSettings
from overdb_torture import control, faulty_node
from overdb_torture.control import NodeFaults
from overdb_torture.faulty_node import Suffering
from tests.unit.local.supervised import wait_until


def test_an_fsync_takes_longer_until_that_is_healed(tmp_path: Path) -> None:
    suffering = Suffering()
    with (tmp_path / "file").open("wb") as file:
        for fsync in (suffering.fsync, suffering.fdatasync):
            suffering.take(NodeFaults(slow_fsync_seconds=0.1))
            began = time.monotonic()
            fsync(file.fileno())
            assert time.monotonic() - began >= 0.1
            # One that hangs for a minute is let go when the disk is well again.
            suffering.take(NodeFaults(slow_fsync_seconds=60))
            hanging = threading.Thread(target=fsync, args=(file.fileno(),), daemon=True)
            hanging.start()
            hanging.join(0.2)
            assert hanging.is_alive()
            suffering.take(NodeFaults())
            hanging.join(5)
            assert not hanging.is_alive()


def test_a_full_disk_says_so_and_one_that_refuses_writes_too(tmp_path: Path) -> None:
    suffering = Suffering()
    real = shutil.disk_usage(tmp_path)
    with (tmp_path / "file").open("wb") as file:
        suffering.take(NodeFaults(disk_reported_full=True))
        assert suffering.disk_usage(tmp_path) == (real.total, real.total, 0)
        assert suffering.pwrite(file.fileno(), b"written", 0) == 7
        suffering.take(NodeFaults(disk_refuses_writes=True))
        assert suffering.disk_usage(tmp_path).free == 0
        with pytest.raises(OSError, match="No space left") as refused:
            suffering.pwrite(file.fileno(), b"refused", 0)
        assert refused.value.errno == errno.ENOSPC
        suffering.take(NodeFaults())
        assert suffering.pwrite(file.fileno(), b"again", 2) == 5
        assert suffering.disk_usage(tmp_path).free > 0
    assert (tmp_path / "file").read_bytes() == b"wragain"


def test_a_clock_that_jumps_and_one_that_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faulty_node, "_time_ns", lambda: 1_000_000_000_000)
    monkeypatch.setattr(faulty_node, "_time", lambda: 1000.0)
    now = 50.0
    monkeypatch.setattr(faulty_node, "_monotonic", lambda: now)
    suffering = Suffering()
    assert suffering.time_ns() == 1_000_000_000_000
    suffering.take(NodeFaults(clock_offset_seconds=-30))
    assert (suffering.time_ns(), suffering.time()) == (970_000_000_000, 970.0)
    suffering.take(NodeFaults(clock_drift=0.5))
    assert suffering.time() == 1000.0
    now = 54.0
    assert suffering.time() == 1002.0


def is_timed_grpc(name: str) -> bool:
    return name.partition(".")[0] == "grpc" and hasattr(sys.modules[name], "time")


@pytest.fixture
def _restored() -> object:
    """Puts the real functions back, whatever a test has installed."""
    before = {name: getattr(os, name) for name in ("fsync", "fdatasync", "pwrite")}
    clocks = {name: getattr(time, name) for name in ("time", "time_ns")}
    usage, channel = shutil.disk_usage, grpc.aio.insecure_channel
    spared = {name: module.time for name, module in sys.modules.items() if is_timed_grpc(name)}
    yield
    for name, module_of_time in spared.items():
        setattr(sys.modules[name], "time", module_of_time)  # noqa: B010
    for module, functions in ((os, before), (time, clocks)):
        for name, function in functions.items():
            setattr(module, name, function)
    shutil.disk_usage = usage
    grpc.aio.insecure_channel = channel


@pytest.mark.usefixtures("_restored")
def test_installed_it_is_what_the_node_calls(tmp_path: Path) -> None:
    suffering = Suffering()
    suffering.install()
    suffering.take(NodeFaults(clock_offset_seconds=3600, disk_refuses_writes=True))
    assert time.time_ns() - faulty_node._time_ns() > 3_500_000_000_000
    assert shutil.disk_usage(tmp_path).free == 0
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="No space left"):
        os.pwrite(file.fileno(), b"x", 0)


@pytest.mark.usefixtures("_restored")
async def test_calls_have_the_time_that_they_were_given_however_wrong_the_clock_is() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    faulty_node.spare_grpc()
    suffering = Suffering()
    suffering.install()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/none/None")
            suffering.take(NodeFaults(clock_offset_seconds=-7200))
            with pytest.raises(grpc.aio.AioRpcError) as answered:
                await call(b"", timeout=20)
            await server.stop(None)
            suffering.take(NodeFaults(clock_offset_seconds=7200))
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await asyncio.wait_for(call(b"", timeout=0.1, wait_for_ready=True), 20)
    finally:
        await server.stop(None)
    assert answered.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.time() > faulty_node._time() + 7000


@pytest.mark.usefixtures("_restored")
def test_channels_to_other_nodes_go_through_the_proxy_and_others_do_not() -> None:
    targets: list[str] = []

    def insecure_channel(target: str, options: object = None) -> object:
        targets.append(target)
        return None

    grpc.aio.insecure_channel = insecure_channel  # type: ignore[assignment]
    faulty_node.route({"127.0.0.1:7411": "127.0.0.1:40000"})
    grpc.aio.insecure_channel("127.0.0.1:7411", options=[])
    grpc.aio.insecure_channel("127.0.0.1:7412")
    assert targets == ["127.0.0.1:40000", "127.0.0.1:7412"]


def test_settings_are_those_that_are_wished_from_the_next_start_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERDB_RETENTION_SECONDS", "3600")
    monkeypatch.setenv("OVERDB_NODE_ID", "3")
    faulty_node.take_settings(tmp_path, 3)
    assert os.environ["OVERDB_RETENTION_SECONDS"] == "3600"

    wished = {"retention_seconds": 10, "result_bytes_max": 4 << 20}
    monkeypatch.setenv("OVERDB_RESULT_BYTES_MAX", "7")  # put back behind the test
    revision = control.ask_settings(tmp_path, 3, wished)
    assert not control.is_taken(tmp_path, "settings-3", revision)
    faulty_node.take_settings(tmp_path, 4)
    assert os.environ["OVERDB_RETENTION_SECONDS"] == "3600"
    faulty_node.take_settings(tmp_path, 3)
    assert control.is_taken(tmp_path, "settings-3", revision)
    settings = NodeSettings(members="3=h:1")  # type: ignore[call-arg]  # by the environment
    assert (settings.retention_seconds, settings.result_bytes_max) == (10, 4 << 20)

    monkeypatch.setenv("OVERDB_RETENTION_SECONDS", "3600")
    control.forget_settings(tmp_path, 3)
    faulty_node.take_settings(tmp_path, 3)
    assert os.environ["OVERDB_RETENTION_SECONDS"] == "3600"
    assert not control.is_taken(tmp_path, "settings-3", revision)


def test_wishes_are_taken_at_the_start_and_whenever_they_change(tmp_path: Path) -> None:
    first = control.ask_node(tmp_path, 3, NodeFaults(disk_reported_full=True))
    suffering = Suffering()
    faulty_node.watch(tmp_path, 3, suffering)
    assert suffering.faults == NodeFaults(disk_reported_full=True)
    assert control.is_taken(tmp_path, "node-3", first)
    second = control.ask_node(tmp_path, 3, NodeFaults(slow_fsync_seconds=0.5))
    assert second == first + 1
    wait_until(lambda: control.is_taken(tmp_path, "node-3", second), "the second wish is taken", 5)
    assert suffering.faults == NodeFaults(slow_fsync_seconds=0.5)
    assert not control.is_taken(tmp_path, "node-4", 1)
