"""What fake routers share: a store in memory that runs every id once, and remembers what came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from overdb.v1 import kv_pb2

Entry = kv_pb2.BatchRequest.Entry
Answer = kv_pb2.BatchResponse.Entry


class Store:
    """A dictionary with versions."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, int]] = {}
        self.history: dict[int, dict[bytes, tuple[bytes, int]]] = {}  # values by version
        self.clock = 1000
        self.results: dict[tuple[bytes, int], bytes] = {}  # serialized Answer by id
        self.ran: Counter[tuple[bytes, int]] = Counter()
        self.below: dict[bytes, int] = {}  # acknowledged_below by client id

    def answer(self, entry: Entry) -> Answer:
        """Run one entry of a batch."""
        answer = Answer(tag=entry.tag)
        kind = entry.WhichOneof("request")
        if kind == "get":
            self._get(entry.get, answer)
            return answer
        assert kind is not None
        request_id = getattr(entry, kind).id
        name = (request_id.client_id, request_id.request_number)
        below = self.below.get(request_id.client_id, 0)
        self.below[request_id.client_id] = max(below, request_id.acknowledged_below)
        if name in self.results:
            answer = Answer.FromString(self.results[name])
            answer.tag = entry.tag
            return answer
        if request_id.request_number < below:
            answer.error.code = 9
            answer.error.message = f"request {request_id.request_number} is stale"
            return answer
        self.ran[name] += 1
        self.clock += 1
        if kind == "put":
            self.values[entry.put.key] = (entry.put.value, self.clock)
            answer.put.version = self.clock
        elif kind == "delete":
            answer.delete.existed = self.values.pop(entry.delete.key, None) is not None
            answer.delete.version = self.clock
        else:
            self._transact(entry.transact, answer)
        self.history[self.clock] = dict(self.values)
        self.results[name] = answer.SerializeToString()
        return answer

    def at(self, version: int) -> dict[bytes, tuple[bytes, int]]:
        """Return what a read at a version sees; 0: now."""
        older = [one for one in self.history if one <= version]
        return self.history[max(older)] if older and version < self.clock else self.values

    def _get(self, request: kv_pb2.GetRequest, answer: Answer) -> None:
        if not request.key:
            answer.error.code = 3
            answer.error.message = "key is empty: a key has 1 to 4096 bytes"
            return
        found = self.at(request.read.version).get(request.key)
        answer.get.found = found is not None
        if found is not None:
            answer.get.value, answer.get.version = found

    def _holds(self, compare: kv_pb2.Compare) -> bool:
        value, version = self.values.get(compare.key, (None, 0))
        target = compare.WhichOneof("target")
        if target == "exists":
            equal = (value is not None) == compare.exists
            return equal if compare.operator == 1 else not equal
        mine: int | bytes = version if target == "version" else value or b""
        other: int | bytes = compare.version if target == "version" else compare.value
        return {
            1: mine == other,
            2: mine != other,
            3: mine < other,  # type: ignore[operator]
            4: mine > other,  # type: ignore[operator]
        }[int(compare.operator)]

    def _transact(self, request: kv_pb2.TransactRequest, answer: Answer) -> None:
        holds = all(self._holds(compare) for compare in request.compares)
        response = answer.transact
        response.succeeded = holds
        response.version = self.clock
        for operation in request.then if holds else request.otherwise:
            result = response.results.add()
            kind = operation.WhichOneof("operation")
            assert kind is not None
            key = getattr(operation, kind).key
            value, version = self.values.get(key, (b"", 0))
            result.found = key in self.values
            result.version = self.clock
            if kind == "get":
                result.value, result.version = value, version
            elif kind == "put":
                self.values[key] = (operation.put.value, self.clock)
            elif kind == "delete":
                self.values.pop(key, None)
            else:
                result.value = b"%d" % (int(value or b"0") + operation.add.delta)
                self.values[key] = (result.value, self.clock)

    def pages(self, request: kv_pb2.ScanRequest, size: int) -> Iterator[kv_pb2.ScanResponse]:
        """Yield the pages of a scan, of ``size`` items each."""
        values = self.at(request.read.version)
        keys = sorted(
            key for key in values if key >= request.start and (not request.end or key < request.end)
        )
        if request.reverse:
            keys.reverse()
        if request.limit:
            keys = keys[: request.limit]
        for at in range(0, max(1, len(keys)), size):
            page = kv_pb2.ScanResponse(version=request.read.version or self.clock)
            for key in keys[at : at + size]:
                value, version = values[key]
                page.items.add(key=key, value=b"" if request.keys_only else value, version=version)
            yield page
