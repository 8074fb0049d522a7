"""Client ids that are refused for their age: a new one for the router's own, and what to say of the others.

A copy that is refused as expired did not run. An earlier copy of the same request may have run, and been
forgotten with its id: only a request of which this was the first copy certainly did not run (PROTOCOL 2.10).
"""

from __future__ import annotations

import time

from overdb._expiry import clock_behind, expired_at
from overdb.v1 import kv_pb2
from overdb_router import refusals
from overdb_router.operations import Op
from overdb_router.refusals import Refusal


def renewed_id(op: Op, refusal: Refusal, may_have_run: bool) -> bool:
    """Give a request whose id the router made up another one, once; return whether to send it again."""
    if may_have_run or op.own_id is None or op.own_id.renewed or op.done:
        return False
    if refusal.code == refusals.INVALID_ARGUMENT:
        if not op.own_id.is_from_the_future:
            return False
    elif expired_at(refusal.details) is None:
        return False
    request = op.message
    assert isinstance(request, kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.TransactRequest)
    op.own_id.renew(request.id)
    return True


def expired_words(op: Op, refusal: Refusal, may_have_run: bool) -> Refusal:
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
