"""The kinds of faults, and which of them when: a plan, drawn from a seed before the run begins."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Kind(StrEnum):
    """What can go wrong."""

    KILL = "kill"
    PAUSE = "pause"
    PARTITION = "partition"
    DISK_FULL = "disk-full"
    SLOW_FSYNC = "slow-fsync"
    CLOCK_JUMP = "clock-jump"
    RESTART_ALL = "restart-all"
    HOSTILE = "hostile"
    RESTORE = "restore"
    SUSPEND = "suspend"
    LAG = "lag"
    SETTINGS = "settings"


class Role(StrEnum):
    """Whom it meets in each of the groups: looked up when it begins."""

    LEADER = "leader"
    FOLLOWER = "follower"
    ROUTER = "router"
    GROUP = "group"  # all of its nodes
    EVERYBODY = "everybody"


# How a partition cuts, a disk is full, a clock is wrong.
APART = "apart"  # the node and the others do not reach each other
MUTE = "mute"  # it hears the others and reaches none
DEAF = "deaf"  # it reaches the others and hears none
LAGGING = "lagging"  # everything to and from it takes 50 to 250 ms longer
REPORTED = "reported"  # there is no free space; files that exist can be written
REFUSED = "refused"  # every write to the log finds no room, and is tried again
JUMP = "jump"
FOR_GOOD = "for-good"  # a jump that lasts until the next fault of a clock, or the end
DRIFT = "drift"

_WAYS: dict[Kind, tuple[str, ...]] = {
    Kind.PARTITION: (APART, APART, MUTE, DEAF, LAGGING),
    Kind.DISK_FULL: (REPORTED, REPORTED, REFUSED),
    Kind.CLOCK_JUMP: (JUMP, JUMP, FOR_GOOD, DRIFT),
}
_CLOCK_SECONDS = (
    45.0,
    120.0,
    3600.0,
    86_400.0,
    3650 * 86_400.0,
)  # the longest of each size of a jump
# How long machines sleep: for that long their wall clocks are behind when they wake up.
_ASLEEP_SECONDS = (20.0, 90.0, 25 * 60.0, 2 * 3600.0, 26 * 3600.0)
_SLOT_SECONDS_MAX = 5.0  # a fault and the calm behind it
_SLOT_SECONDS_MIN = 2.0  # in less, nothing would come of most kinds
_CALM_BEFORE_SECONDS = 1.0
_ONE_NODE = (Kind.RESTORE, Kind.LAG, Kind.SETTINGS)  # the first two take longer than others
# Beyond a slot, if there is the time: a small machine starts all processes anew; a leader keeps its log for a
# silent follower no longer, and sends it a snapshot; a node starts on an old directory, and on its own again.
_LONGER_SECONDS = {Kind.RESTART_ALL: 4.0, Kind.LAG: 4.0, Kind.RESTORE: 4.0}


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault. Times in seconds since the load began."""

    kind: Kind
    begins: float
    ends: float
    role: Role
    groups: tuple[int, ...]
    way: str = ""
    amount: float = 0.0  # seconds: of a slow fsync, a clock, a delay, a sleep
    draw: float = 0.0  # in [0, 1): which of several followers or routers


# What a node may be set to otherwise than the others (FAULTS 85). Clients keep their ids for longer than the
# shortest of these lives and take new ones when they are refused; they give up long before a version goes.
_SETTINGS: dict[str, tuple[int, ...]] = {
    "client_id_seconds": (60, 600, 3600),
    "retention_seconds": (10, 60, 3600),
    "unacknowledged_max": (1024, 65_536),
    "result_bytes_per_client_max": (1 << 16, 8 << 20),
    "result_bytes_max": (4 << 20, 256 << 20),
}


def settings_of(fault: Planned) -> dict[str, int]:
    """Return the settings that a node comes back with, by name."""
    random = Random(fault.draw)
    return {name: random.choice(values) for name, values in _SETTINGS.items()}


def plan_faults(
    kinds: Collection[Kind], seconds: float, groups: int, seed: int
) -> tuple[Planned, ...]:
    """Return the faults of a run, one after the other, the same for the same arguments.

    Rounds: each kind once, in an order of its own in each round, so that a short run has all of them. The
    first round meets leaders, where a fault does most; later ones meet followers and routers too.
    One at a time, and at most one node in each group at once (but for RESTART_ALL, and full disks, where
    reads go on): no group loses its majority for longer than an election takes.
    """
    time_left = seconds - _CALM_BEFORE_SECONDS
    if not kinds or time_left < _SLOT_SECONDS_MIN:
        return ()
    random = Random(seed)
    longer = _LONGER_SECONDS
    slot = (time_left - sum(longer.get(kind, 0.0) for kind in kinds)) / len(kinds)
    if slot < _SLOT_SECONDS_MIN:
        longer, slot = {}, max(_SLOT_SECONDS_MIN, time_left / len(kinds))
    slot = min(_SLOT_SECONDS_MAX, slot)
    planned: list[Planned] = []
    begins = _CALM_BEFORE_SECONDS
    while True:
        for kind in _shuffled(sorted(kinds), random):
            if begins + slot > seconds + 1e-9:
                return tuple(planned)
            ends = begins + slot * random.uniform(0.5, 0.75)
            planned.append(
                _draw(kind, begins, ends, groups, random, first=len(planned) < len(kinds))
            )
            begins += slot + longer.get(kind, 0.0)


def _shuffled(kinds: Sequence[Kind], random: Random) -> list[Kind]:
    return random.sample(kinds, len(kinds))


def _draw(
    kind: Kind, begins: float, ends: float, groups: int, random: Random, *, first: bool
) -> Planned:
    every_group = tuple(range(groups))
    if kind is Kind.RESTART_ALL:
        return Planned(kind, begins, ends, Role.EVERYBODY, every_group)
    roles = [Role.LEADER] if first else [Role.LEADER, Role.LEADER, Role.FOLLOWER]
    if kind in (Kind.KILL, Kind.PAUSE) and not first:
        roles.append(Role.ROUTER)
    if kind is Kind.DISK_FULL and not first:
        roles.append(Role.GROUP)
    if kind is Kind.LAG:
        roles = [Role.FOLLOWER]
    role = random.choice(roles)
    # Now and then in all groups at once: transactions have their participants change together.
    hit = every_group if random.random() < 0.25 else (random.randrange(groups),)
    if kind in _ONE_NODE:
        hit = hit[:1]
    way = REPORTED if role is Role.GROUP else random.choice(_WAYS.get(kind, ("",)))
    return Planned(kind, begins, ends, role, hit, way, _amount(kind, way, random), random.random())


def _amount(kind: Kind, way: str, random: Random) -> float:
    if kind is Kind.SLOW_FSYNC:
        return random.choice([0.03, 0.1, 0.3, 1.0])
    if kind is Kind.CLOCK_JUMP:
        ahead = random.choice([-1, 1])
        return ahead * (
            0.5 if way == DRIFT else random.uniform(0.5, 1.0) * random.choice(_CLOCK_SECONDS)
        )
    if kind is Kind.SUSPEND:
        return random.choice(_ASLEEP_SECONDS)
    if way == LAGGING:
        return random.uniform(0.05, 0.25)
    return 0.0
