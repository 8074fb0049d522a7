"""Transactions over several groups that only read: strict reads by double collect (PROTOCOL 2.7).

They leave nothing behind in any group: no lock, no record, no log entry. So a retry reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from overdb.internal.v1 import shard_pb2
from overdb.sharding import slot_of
from overdb.v1 import kv_pb2
from overdb_common.outcome import ANSWER_BYTES_MAX, answer_bytes
from overdb_router import refusals
from overdb_router.compares import answer, branch_of, only_reads
from overdb_router.dispatcher import Dispatcher
from overdb_router.double_collect import DoubleCollect, Step
from overdb_router.operations import Kind, Op, Sink
from overdb_router.queues import OVERHEAD_BYTES
from overdb_router.refusals import Refusal, invalid
from overdb_router.validation import keys_of

# Runs a transaction over several groups with locks, a read in the end too. Its sink is told.
Fallback = Callable[[Op, list[int]], None]


class StrictReads:
    """Stands before whoever runs transactions over several groups and takes those that only read."""

    def __init__(self, dispatcher: Dispatcher, results_bytes_max: int, fallback: Fallback) -> None:
        self._dispatcher = dispatcher
        self._results_bytes_max = results_bytes_max
        self._fallback = fallback
        self.collects = 0  # double collects that were begun
        self.fallbacks = 0  # reads that became transactions with locks

    def submit(self, op: Op, groups: list[int]) -> None:
        """Take a TRANSACT over several groups (``Dispatcher.on_several``)."""
        request = op.message
        assert isinstance(request, kv_pb2.TransactRequest)
        if only_reads(request):
            self.collects += 1
            _StrictRead(self, op, request, groups).begin()
        else:
            self._fallback(op, groups)

    # --- what one read needs --------------------------------------------------------------------

    def parts(self, request: kv_pb2.TransactRequest) -> list[list[bytes]]:
        """Return the keys of a request, each once, one list for each group."""
        by_group: dict[int, list[bytes]] = {}
        for key in dict.fromkeys(keys_of(request)):
            link = self._dispatcher.by_slot[slot_of(key)]
            assert link is not None, "the dispatcher keeps it until all owners are known"
            by_group.setdefault(link.group, []).append(key)
        return list(by_group.values())

    def ask(self, part: _Part, message: shard_pb2.ReadSet) -> None:
        op = Op(Kind.READ_SET, message, part.size, part.deadline, part.sink, part.number)
        op.slot, op.slots = part.slots[0], part.slots[1:] and part.slots
        op.version = message.clock
        self._dispatcher.submit(op)

    def collected_again(self) -> None:
        self.collects += 1

    def fall_back(self, op: Op, groups: list[int]) -> None:
        self.fallbacks += 1
        self._fallback(op, groups)

    def check_size(
        self, request: kv_pb2.TransactRequest, values: Mapping[bytes, kv_pb2.GetResponse]
    ) -> Refusal | None:
        """What a transaction reads is bounded inside one group, and so it is over several.

        Looked at before the answer is made: a key may be named a thousand times.
        """
        _, operations = branch_of(request, values)
        lengths = [len(values[operation.get.key].value) for operation in operations]
        size, limit = sum(lengths), self._results_bytes_max
        what = "the values that the transaction reads"
        if size <= limit:
            size, limit = sum(map(answer_bytes, lengths)), ANSWER_BYTES_MAX
            what += ", with what is around them,"
        if size <= limit:
            return None
        return invalid(
            "then",
            f"{what} have {size} bytes, the limit is {limit}; nothing was done: read fewer keys at a time",
        )


class _Part:
    """The keys of one group."""

    __slots__ = ("deadline", "keys", "number", "sink", "size", "slots")

    def __init__(self, number: int, keys: Sequence[bytes], deadline: float, sink: Sink) -> None:
        self.number = number
        self.keys = keys
        self.deadline = deadline
        self.sink = sink
        self.slots = tuple(dict.fromkeys(map(slot_of, keys)))
        # A version travels beside each key in the second round.
        self.size = sum(len(key) + 16 for key in keys) + OVERHEAD_BYTES


class _StrictRead:
    """One of them; it is the sink of its own requests."""

    def __init__(
        self, reads: StrictReads, op: Op, request: kv_pb2.TransactRequest, groups: list[int]
    ) -> None:
        self._reads = reads
        self._op = op
        self._request = request
        self._groups = groups
        self._parts = [
            _Part(number, keys, op.deadline, self)
            for number, keys in enumerate(reads.parts(request))
        ]
        self._collect = DoubleCollect(len(self._parts))
        self._confirming = False
        self._values: dict[bytes, kv_pb2.GetResponse] = {}

    def begin(self) -> None:
        self._ask(confirm=False)

    def _ask(self, *, confirm: bool) -> None:
        """Send a round. A part that is refused at once ends the read, and with it the round."""
        self._confirming = confirm
        collect = self._collect
        clock = collect.clock
        for part in self._parts:
            if self._op.done:
                return
            message = shard_pb2.ReadSet(keys=part.keys)
            if confirm:
                message.versions.extend(collect.versions(part.number))
                message.clock = clock
            self._reads.ask(part, message)

    def _go_on(self, step: Step) -> None:
        if step is Step.CONFIRM:
            self._ask(confirm=True)
        elif step is Step.COLLECT:
            self._reads.collected_again()
            self._ask(confirm=False)
        elif step is Step.GIVE_UP:
            self._values.clear()
            self._reads.fall_back(self._op, self._groups)
        elif step is Step.DONE:
            self._answer()

    def _answer(self) -> None:
        op = self._op
        refusal = self._reads.check_size(self._request, self._values)
        if refusal is not None:
            op.refuse(refusal)
            return
        response = answer(self._request, self._values, self._collect.clock)
        op.finish()
        op.sink.answered(op, "transact", shard_pb2.Result(transact=response))

    # --- answers (operations.Sink) ----------------------------------------------------------------

    def answered(self, op: Op, field: str, result: shard_pb2.Result) -> None:  # noqa: ARG002
        raise AssertionError("a read set is no command")

    def written(self, op: Op, version: int) -> None:
        raise AssertionError(f"{op.kind.name} was answered by the version {version} of a put")

    def got(self, op: Op, content: bytes, version: int) -> None:  # noqa: ARG002
        raise AssertionError(f"{op.kind.name} was answered by what a key holds")

    def read(self, op: Op, value: shard_pb2.Value) -> None:
        if self._op.done:
            return
        answered = value.set
        if self._confirming:
            self._go_on(self._collect.confirmed(op.tag, unchanged=answered.unchanged))
            return
        part = self._parts[op.tag]
        if not len(answered.values) == len(answered.versions) == len(part.keys):
            self._op.refuse(_broken())
            return
        self._values.update(zip(part.keys, answered.values, strict=True))
        self._go_on(self._collect.collected(op.tag, answered.versions))

    def refused(self, op: Op, refusal: Refusal) -> None:  # noqa: ARG002
        self._op.refuse(refusal)


def _broken() -> Refusal:
    return Refusal(
        refusals.INTERNAL,
        "a group did not answer with a value and a version for each key that it was asked for; are "
        "router and nodes of the same version?",
    )
