"""Refusals of request ids, in words: what is wrong, the actual values, and what to do."""

from __future__ import annotations

from overdb_node.machine.types import (
    Code,
    Deleted,
    Refused,
    RequestId,
    Result,
    Transacted,
    Untimely,
    Written,
)


def created_us(client_id: bytes) -> int:
    """Creation time that a UUIDv7 carries, in microseconds since the epoch."""
    return int.from_bytes(client_id[:6], "big") * 1000


def name_of(request: RequestId) -> str:
    return f"{request.client_id.hex()}/{request.request_number}"


def malformed(request: RequestId) -> Refused | None:
    """Why no request can have such an id, wherever and whenever it is asked."""
    client_id, number, _, acknowledged_below = request
    if len(client_id) != 16 or client_id[6] >> 4 != 7:
        return Refused(
            Code.INVALID_ARGUMENT,
            f"id.client_id {client_id.hex()[:40]} ({len(client_id)} bytes) is no UUID of version 7 "
            "(16 bytes)",
        )
    if number < 1 or acknowledged_below > number:
        return Refused(
            Code.INVALID_ARGUMENT,
            f"id.request_number {number} must be at least 1 and not below "
            f"id.acknowledged_below {acknowledged_below}",
        )
    return None


def reused(request: RequestId, by: str) -> Refused:
    """``by``: what the id was used for before."""
    return Refused(
        Code.INVALID_ARGUMENT,
        f"request id {name_of(request)} was used before for a different request: {by}. This one was not "
        "run: take a new request_number",
    )


def told(result: Result) -> str:
    """What ran under an id, as far as its result says."""
    if isinstance(result, Written):
        return f"a put that wrote version {result.version}"
    if isinstance(result, Deleted):
        return f"a delete at version {result.version}"
    if isinstance(result, Transacted):
        return f"a transaction in one group at version {result.version}"
    return "a request that was refused"


def is_ahead(request: RequestId, physical: int, ahead_us_max: int) -> bool:
    """Return true if the id was created, or the request started, too far ahead of the group's time."""
    return max(created_us(request.client_id), request.started_at) > physical + ahead_us_max


def ahead(request: RequestId, physical: int, ahead_us_max: int) -> Refused:
    """Its client's clock is ahead of the group's time by too much."""
    latest = max(created_us(request.client_id), request.started_at)
    return Untimely.at(
        physical,
        Code.INVALID_ARGUMENT,
        f"request {name_of(request)} is from {(latest - physical) / 1e6:.0f} s ahead of this group's time "
        f"(id.started_at or the time in id.client_id), the limit is {ahead_us_max // 1_000_000} s; set "
        "the client's clock",
    )


def full(kept_bytes: int, client_ids: int, limit: int) -> Refused:
    """Nothing more is kept for anybody."""
    return Refused(
        Code.RESOURCE_EXHAUSTED,
        f"{kept_bytes} bytes are kept for retries of {client_ids} client ids and for transactions, the "
        f"limit is {limit}; not run. Retry later: room comes back as clients acknowledge what they have, and "
        "as ids expire; make one client and use it for many requests",
    )


def unacknowledged(client_id: bytes, has: str, limit: int) -> Refused:
    """Nothing more is kept for this client. ``has``: how much of what there is."""
    return Refused(
        Code.RESOURCE_EXHAUSTED,
        f"client {client_id.hex()} has {has} that it has not acknowledged, the limit is {limit}; not run: "
        "send acknowledged_below, or take a new client id",
    )
