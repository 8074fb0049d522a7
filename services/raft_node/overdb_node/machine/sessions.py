"""Exactly once: results are kept by id until the client will not ask again (PROTOCOL 2.2, 2.10)."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable

from overdb_node.machine import id_refusals, kept, packing
from overdb_node.machine.floors import Floors
from overdb_node.machine.id_refusals import (
    ahead,
    created_us,
    is_ahead,
    malformed,
    name_of,
    reused,
    told,
)
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.store import Reader
from overdb_node.machine.types import Code, Refused, RequestId, Result, TransactionId, Untimely

_NUMBER = struct.Struct(">Q")
ENTRY_PREFIX = b"d"  # + log index: all results of that entry
_CLIENT_PREFIX = b"c"  # + client id: what it has acknowledged
# What expires is forgotten in portions, because heartbeats wait behind an entry that is applied.
EXPIRED_SESSIONS_PER_ENTRY_MAX = 16
EXPIRED_RESULTS_PER_ENTRY_MAX = 1024


# From this level on what is kept is bounded in bytes too.
BYTES_LEVEL = 1


class Session:
    """What is kept of one client id. Holds exactly the results at and above ``acknowledged_below``."""

    __slots__ = ("acknowledged_below", "created", "extra_bytes", "results", "results_max")

    def __init__(self, created: int, acknowledged_below: int) -> None:
        self.created = created  # microseconds since the epoch, by the client
        self.acknowledged_below = acknowledged_below
        self.results: dict[int, tuple[int, int | Result, int]] = {}  # -> fingerprint, result, index
        # What its results take beyond ``kept.RESULT_BYTES`` each, and its transactions over several groups.
        self.extra_bytes = 0
        self.results_max = 0  # how many results there may be beside that: see ``Sessions._measure``


class Sessions:
    """All sessions of the group, and what of them is to be written."""

    def __init__(self, settings: MachineSettings, floors: Floors, reader: Reader) -> None:
        self._settings = settings
        self._floors = floors
        self._reader = reader
        self._sessions: dict[bytes, Session] = {}
        # (!) Finds nobody while the group is full: every request then goes the way that looks at the bounds.
        self.session_of: Callable[[bytes], Session | None] = self._sessions.get
        self._by_creation: list[tuple[int, bytes]] = []  # a heap
        # Log index -> results still kept of it. Of the entry that is being applied: minus those dropped.
        self._open_in_entry: dict[int, int] = {}
        # Results of the entry that is being applied, as Kept has them.
        self._entry: list[tuple[bytes, int, int, int | Result]] = []
        self._index = 0
        self._records: dict[bytes, bytes | None] = {}  # of the entry
        self._batch: dict[bytes, bytes | None] = {}  # of all entries since they were taken
        self._touched: dict[bytes, None] = {}
        self.kept = 0
        self._extra_bytes = 0  # of all results
        self.record_bytes = (
            0  # of transactions over several groups and of what waits: kept by Participant
        )
        # Told of numbers that a client has closed: all below this, or all (None).
        self.on_closed: Callable[[bytes, int | None], None] = lambda *_: None

    def load(self) -> None:
        """Rebuild from the records."""
        for name, content in self._reader.records(_CLIENT_PREFIX):
            self._open(name[1:], _NUMBER.unpack(content)[0])
        for name, content in self._reader.records(ENTRY_PREFIX):
            index = _NUMBER.unpack(name[1:])[0]
            for one in packing.unpack(content):
                session = self._sessions.get(one.client_id)
                if session is not None and one.number >= session.acknowledged_below:
                    session.results[one.number] = (one.fingerprint, one.result, index)
                    self._open_in_entry[index] = self._open_in_entry.get(index, 0) + 1
                    self.kept += 1
                    self._charge(session, kept.size_of(one.result))

    # --- one entry --------------------------------------------------------------------------------

    def begin_entry(self, index: int) -> None:
        self._index = index
        self._close_expired()
        self.session_of = _find_nobody if self._is_full() else self._sessions.get

    def end_entry(self) -> dict[bytes, bytes | None]:
        """Return the records that the entry has changed."""
        if self._entry:
            self._end_results()
        if self._touched:
            for client_id in self._touched:
                below = self._sessions[client_id].acknowledged_below
                self._records[_CLIENT_PREFIX + client_id] = _NUMBER.pack(below)
            self._touched = {}
        if not self._records:
            return {}
        changed, self._records = self._records, {}
        self._batch.update(changed)
        return changed

    def _end_results(self) -> None:
        """Count the entry's results, less those that a later request in it has acknowledged already."""
        added, self._entry = self._entry, []
        self.kept += len(added)
        left = self._open_in_entry.pop(self._index, 0) + len(added)
        if left:
            self._open_in_entry[self._index] = left
        name = ENTRY_PREFIX + _NUMBER.pack(self._index)
        self._records[name] = packing.pack(added) if left else None

    def find(self, request: RequestId, fingerprint: int) -> Result | None:
        """The answer that is stored under this id. It comes before everything else (PROTOCOL 2.10)."""
        session = self._sessions.get(request.client_id)
        stored = None if session is None else session.results.get(request.request_number)
        if stored is None:
            return None
        result = packing.result_of(stored[1])
        return result if stored[0] == fingerprint else reused(request, told(result))

    def admit(self, request: RequestId, physical: int) -> Refused | None:
        """Why a request without a stored answer may not run; None: run it, then ``keep``."""
        client_id, number, _, acknowledged_below = request
        session = self._sessions.get(client_id)
        if session is not None:
            if number < session.acknowledged_below:
                return Refused(
                    Code.FAILED_PRECONDITION,
                    f"request {name_of(request)} is stale: its client has acknowledged every number "
                    f"below {session.acknowledged_below}; it was not run again",
                )
            if session.acknowledged_below < acknowledged_below <= number:
                self.acknowledge(session, client_id, acknowledged_below)
            if len(session.results) >= session.results_max:
                return self._refuse_more(client_id, session)
        refusal = self._refuse_id(request, physical) or self.refuse_when_full()
        if refusal is not None or session is not None:
            return refusal
        self._open(client_id, acknowledged_below)
        self._touched[client_id] = None
        return None

    def stored(self, identity: TransactionId) -> Result | None:
        """The result that is kept under this id."""
        session = self._sessions.get(identity.client_id)
        one = None if session is None else session.results.get(identity.request_number)
        return None if one is None else packing.result_of(one[1])

    def is_gone(self, identity: TransactionId) -> bool:
        """Whether the id is stale or expired here: it is never run again (PROTOCOL 2.10)."""
        session = self._sessions.get(identity.client_id)
        if session is not None and identity.request_number < session.acknowledged_below:
            return True
        return created_us(identity.client_id) < self._floors.ids

    def open(self, request: RequestId) -> None:
        """See to it that the client's acknowledgements and its expiry are noticed."""
        if request.client_id not in self._sessions:
            self._open(request.client_id, request.acknowledged_below)
            self._touched[request.client_id] = None

    def refuse_beyond(self, client_id: bytes, physical: int) -> Refused | None:
        """Why nothing is to be kept under an id of this client, not even that it was refused.

        Ids from ahead are refused, and that is remembered until they expire. A client that is ahead by more
        than the lifetime of an id is none whose clock is a little wrong.
        """
        settings = self._settings
        most = physical + settings.ahead_us_max + settings.client_id_lifetime_us
        if created_us(client_id) <= most:
            return None
        return Untimely.at(
            physical,
            Code.INVALID_ARGUMENT,
            f"client id {client_id.hex()[:40]} is from {(created_us(client_id) - physical) / 1e6:.0f} s "
            "ahead of this group's time; nothing was stored. Set the client's clock",
        )

    def _refuse_id(self, request: RequestId, physical: int) -> Refused | None:
        refusal = malformed(request)
        if refusal is not None:
            return refusal
        settings = self._settings
        if created_us(request.client_id) < self._floors.ids:
            return Untimely.at(physical, Code.FAILED_PRECONDITION, self._expired(request, physical))
        if is_ahead(request, physical, settings.ahead_us_max):
            return ahead(request, physical, settings.ahead_us_max)
        return None

    def _expired(self, request: RequestId, physical: int) -> str:
        """Say why an id below the floor is refused, and what to do."""
        who = f"client id {request.client_id.hex()}"
        age_us = physical - created_us(request.client_id)
        if self._floors.ids > physical:
            wait_s = (self._floors.ids - physical) / 1e6
            return (
                f"{who} is of a time that has expired: the time of this group was wrong and has been "
                f"repaired, and an earlier copy may have run before. Request {request.request_number} was "
                f"not run now: take a new id in {wait_s:.0f} s"
            )
        if age_us < self._settings.client_id_lifetime_us:
            return (
                f"{who} has expired, and stays so though the limit was raised or the time of this group "
                f"repaired since. Request {request.request_number} was not run: take a new id"
            )
        return (
            f"{who} has expired: it was created {age_us / 1e6:.0f} s before this group's time, the limit "
            f"is {self._settings.client_id_lifetime_us // 1_000_000} s. Request {request.request_number} "
            "was not run: take a new id, and if that is refused too, set the clock of the machine that "
            "made it"
        )

    def keep(self, request: RequestId, fingerprint: int, result: int | Result) -> None:
        """Keep the result of a request that was admitted and ran.

        One that was parked meanwhile may be stale or expired by now: no copy of it will ever run.
        """
        session = self._sessions.get(request.client_id)
        if session is None or request.request_number < session.acknowledged_below:
            return
        self._charge(session, kept.size_of(result))
        self.keep_in(session, request.client_id, request.request_number, fingerprint, result)

    def keep_in(
        self,
        session: Session,
        client_id: bytes,
        number: int,
        fingerprint: int,
        result: int | Result,
    ) -> None:
        """Keep the result of a request that was admitted to this session, and not acknowledged since.

        A Put's needs no room beside ``kept.RESULT_BYTES``; for others see ``keep``.
        """
        session.results[number] = (fingerprint, result, self._index)
        self._entry.append((client_id, number, fingerprint, result))

    # --- bounds (PROTOCOL 2.10) -------------------------------------------------------------------

    def _charge(self, session: Session, size: int) -> None:
        """Count what a result takes beside the same for all; negative where it is forgotten."""
        if size:
            self._extra_bytes += size
            session.extra_bytes += size
            self._measure(session)

    def charge_records(self, client_id: bytes, whole: int, own: int) -> None:
        """Count a change of what records of transactions take: in all, and of the client's own bound."""
        self.record_bytes += whole
        session = self._sessions.get(client_id)
        if session is not None and own:
            session.extra_bytes += own
            self._measure(session)

    def _measure(self, session: Session) -> None:
        """How many results the session may have, by their number and by the bytes that are left."""
        settings = self._settings
        session.results_max = settings.unacknowledged_per_client_max
        if settings.level >= BYTES_LEVEL:
            left = (settings.result_bytes_per_client_max - session.extra_bytes) // kept.RESULT_BYTES
            session.results_max = min(session.results_max, max(left, 0))

    def measure_all(self) -> None:
        """The limits or the level have changed."""
        for session in self._sessions.values():
            self._measure(session)

    @property
    def bytes_kept(self) -> int:
        """What results, client ids and records take, as the bounds count them."""
        return (
            self.kept * kept.RESULT_BYTES
            + len(self._sessions) * kept.SESSION_BYTES
            + self._extra_bytes
            + self.record_bytes
        )

    def _is_full(self) -> bool:
        settings = self._settings
        return settings.level >= BYTES_LEVEL and self.bytes_kept >= settings.result_bytes_max

    def refuse_when_full(self) -> Refused | None:
        """Why nothing more is kept for anybody; None: there is room."""
        if not self._is_full():
            return None
        limit = self._settings.result_bytes_max
        return id_refusals.full(self.bytes_kept, len(self._sessions), limit)

    def acknowledge_by(self, request: RequestId) -> None:
        """Take in what a request acknowledges, before it is known whether it runs."""
        session = self._sessions.get(request.client_id)
        below = request.acknowledged_below
        if session is not None and session.acknowledged_below < below <= request.request_number:
            self.acknowledge(session, request.client_id, below)

    def refuse_records(self, client_id: bytes) -> Refused | None:
        """Why this client may not begin a transaction over several groups; None: it may."""
        session = self._sessions.get(client_id)
        if session is not None and len(session.results) >= session.results_max:
            return self._refuse_more(client_id, session)
        return self.refuse_when_full()

    def _refuse_more(self, client_id: bytes, session: Session) -> Refused:
        """What a client is told that has not acknowledged what it has got."""
        settings, count = self._settings, len(session.results)
        size = session.extra_bytes + count * kept.RESULT_BYTES
        if count >= settings.unacknowledged_per_client_max:
            has, limit = f"{count} results", settings.unacknowledged_per_client_max
        else:
            has = f"{size} bytes of results and transactions"
            limit = settings.result_bytes_per_client_max
        return id_refusals.unacknowledged(client_id, has, limit)

    # --- forgetting -------------------------------------------------------------------------------

    def _open(self, client_id: bytes, acknowledged_below: int) -> None:
        created = created_us(client_id)
        self._sessions[client_id] = session = Session(created, acknowledged_below)
        self._measure(session)
        heapq.heappush(self._by_creation, (created, client_id))

    def acknowledge(self, session: Session, client_id: bytes, below: int) -> None:
        """Forget the results below a number: the client will not ask again."""
        results, start = session.results, session.acknowledged_below
        session.acknowledged_below = below
        self._touched[client_id] = None
        numbers = (
            range(start, below)
            if below - start <= len(results)
            else [number for number in results if number < below]
        )
        freed = 0
        for number in numbers:
            one = results.pop(number, None)
            if one is not None:
                self._drop(one[2])
                if type(one[1]) is not int:
                    freed += kept.size_of(one[1])
        self._charge(session, -freed)
        self.on_closed(client_id, below)

    def _drop(self, index: int) -> None:
        """One result of the entry at ``index`` is kept no more; its record goes with the last one."""
        self.kept -= 1
        if index == self._index:  # it is being applied, and its results are counted at its end
            self._open_in_entry[index] = self._open_in_entry.get(index, 0) - 1
            return
        left = self._open_in_entry[index] - 1
        if left:
            self._open_in_entry[index] = left
        else:
            del self._open_in_entry[index]
            self._records[ENTRY_PREFIX + _NUMBER.pack(index)] = None

    def _close_expired(self) -> None:
        """Close sessions whose id has expired: decided by the log alone, bounded work an entry.

        One with more results than may go at once loses those of its smallest numbers, as if it had
        acknowledged them: its record says so, and a replica that restarts half way goes on from there.
        """
        heap, oldest = self._by_creation, self._floors.ids
        results_left = EXPIRED_RESULTS_PER_ENTRY_MAX
        for _ in range(EXPIRED_SESSIONS_PER_ENTRY_MAX):
            if not heap or heap[0][0] >= oldest:
                return
            client_id = heap[0][1]
            session = self._sessions[client_id]
            if len(session.results) > results_left:
                self.acknowledge(session, client_id, sorted(session.results)[results_left])
                return
            results_left -= len(session.results)
            heapq.heappop(heap)
            for _, result, index in self._sessions.pop(client_id).results.values():
                self._drop(index)
                self._extra_bytes -= kept.size_of(result)
            self._touched.pop(client_id, None)
            self._records[_CLIENT_PREFIX + client_id] = None
            self.on_closed(client_id, None)

    # --- the batch --------------------------------------------------------------------------------

    def take_records(self) -> list[tuple[bytes, bytes | None]]:
        """Everything that changed since the last call, each name once."""
        taken, self._batch = list(self._batch.items()), {}
        return taken

    def __len__(self) -> int:
        return len(self._sessions)

    def digest_items(self) -> list[tuple[object, ...]]:
        """All of it in an order of its own, for comparisons in tests."""
        return [
            (client_id, session.acknowledged_below, sorted(session.results.items()))
            for client_id, session in sorted(self._sessions.items())
        ]


def _find_nobody(_: bytes) -> None:
    return None
