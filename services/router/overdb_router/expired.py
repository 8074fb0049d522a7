"""Client ids that are refused for their age: a new one for the router's own, and what to say of the others.

A copy that is refused as expired did not run. An earlier copy of the same request may have run, and been
forgotten with its id: only a request of which this was the first copy certainly did not run (PROTOCOL 2.10).
"""

from __future__ import annotations

import time

from overdb._expiry import AHEAD_SECONDS_MAX, clock_behind, expired_at, is_ahead
from overdb.v1 import kv_pb2
from overdb_router import refusals
from overdb_router.operations import Op
from overdb_router.refusals import Refusal

AHEAD_PAUSE_SECONDS = 0.1  # before an id that is ahead of a group's time is tried again


def pause_before_new_id(
    op: Op, refusal: Refusal, *, may_have_run: bool, now_seconds: float
) -> float | None:
    """Give a request whose id the router made up another one, if the first was refused for its age.

    Returns after how many seconds to send it again; None: it keeps its id and its refusal. ``now_seconds`` is
    of the loop's clock.
    """
    own_id = op.own_id
    if may_have_run or own_id is None or op.done:
        return None
    pause = 0.0
    if expired_at(refusal.details) is not None:
        if own_id.is_new:
            return None
    elif not is_ahead(refusal.details):
        return None
    elif not own_id.is_from_the_future:
        own_id.ahead_since = own_id.ahead_since or now_seconds
        pause = AHEAD_PAUSE_SECONDS
        if now_seconds + pause > min(op.deadline, own_id.ahead_since + AHEAD_SECONDS_MAX):
            return None
    request = op.message
    assert isinstance(request, kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.TransactRequest)
    own_id.renew(request.id, same_client=bool(pause))
    return pause


def expired_words(op: Op, refusal: Refusal, *, may_have_run: bool) -> Refusal:
    """Return what to answer in place of FAILED_PRECONDITION: it says more than that nothing was done here."""
    group_time_us = expired_at(refusal.details)
    if group_time_us is None:
        return refusal
    if may_have_run:
        return Refusal(
            refusals.DEADLINE_EXCEEDED,
            "outcome unknown: the id of the request has expired, and an earlier copy of it may have run",
        )
    if op.own_id is not None:
        text = clock_behind("the router", group_time_us, time.time_ns() // 1000)
        return refusal._replace(message=text or refusal.message)
    return refusal
