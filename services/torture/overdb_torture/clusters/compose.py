"""A cluster in containers, started by Docker Compose: hurt by the ``docker`` command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from overdb_torture.clusters.base import Cluster, NotCarriedOut, Process, Unusable
from overdb_torture.faults import APART, Kind, Planned

_COMMAND_SECONDS_MAX = 60.0
_NODE_VARIABLE, _GROUP_VARIABLE = "OVERDB_NODE_ID", "OVERDB_GROUP"
_ROUTER_PORT = "7400/tcp"
_LABEL = "com.docker.compose."


@dataclass(frozen=True)
class Container:
    """One container, and the networks it is on with its names there."""

    name: str
    service: str
    networks: dict[str, tuple[str, ...]]


class ComposeCluster(Cluster):
    """The containers of one Compose project."""

    possible = frozenset({Kind.KILL, Kind.PAUSE, Kind.PARTITION, Kind.RESTART_ALL})
    why_not = (
        "inside of containers nothing can be switched on; use a cluster of `make run FAULTS=1`, or "
        "none, and one is started for this"
    )

    def __init__(
        self,
        project: str,
        processes: Sequence[Process],
        containers: dict[str, Container],
        endpoints: Sequence[str],
    ) -> None:
        self.description = f"the containers of the Compose project {project}"
        self.endpoints = list(endpoints)
        self.processes = list(processes)
        self._containers = containers  # by the name of the process

    @classmethod
    async def find(cls, project: str) -> ComposeCluster:
        """Look the running containers up. Raises Unusable when there are none, or no engine answers."""
        try:
            ids = await docker("ps", "-q", "--filter", f"label={_LABEL}project={project}")
            if not ids.split():
                raise Unusable(
                    f"no container of the Compose project '{project}' runs: `make up` starts one"
                )
            found = json.loads(await docker("inspect", *ids.split()))
        except NotCarriedOut as error:
            raise Unusable(f"Docker does not answer: {error}") from None
        return cls.of(project, found)

    @classmethod
    def of(cls, project: str, inspected: Sequence[dict[str, Any]]) -> ComposeCluster:
        """From what ``docker inspect`` says. Raises Unusable when no router has a port here."""
        processes: list[Process] = []
        containers: dict[str, Container] = {}
        endpoints: list[str] = []
        for one in sorted(inspected, key=lambda one: str(one["Name"])):
            name = str(one["Name"]).lstrip("/")
            variables = dict(part.partition("=")[::2] for part in one["Config"].get("Env") or [])
            service = str((one["Config"].get("Labels") or {}).get(f"{_LABEL}service", name))
            ports = (one["NetworkSettings"].get("Ports") or {}).get(_ROUTER_PORT) or []
            if _NODE_VARIABLE in variables:
                node = Process(
                    f"node-{variables[_NODE_VARIABLE]}",
                    int(variables[_NODE_VARIABLE]),
                    int(variables.get(_GROUP_VARIABLE, 0)),
                )
                processes.append(node)
                containers[node.name] = Container(name, service, _networks(one))
            elif ports:
                processes.append(Process(name))
                containers[name] = Container(name, service, _networks(one))
                endpoints += [f"127.0.0.1:{port['HostPort']}" for port in ports[:1]]
        if not endpoints:
            raise Unusable(
                f"no router of the Compose project '{project}' has a port on this machine"
            )
        return cls(project, processes, containers, endpoints)

    # --- hurting and healing ----------------------------------------------------------------------

    def adapted(self, fault: Planned) -> Planned:
        """A network is connected or is not: there is nothing between."""
        return replace(fault, way=APART, amount=0.0) if fault.kind is Kind.PARTITION else fault

    async def begin(self, fault: Planned, victims: Sequence[Process]) -> None:
        verbs = {Kind.KILL: "kill", Kind.RESTART_ALL: "kill", Kind.PAUSE: "pause"}
        if fault.kind is Kind.PARTITION:
            for victim in victims:
                await self._disconnect(self._containers[victim.name])
        else:
            await self._each(verbs[fault.kind], victims)

    async def end(self, fault: Planned, victims: Sequence[Process]) -> None:
        if fault.kind is Kind.PARTITION:
            for victim in victims:
                await self._connect(self._containers[victim.name])
        elif fault.kind is Kind.PAUSE:
            await self._each("unpause", victims)
        else:
            await self._each("start", victims)

    async def heal(self) -> None:
        """Look at each container, and undo what may still be wrong with it."""
        inspected = json.loads(await docker("inspect", *self._names(self.processes)))
        by_name = {str(one["Name"]).lstrip("/"): one for one in inspected}
        for container in self._containers.values():
            one = by_name[container.name]
            if one["State"].get("Paused"):
                await docker("unpause", container.name)
            elif not one["State"].get("Running"):
                await docker("start", container.name)
            if set(container.networks) - set(one["NetworkSettings"].get("Networks") or {}):
                await self._connect(container)

    async def _each(self, verb: str, processes: Sequence[Process]) -> None:
        """All at once: with several names ``docker`` does one after the other."""
        await asyncio.gather(*(docker(verb, name) for name in self._names(processes)))

    def _names(self, processes: Sequence[Process]) -> list[str]:
        return [self._containers[process.name].name for process in processes]

    async def _disconnect(self, container: Container) -> None:
        for network in container.networks:
            await docker("network", "disconnect", network, container.name)

    async def _connect(self, container: Container) -> None:
        for network, aliases in container.networks.items():
            names = [word for alias in aliases for word in ("--alias", alias)]
            await docker("network", "connect", *names, network, container.name)


def _networks(inspected: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    networks = inspected["NetworkSettings"].get("Networks") or {}
    return {name: tuple(one.get("Aliases") or ()) for name, one in networks.items()}


async def docker(*words: str) -> str:
    """Run the ``docker`` command and return what it prints. Raises NotCarriedOut when it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            "docker",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), _COMMAND_SECONDS_MAX)
    except (TimeoutError, OSError) as error:
        raise NotCarriedOut(f"docker {words[0]}: {error!r}") from None
    if process.returncode:
        raise NotCarriedOut(f"docker {' '.join(words[:2])}: {err.decode(errors='replace').strip()}")
    return out.decode()
