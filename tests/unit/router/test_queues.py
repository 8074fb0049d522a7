"""The queue of a group: order, bounds, deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overdb.internal.v1 import log_pb2
from overdb.v1 import kv_pb2
from overdb_router.operations import Kind, Op
from overdb_router.queues import Outgoing, Queue
from overdb_router.refusals import Refusal


class Nobody:
    def answered(self, op: Op, field: str, result: object) -> None: ...

    def written(self, op: Op, version: int) -> None: ...

    def read(self, op: Op, value: object) -> None: ...

    def got(self, op: Op, content: bytes, version: int) -> None: ...

    def refused(self, op: Op, refusal: Refusal) -> None: ...


def op(number: int, *, read: bool = False, size: int = 10, deadline: float = 100.0) -> Op:
    key = b"%d" % number
    if read:
        return Op(Kind.GET, kv_pb2.GetRequest(key=key), size, deadline, Nobody(), number)
    return Op(Kind.PUT, kv_pb2.PutRequest(key=key), size, deadline, Nobody(), number)


def drain(queue: Queue) -> list[Outgoing]:
    taken = []
    while (out := queue.take()) is not None:
        taken.append(out)
    return taken


def keys(out: Outgoing) -> list[bytes]:
    """The keys in a message, from its wire form."""
    request = out.request(1, 0)
    if request.commands:
        return [c.put.key for c in log_pb2.Commands.FromString(request.commands).commands]
    return [read.key for read in request.reads.reads]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.integers(1, 5)), max_size=40),
    st.integers(1, 100),
    st.integers(1, 5),
    st.integers(0, 6),
)
def test_lanes_keep_their_order_and_messages_their_bounds(
    wanted: list[tuple[bool, int, int]], bytes_max: int, operations_max: int, now: int
) -> None:
    queue = Queue(bytes_max, operations_max)
    ops = [op(n, read=r, size=s, deadline=d) for n, (r, s, d) in enumerate(wanted)]
    for one in ops:
        queue.add(one)
    assert queue.bytes == sum(one.size for one in ops)
    gone = queue.expired(now)
    assert {one.tag for one in gone} == {one.tag for one in ops if one.deadline <= now}
    kept = [one for one in ops if one.deadline > now]
    assert queue.bytes == sum(one.size for one in kept)
    assert bool(queue) == bool(kept)
    taken = drain(queue)
    for lane, kind in ((0, Kind.PUT), (1, Kind.GET)):
        sent = [tag for out in taken if out.lane == lane for tag in (o.tag for o in out.ops)]
        assert sent == [one.tag for one in kept if one.kind is kind]
    for out in taken:
        assert keys(out) == [b"%d" % one.tag for one in out.ops]
        assert len(out.ops) <= operations_max
        assert out.size <= bytes_max or len(out.ops) == 1
        assert out.deadline == min(one.deadline for one in out.ops)
    assert queue.bytes == 0


def test_what_is_put_back_comes_first_without_what_is_answered() -> None:
    queue = Queue(1000, 100)
    queue.add(op(3))
    back = [op(1), op(2)]
    back[0].done = True
    queue.put_first(back)
    assert [one.tag for out in drain(queue) for one in out.ops] == [2, 3]


def test_neither_lane_waits_behind_the_other() -> None:
    queue = Queue(1000, 1)
    for number in range(6):
        queue.add(op(number, read=number % 2 == 1))
    lanes = [out.lane for out in drain(queue)]
    assert lanes in ([0, 1] * 3, [1, 0] * 3)


def test_only_the_wanted_lanes_are_taken_from() -> None:
    queue = Queue(1000, 10)
    queue.add(op(1))
    assert queue.take([1]) is None
    assert queue.take([]) is None
    assert queue.take([0]) is not None
