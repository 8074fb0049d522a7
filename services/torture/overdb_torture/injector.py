"""Carries the plan of faults out: looks up whom each one meets, begins it, ends it, writes it down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from overdb_torture.clusters.base import Cluster, NotCarriedOut, Process
from overdb_torture.faults import DRIFT, FOR_GOOD, Kind, Planned, Role, settings_of
from overdb_torture.recorder import FaultRecord, Recorder


class Injector:
    """Has one fault happen after the other, until the plan is done or it is told to stop."""

    def __init__(
        self, cluster: Cluster, recorder: Recorder, leaders: Callable[[], Sequence[int]]
    ) -> None:
        """``leaders()``: node id of each group's leader as it was seen last; 0: not known."""
        self._cluster = cluster
        self._recorder = recorder
        self._leaders = leaders

    async def run(self, plan: Sequence[Planned], seconds: float, stop: asyncio.Event) -> None:
        """Return when nothing is left of the plan that would begin within ``seconds`` of the load."""
        for fault in plan:
            await _sleep(fault.begins - self._recorder.now(), stop)
            length = fault.ends - fault.begins
            if stop.is_set() or self._recorder.now() + length > seconds + 0.5:
                return
            await self._carry_out(fault, length, stop)

    async def _carry_out(self, fault: Planned, length: float, stop: asyncio.Event) -> None:
        victims = victims_of(fault, self._cluster.processes, self._leaders())
        began, problem = self._recorder.now(), ""
        try:
            await self._cluster.begin(fault, victims)
            await _sleep(began + length - self._recorder.now(), stop)
        except NotCarriedOut as error:
            problem = str(error)
        finally:
            try:
                await self._cluster.end(fault, victims)
            except NotCarriedOut as error:
                problem = problem or str(error)
        record = FaultRecord(
            fault.kind.value,
            in_words(fault),
            tuple(victim.name for victim in victims),
            began,
            self._recorder.now(),
            problem,
        )
        self._recorder.record.faults.append(record)


def victims_of(
    fault: Planned, processes: Sequence[Process], leaders: Sequence[int]
) -> list[Process]:
    """Whom a fault meets: one node or all in each of its groups, a router, or everybody."""
    if fault.role is Role.EVERYBODY:
        return list(processes)
    if fault.role is Role.ROUTER:
        routers = [process for process in processes if not process.node_id]
        return [routers[int(fault.draw * len(routers))]]
    victims: list[Process] = []
    for group in fault.groups:
        members = [process for process in processes if process.group == group]
        if fault.role is Role.GROUP:
            victims += members
            continue
        leading = leaders[group] if group < len(leaders) else 0
        wanted = [m for m in members if (m.node_id == leading) is (fault.role is Role.LEADER)]
        among = wanted or members
        victims.append(among[int(fault.draw * len(among))])
    return victims


def in_words(fault: Planned) -> str:
    """Which way it goes wrong, and by how much."""
    if fault.kind is Kind.SLOW_FSYNC:
        return f"{fault.amount * 1000:g} ms"
    if fault.kind is Kind.CLOCK_JUMP:
        unit = " s a second" if fault.way == DRIFT else " s"
        return f"{fault.amount:+.1f}{unit}" + (", for good" if fault.way == FOR_GOOD else "")
    if fault.kind is Kind.SUSPEND:
        return f"asleep for {fault.amount:g} s"
    if fault.kind is Kind.SETTINGS:
        settings = settings_of(fault)
        per_client, together = (
            settings[name] >> 10 for name in ("result_bytes_per_client_max", "result_bytes_max")
        )
        return (
            f"ids {settings['client_id_seconds']} s, versions {settings['retention_seconds']} s, "
            f"{settings['unacknowledged_max']} results, {per_client} KiB, of all {together} KiB"
        )
    if fault.amount:
        return f"{fault.way}, {fault.amount * 1000:.0f} ms"
    return fault.way


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    """Sleep so long, or until told to stop."""
    if seconds > 0:
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            return
