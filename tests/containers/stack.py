"""``deploy/docker-compose.yml`` as a project of the tests' own: started, stopped, looked into."""

from __future__ import annotations

import io
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import docker
from docker.models.containers import Container

import overdb
from overdb.status import ClusterStatus
from overdb.sync import Client
from tests.integration.cluster import wait_until

ROOT = Path(__file__).resolve().parents[2]
GROUPS, REPLICAS = 2, 3
UP_SECONDS_MAX = 420.0  # with a base image to be made and libraries to be collected
COMMAND_SECONDS_MAX = 90.0


class CommandFailedError(AssertionError):
    """A command ended with another code than 0; the message has all that it said."""


@dataclass
class Stack:
    """One Compose project on ports ``port``, ``port + 1``, ... of this machine."""

    project: str
    port: int
    engine: docker.DockerClient
    routers: int = 1
    tree: Path = ROOT  # the checkout whose Compose file and scripts are used
    environment: dict[str, str] = field(init=False)
    altered: bool = False  # its members are not those that ``up`` starts with

    def __post_init__(self) -> None:
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "OVERDB_PORT": str(self.port),
            "NO_COLOR": "1",
        }

    # --- commands ---------------------------------------------------------------------------------

    def run(
        self, *command: str, seconds_max: float = COMMAND_SECONDS_MAX
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the checkout and return what it said and its exit code."""
        return subprocess.run(
            command,
            cwd=self.tree,
            env={**self.environment, "OVERDB_PORT_RANGE": self._port_range()},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds_max,
            check=False,
        )

    def must(self, *command: str, seconds_max: float = COMMAND_SECONDS_MAX) -> str:
        """Run a command that has to succeed and return its standard output."""
        done = self.run(*command, seconds_max=seconds_max)
        if done.returncode != 0:
            raise CommandFailedError(
                f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout

    def compose(self, *arguments: str) -> str:
        """``docker compose`` on this project."""
        return self.must("scripts/compose.sh", *arguments)

    def up(self, routers: int = 1) -> str:
        """What ``make up ROUTERS=n`` does; on failure with what the containers said last."""
        self.routers = routers
        self.environment["ROUTERS"] = str(routers)
        try:
            return self.must("scripts/up.sh", seconds_max=UP_SECONDS_MAX)
        except CommandFailedError as failed:
            logs = self.run("scripts/compose.sh", "logs", "--no-color", "--tail", "5").stdout
            raise CommandFailedError(f"{failed}\n{logs}") from None

    def image_of_version(self, version: str) -> str:
        """The present image with another version of the program in it; its id."""
        base = self.environment.get("OVERDB_IMAGE", "overdb:latest")
        program = "/opt/overdb/program/overdb-*.dist-info/METADATA"
        edit = f"sed -i 's/^Version: .*/Version: {version}/' {program}"
        recipe = f"FROM {base}\nUSER root\nRUN {edit}\nUSER overdb\n"
        image, _ = self.engine.images.build(
            fileobj=io.BytesIO(recipe.encode()), network_mode="none", rm=True
        )
        return str(image.id)

    def use_image(self, image: str) -> None:
        """Make containers from this image from now on; those that exist keep theirs."""
        self.environment["OVERDB_IMAGE"] = image

    def replace(self, service: str) -> None:
        """Make a service's container anew from the image in use, and wait until the cluster is whole.

        Docker looks at the health of a container every 5 s only; this looks all the time.
        """
        self.compose("up", "-d", "--no-deps", service)
        self.wait_until_whole()

    def stop(self, containers: list[Container]) -> None:
        """Stop containers gracefully, all at once."""
        self.must("docker", "stop", *(str(container.name) for container in containers))

    def down(self) -> None:
        """What ``make down`` does."""
        self.must("scripts/down.sh")

    def forget(self) -> None:
        """What ``make down VOLUMES=1`` does."""
        self.environment["VOLUMES"] = "1"
        try:
            self.must("scripts/down.sh")
        finally:
            del self.environment["VOLUMES"]

    def _port_range(self) -> str:
        return "-".join(dict.fromkeys((str(self.port), str(self.port + self.routers - 1))))

    # --- containers -------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """The routers, as this machine reaches them."""
        return [f"127.0.0.1:{self.port + number}" for number in range(self.routers)]

    def containers(self) -> list[Container]:
        """All containers of the project, running or not, by name."""
        label = f"com.docker.compose.project={self.project}"
        found = self.engine.containers.list(all=True, filters={"label": label})
        return sorted(found, key=lambda container: str(container.name))

    def nodes(self) -> list[Container]:
        """The replicas' containers in the order of their ids."""
        return [self.node(node_id) for node_id in range(1, GROUPS * REPLICAS + 1)]

    def node(self, node_id: int) -> Container:
        """The container of a replica."""
        group, replica = divmod(node_id - 1, REPLICAS)
        return self.engine.containers.get(f"{self.project}-shard{group}-replica{replica}-1")

    def volumes(self) -> set[str]:
        """Names of the project's volumes."""
        label = f"com.docker.compose.project={self.project}"
        return {str(v.name) for v in self.engine.volumes.list(filters={"label": label})}

    def addresses(self) -> dict[str, str]:
        """IP address of each replica's container, by name."""
        found = {}
        for container in self.nodes():
            (network,) = container.attrs["NetworkSettings"]["Networks"].values()
            found[str(container.name)] = str(network["IPAddress"])
        return found

    # --- the cluster ------------------------------------------------------------------------------

    def status(self) -> ClusterStatus | None:
        """What the first router says; None when it does not answer."""
        with Client(self.endpoints[0]) as client:
            try:
                return client.status()
            except overdb.OverDBError:
                return None

    def leader(self, group: int, besides: int = 0) -> int:
        """Node id of a group's leader other than ``besides``; waits for one."""

        def found() -> int:
            status = self.status()
            leader = 0 if status is None else status.groups[group].leader_id
            return 0 if leader == besides else leader

        return wait_until(found, f"a leader of group {group} besides {besides}")

    def wait_until_whole(self) -> None:
        """Return when all groups serve and every replica has what is committed."""

        def whole() -> bool:
            status = self.status()
            return (
                status is not None
                and status.serving
                and all(
                    replica.reachable and group.lag(replica) < 1000
                    for group in status.groups
                    for replica in group.replicas
                )
            )

        wait_until(whole, "all replicas answer", 60.0)
