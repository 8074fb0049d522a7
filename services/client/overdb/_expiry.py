"""The detail of a refusal that says that a client id has expired, which all three programs read or write.

PROTOCOL 2.10: an expired id is refused for good, so a request of which every copy was refused like that was
not run and never will be. Whoever made up the id may send the request again under a new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

_REASON = "CLIENT_ID_EXPIRED"
_DOMAIN = "overdb"
_GROUP_TIME = "group_time_us"
_CLOCK_SECONDS_SAID_MIN = 60.0  # a difference below this is no reason for an expired id


def client_id_expired(group_time_us: int) -> bytes:
    """Return the serialized detail; ``group_time_us``: time of the group, microseconds since the epoch."""
    packed = any_pb2.Any()
    packed.Pack(
        _details().ErrorInfo(
            reason=_REASON, domain=_DOMAIN, metadata={_GROUP_TIME: str(group_time_us)}
        )
    )
    return packed.SerializeToString()


def expired_at(details: Iterable[bytes]) -> int | None:
    """Return the group's time in microseconds if one of the details says that the id has expired."""
    for raw in details:
        info = _details().ErrorInfo()
        try:
            packed = any_pb2.Any.FromString(raw)
            if packed.Unpack(info) and (info.reason, info.domain) == (_REASON, _DOMAIN):
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
