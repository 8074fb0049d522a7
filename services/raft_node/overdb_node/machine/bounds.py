"""Bounds of what a command may say (PROTOCOL 2.11). Beyond them it is refused and nothing is stored.

Every member of a cluster keeps well within them. They hold for commands that somebody else has made, so that
no number in the state can run out and no record stays for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from overdb_node.machine.clock import EXHAUSTED
from overdb_node.machine.settings import BYTE_LIMITS, LIMITS, MachineSettings
from overdb_node.machine.types import Code, Inquire, Prepare, Refused

# No clock of a group comes near it by stamps (``clock.STAMP_MAX``) and by counting.
VERSION_MAX = 1 << 63
# An Advance ends where stamps do: counting on from there, no vote comes to what a commit may not say.
ADVANCE_MAX = 1 << 62
# The same for entries from before level 1, which old replicas have applied: from here on a clock runs out.
VERSION_MAX_AT_LEVEL_0 = EXHAUSTED - (1 << 32)
ATTEMPT_MAX = (1 << 31) - 1
GROUPS_MAX = 4096  # as many as there are slots
POSITIONS_MAX = 1 << 20

_SECOND_US = 1_000_000
# What a process may be started with (``NodeSettings``). A limit that is not named here must be there.
LIMIT_BOUNDS = {
    "client_id_lifetime_us": (60 * _SECOND_US, 86_400 * _SECOND_US),
    "ahead_us_max": (_SECOND_US, 3600 * _SECOND_US),
    "retention_us": (_SECOND_US, 10 * 365 * 86_400 * _SECOND_US),
    "key_bytes_max": (1, 65_536),
    "value_bytes_max": (1, 8 << 20),
    "request_bytes_max": (1024, 8 << 20),
    "operations_max": (1, 65_536),
    "unacknowledged_per_client_max": (1024, 1 << 24),
    "parked_keys_max": (1, 1 << 20),
    "result_bytes_per_client_max": (1 << 16, 1 << 40),
    "result_bytes_max": (1 << 20, 1 << 40),
}


def refuse_attempt(attempt: int) -> Refused | None:
    if attempt <= ATTEMPT_MAX:
        return None
    return _refuse(f"attempt {attempt} is beyond the last one, {ATTEMPT_MAX}")


def refuse_part(command: Prepare | Inquire, settings: MachineSettings) -> Refused | None:
    """Why no router and no finisher has made this."""
    refusal = refuse_attempt(command.attempt)
    refusal = refusal or _refuse_participants(command.participants, settings.group)
    if refusal is not None or isinstance(command, Inquire):
        return refusal
    for branch, positions in (
        (command.then, command.then_positions),
        (command.otherwise, command.otherwise_positions),
    ):
        # Tests of the machine alone leave positions out: no result is put together from those.
        if positions and (len(positions) != len(branch) or max(positions) >= POSITIONS_MAX):
            return _refuse(f"a branch has {len(branch)} operations and {len(positions)} positions")
    return None


def version_max(level: int) -> int:
    """The largest commit timestamp that is taken."""
    return VERSION_MAX if level >= 1 else VERSION_MAX_AT_LEVEL_0


def _refuse_participants(participants: Sequence[int], group: int) -> Refused | None:
    count = len(participants)
    if not 0 < count <= GROUPS_MAX:
        return _refuse(f"the transaction has {count} participants, there may be 1 to {GROUPS_MAX}")
    ascending = all(a < b for a, b in itertools.pairwise(participants))
    if not ascending or participants[-1] >= GROUPS_MAX or group not in participants:
        return _refuse(
            f"the participants must be groups below {GROUPS_MAX}, ascending, with group {group} among "
            "them"
        )
    return None


def _refuse(what: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, f"{what}; nothing was stored")


def refuse_limits(limits: tuple[int, ...], byte_limits: tuple[int, ...] = ()) -> Refused | None:
    """Why no process can have been started with these limits, in the order of LIMITS and of BYTE_LIMITS."""
    given = [*zip(LIMITS, limits, strict=True)]
    given += [(n, value) for n, value in zip(BYTE_LIMITS, byte_limits, strict=False) if value]
    for name, value in given:
        least, most = LIMIT_BOUNDS.get(name, (1, 1 << 62))
        if not least <= value <= most:
            return Refused(
                Code.INVALID_ARGUMENT,
                f"{name} is {value}, it may be {least} to {most}; the limits stay as they are",
            )
    return None
