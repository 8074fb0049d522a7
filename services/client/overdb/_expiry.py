"""The detail of a refusal for the age of a client id, which all three programs read or write.

PROTOCOL 2.10: an expired id is refused for good, and one from the future did not run yet. Whoever made up the
id may send a request again under a new one, when every copy of it was refused like that.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

_EXPIRED = "CLIENT_ID_EXPIRED"
_AHEAD = "CLIENT_ID_AHEAD"
_DOMAIN = "overdb"
_GROUP_TIME = "group_time_us"
_CLOCK_SECONDS_SAID_MIN = 60.0  # a difference below this is no reason for an expired id


# How long an id from the future is sent again: after the machines of a cluster were suspended, a group's
# time follows when its leader has heard the others' clocks again (PROTOCOL 2.1).
AHEAD_SECONDS_MAX = 3.5


def untimely_id(group_time_us: int, *, expired: bool) -> bytes:
    """Return the serialized detail; ``group_time_us``: time of the group, microseconds since the epoch.

    ``expired``: or else the id is ahead of that time.
    """
    packed = any_pb2.Any()
    packed.Pack(
        _details().ErrorInfo(
            reason=_EXPIRED if expired else _AHEAD,
            domain=_DOMAIN,
            metadata={_GROUP_TIME: str(group_time_us)},
        )
    )
    return packed.SerializeToString()


def expired_at(details: Iterable[bytes]) -> int | None:
    """Return the group's time in microseconds if one of the details says that the id has expired."""
    return _group_time_us(details, _EXPIRED)


def is_ahead(details: Iterable[bytes]) -> bool:
    """Return whether one of the details says that the id is ahead of the group's time."""
    return _group_time_us(details, _AHEAD) is not None


def _group_time_us(details: Iterable[bytes], reason: str) -> int | None:
    for raw in details:
        info = _details().ErrorInfo()
        try:
            packed = any_pb2.Any.FromString(raw)
            if packed.Unpack(info) and (info.reason, info.domain) == (reason, _DOMAIN):
                return int(info.metadata[_GROUP_TIME])
        except (DecodeError, ValueError):
            continue
    return None


def clock_behind(whose: str, group_time_us: int, now_us: int) -> str:
    """Say that the clock that made a new id is behind the group's; empty if it is not."""
    seconds = (group_time_us - now_us) / 1e6
    if seconds < _CLOCK_SECONDS_SAID_MIN:
        return ""
    return (
        f"the clock of {whose} is {seconds:.0f} s behind the time of the cluster, so that even a new id "
        "has expired there: set the clock (`overdb status` says whether it is the cluster's that is "
        "wrong); not run"
    )


def _details() -> Any:
    return import_module(
        "google.rpc.error_details_pb2"
    )  # it has no type stubs; only errors need it
