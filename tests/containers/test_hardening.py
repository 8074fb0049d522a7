"""What a container of ours may do, and how it ends."""

from __future__ import annotations

import pytest
from docker.models.containers import Container

from tests.containers.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

IMAGE_BYTES_MAX = 250_000_000


def shell(container: Container, command: str) -> tuple[int, str]:
    code, output = container.exec_run(["sh", "-c", command])
    assert code is not None
    assert isinstance(output, bytes)
    return code, output.decode().strip()


def test_every_container_is_confined(stack: Stack) -> None:
    for container in stack.containers():
        host = container.attrs["HostConfig"]
        assert container.attrs["Config"]["User"] == "overdb"
        assert host["ReadonlyRootfs"] is True
        assert host["Init"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert not host["Privileged"]
        assert container.attrs["Config"]["StopTimeout"] == 15
        assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_only_the_router_is_reachable_from_outside_and_only_on_loopback(stack: Stack) -> None:
    published = {
        # Which of the routers is left after others were scaled away is Compose's choice.
        str(container.name).rsplit("-", 1)[0]: [
            (binding["HostIp"], port)
            for port, bindings in container.attrs["HostConfig"]["PortBindings"].items()
            for binding in bindings
        ]
        for container in stack.containers()
        if container.attrs["HostConfig"]["PortBindings"]
    }
    assert published == {f"{stack.project}-router": [("127.0.0.1", "7400/tcp")]}


def test_a_process_runs_as_nobody_special_below_an_init_and_writes_to_its_volume_only(
    stack: Stack,
) -> None:
    node = stack.node(1)
    assert shell(node, "id -u; id -g") == (0, "10001\n10001")
    assert shell(node, "cat /proc/1/comm") == (0, "docker-init")
    assert shell(node, "touch /tmp/x && touch /data/x && rm /tmp/x /data/x") == (0, "")
    for directory in ("/", "/opt/overdb/program", "/usr/bin"):
        code, output = shell(node, f"touch {directory}/x")
        assert code != 0
        assert "Read-only file system" in output
    code, _ = shell(node, "grep -E '^Cap(Eff|Bnd):' /proc/self/status | grep -v 0000000000000000")
    assert code == 1, "no capability is left"


def test_the_image_is_small(stack: Stack) -> None:
    image = stack.node(1).image
    assert image is not None
    assert image.attrs["Size"] < IMAGE_BYTES_MAX


def test_a_stop_is_graceful_and_the_health_check_tells_a_hung_process(stack: Stack) -> None:
    node = stack.node(2)
    program = "python3 -I -S /opt/overdb/program/overdb_common/probe.py 127.0.0.1:7410"
    assert shell(node, program)[0] == 0
    child = "$(cat /proc/1/task/1/children)"
    assert shell(node, f"kill -STOP {child}")[0] == 0
    try:
        assert shell(node, program)[0] == 1
    finally:
        shell(node, f"kill -CONT {child}")
    node.stop(timeout=15)
    node.reload()
    assert node.attrs["State"]["ExitCode"] == 0, "not killed after the grace period"
    node.start()
