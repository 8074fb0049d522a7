"""A group's part in transactions over several: votes, outcomes, fences, forgetting (PROTOCOL 2.3 - 2.10).

Nothing here asks anybody: a message is applied to what is stored, and the answer follows from that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from overdb_common.outcome import COUNTING_LEVEL
from overdb_node.machine import bounds, id_refusals, kept, transact, validation
from overdb_node.machine.clock import Clock
from overdb_node.machine.id_refusals import reused, told
from overdb_node.machine.locks import Locker, Locks
from overdb_node.machine.overlay import Overlay
from overdb_node.machine.records import (
    PARKED_PREFIX,
    TRANSACTION_PREFIX,
    Parked,
    Transaction,
    identity_of,
    unpack_parked,
    unpack_transaction,
)
from overdb_node.machine.sessions import BYTES_LEVEL, Sessions
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.slots import Slots
from overdb_node.machine.store import Reader
from overdb_node.machine.types import (
    Acknowledged,
    Code,
    Delete,
    Forget,
    Inquire,
    Operation,
    OperationResult,
    Outcome,
    Prepare,
    Put,
    Refused,
    RequestId,
    Resolve,
    Result,
    Token,
    Transact,
    TransactionId,
    Unread,
    Untimely,
    Vote,
    VoteKind,
    Waits,
)

_COMMIT_VERSION = 0  # stands in results for the timestamp that is not known yet
_UNKNOWN = 0  # fingerprint of a fence that an abort left
_LISTED_GROUPS_MAX = 8
# (!) It must not see a vote that is sized: it would decide without the bound.
_OLDER_ROUTER = Refused(
    Code.FAILED_PRECONDITION,
    "this router is older than the cluster: start the cluster's release there. This copy was not run",
)
# Of all requests that wait for locks: they run within one entry.
PARKED_BYTES_MAX = 32 << 20
_PARKED = "a request in one group that waits for a transaction"
RunParked = Callable[[Put | Delete | Transact, int], Result]


class Participant:
    """Transactions and parked requests of one group. Changes only while an entry is applied.

    ``run_parked(command, fingerprint)`` runs a request that was parked, and keeps its result.
    """

    def __init__(
        self,
        settings: MachineSettings,
        reader: Reader,
        overlay: Overlay,
        clock: Clock,
        slots: Slots,
        sessions: Sessions,
        run_parked: RunParked,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._overlay = overlay
        self._clock = clock
        self._slots = slots
        self._sessions = sessions
        self._run_parked = run_parked
        self.locks = Locks()
        self.by_client: dict[bytes, dict[int, Transaction]] = {}  # by client, by number
        self.parked: dict[TransactionId, Parked] = {}  # in log order
        self._parked_on: dict[bytes, dict[TransactionId, Parked]] = {}
        self._parked_keys = 0
        self.open: dict[TransactionId, Transaction] = {}  # voted, without an outcome
        self.unforgotten: dict[TransactionId, Transaction] = {}  # committed, without a Forget
        self._ticket = 0
        self._changed: dict[bytes, Transaction | Parked | None] = {}  # by the entry
        # Of each record: whose it is, its bytes as the bounds count them, those of the client's own bound.
        self._counted: dict[bytes, tuple[bytes, int, int]] = {}
        self._parked_bytes = 0
        self._batch: dict[bytes, bytes | None] = {}  # records of all entries since they were taken
        self._released: list[tuple[Token, Result]] = []
        self._released_keys: dict[bytes, None] = {}  # for readers that wait
        self.alarms: list[str] = []  # what cannot happen, and did
        sessions.on_closed = self._close

    def load(self) -> None:
        """Rebuild from the records; queues stand as their tickets say."""
        queued: list[tuple[int, Locker]] = []
        for _, packed in self._reader.records(TRANSACTION_PREFIX):
            transaction, ticket = unpack_transaction(packed)
            self._store(transaction)
            self._count(transaction.name, transaction, len(packed))
            queued.append((ticket, transaction))
        parked = []
        for _, packed in self._reader.records(PARKED_PREFIX):
            parked.append(unpack_parked(packed))
            self._count(parked[-1][0].name, parked[-1][0], len(packed))
        for one, ticket in sorted(parked, key=lambda item: item[0].order):
            self._index_parked(one)
            queued.append((ticket, one))
        for ticket, locker in sorted(queued, key=lambda item: item[0]):
            if ticket:
                self.locks.enter(locker, ticket)
        self._changed.clear()

    # --- one entry --------------------------------------------------------------------------------

    def begin_entry(self, index: int) -> None:
        """Tickets follow the log, so that they are the same on every replica."""
        self._ticket = index << 20

    def end_entry(self) -> dict[bytes, bytes | None]:
        """Return the records that the entry has changed."""
        if not self._changed:
            return {}
        changed, self._changed = self._changed, {}
        records: dict[bytes, bytes | None] = {}
        for name, one in changed.items():
            records[name] = packed = None if one is None else one.pack()
            self._count(name, one, 0 if packed is None else len(packed))
        self._batch.update(records)
        return records

    def _count(self, name: bytes, one: Transaction | Parked | None, size: int) -> None:
        """Have the bounds know what a record takes now.

        Of the client's own bound what is kept for its retries; what waits or is open counts in all alone.
        """
        before = self._counted.pop(name, None)
        if before is not None:
            client_id, whole, own = before
            self._sessions.charge_records(client_id, -whole, -own)
        if one is not None:
            whole = kept.RECORD_BYTES + size
            own = whole if isinstance(one, Transaction) and one.part is None else 0
            self._counted[name] = (one.id.client_id, whole, own)
            self._sessions.charge_records(one.id.client_id, whole, own)

    def take_records(self) -> list[tuple[bytes, bytes | None]]:
        """Everything that changed since the last call, each name once."""
        taken, self._batch = list(self._batch.items()), {}
        return taken

    def take_released(self) -> list[tuple[Token, Result]]:
        """Answers to what waited, in the order in which they came to be."""
        released, self._released = self._released, []
        return released

    def take_released_keys(self) -> dict[bytes, None]:
        """Keys that somebody has left since the last call."""
        keys, self._released_keys = self._released_keys, {}
        return keys

    # --- what others ask ----------------------------------------------------------------------------

    def find(self, request: RequestId) -> Transaction | None:
        numbers = self.by_client.get(request.client_id)
        return None if numbers is None else numbers.get(request.request_number)

    def find_id(self, identity: TransactionId) -> Transaction | None:
        return self.by_client.get(identity.client_id, {}).get(identity.request_number)

    def stored_answer(self, request: RequestId, fingerprint: int) -> Result | None:
        """What a request inside this group is answered with, when its id is parked or a transaction's."""
        parked = self.parked.get(identity_of(request))
        if parked is not None:
            if parked.fingerprint != fingerprint:
                return reused(request, _PARKED)
            return Waits(Token(*parked.id, 0))  # a copy never runs (PROTOCOL 2.6)
        stored = self.find(request)
        return None if stored is None else reused(request, _told(stored))

    def reader_waits(self, key: bytes, version: int | None) -> bool:
        """Whether a read of the key has to wait: a transaction that may already have been acknowledged
        holds it exclusively (PROTOCOL 2.6); for a read at a version, one that voted at or below it (2.7).
        """
        holder = self.locks.exclusive_holder(key)
        if not isinstance(holder, Transaction) or not holder.is_open:
            return False
        assert holder.vote is not None
        return version is None or holder.vote.version <= version

    def transactions(self) -> Iterator[Transaction]:
        for numbers in self.by_client.values():
            yield from numbers.values()

    # --- Prepare (PROTOCOL 2.3) ---------------------------------------------------------------------

    def prepare(self, command: Prepare) -> Result:
        malformed = self._checks and bounds.refuse_part(command, self._settings)
        if malformed:
            return malformed
        counts = self._settings.level >= COUNTING_LEVEL
        if counts and not command.bounded:
            return _OLDER_ROUTER
        if command.bounded and not counts:
            command = command._replace(bounded=False)  # replicas of release 0.1.0 do not keep it
        stored = self.find(command.id)
        if stored is not None:
            answer = self._prepare_again(stored, command)
            if answer is not None:
                return answer
            self._drop(stored)
        else:
            foreign = self._foreign_use(command.id)
            if foreign is not None:
                return foreign
            refusal = id_refusals.malformed(command.id) or self._refuse_to_store(command.id)
            if refusal is not None:
                return refusal
            if self._sessions.is_gone(identity_of(command.id)):
                return Vote(VoteKind.STALE, command.attempt, refusal=self._stale(command.id))
            refusal = self._refuse_more(command.id)
            if refusal is not None:
                return refusal
        transaction = Transaction(
            command.id, command.attempt, command.fingerprint, command.participants, command
        )
        refusal = self._refuse(command)
        self._store(transaction)
        if refusal is not None:
            self._sessions.open(command.id)  # so that the record goes when the id expires
            vote = self._refuse_vote(transaction, refusal)
            # What is full now may have room for another attempt; what is wrong stays wrong.
            return self._keep(
                transaction, vote._replace(again=refusal.code is Code.RESOURCE_EXHAUSTED)
            )
        return self._lock(transaction)

    def _refuse_more(self, request: RequestId) -> Refused | None:
        """Why there is no room for a transaction of this client; nothing of it is stored, then."""
        if self._settings.level >= BYTES_LEVEL:
            self._sessions.acknowledge_by(request)  # it may make the room
        count = len(self.by_client.get(request.client_id, ()))
        if count >= self._settings.unacknowledged_per_client_max:
            return Refused(
                Code.RESOURCE_EXHAUSTED,
                f"client {request.client_id.hex()} has {count} transactions that it has not "
                "acknowledged; send acknowledged_below",
            )
        return self._sessions.refuse_records(request.client_id)

    def _prepare_again(self, stored: Transaction, command: Prepare) -> Result | None:
        """The answer from a stored record; None: a newer attempt begins."""
        if stored.fingerprint not in (_UNKNOWN, command.fingerprint):
            return Vote(VoteKind.REUSED, command.attempt, refusal=reused(command.id, _told(stored)))
        if command.attempt < stored.attempt:
            return Vote(VoteKind.SUPERSEDED, stored.attempt)
        if command.attempt == stored.attempt:
            stored.heard += 1
            if stored.vote is None:
                return Waits(_token(stored))
            return self._timed(_given(stored.vote), command.id)
        if stored.is_committed:
            return self._alarm(
                f"a newer attempt {command.attempt} of a committed transaction", stored
            )
        self._abort(stored, superseded_by=command.attempt)
        return None

    def _timed(self, answer: Result, request: RequestId) -> Result:
        """Add the group's time to a repeated refusal if the id is ahead of it. Routers need it to wait."""
        if not isinstance(answer, Vote) or answer.refusal is None:
            return answer
        time = self._clock.physical
        if id_refusals.is_ahead(request, time, self._settings.ahead_us_max):
            return answer._replace(refusal=Untimely.at(time, *answer.refusal))
        return answer

    def _foreign_use(self, request: RequestId) -> Result | None:
        """The id belongs to a request inside this group."""
        if identity_of(request) in self.parked:
            return Vote(VoteKind.REUSED, 0, refusal=reused(request, _PARKED))
        if (result := self._sessions.stored(identity_of(request))) is not None:
            return Vote(VoteKind.REUSED, 0, refusal=reused(request, told(result)))
        return None

    def _refuse(self, command: Prepare) -> Refused | None:
        part = Transact(command.id, command.compares, command.then, command.otherwise)
        refusal = validation.refuse_transact(part, self._settings)
        if refusal is not None:
            return refusal
        keys = (one.key for ones in part[1:] for one in ones)
        if not all(map(self._slots.owns, keys)):
            return Refused(Code.FAILED_PRECONDITION, "the group does not own the slot of a key")
        return self._sessions.admit(command.id, self._clock.physical)

    def _stale(self, request: RequestId) -> Refused:
        refusal = self._sessions.admit(request, self._clock.physical)
        assert refusal is not None
        return refusal

    def _lock(self, transaction: Transaction) -> Result:
        rival = self.locks.rival(transaction)
        if rival is not None:
            key, other = rival
            return self._die(transaction, key, other)
        self._enter(transaction)
        if transaction.holds_all:
            return self._vote(transaction)
        return Waits(_token(transaction))

    def _die(self, transaction: Transaction, key: bytes, other: Locker) -> Vote:
        refusal = Refused(
            Code.ABORTED,
            f"transaction {_name(other.id)} is in the way on key {key[:64]!r} of group "
            f"{self._settings.group}, and it is older or the same age",
        )
        vote = self._refuse_vote(transaction, refusal)
        return self._keep(transaction, vote._replace(rival=other.id, key=key, again=True))

    def _vote(self, transaction: Transaction) -> Vote | Unread:
        """It holds everything: evaluate, read what both branches read, and give the vote for good."""
        part = transaction.part
        assert part is not None
        newest = self._overlay.newest
        holds = all(transact.holds(compare, newest(compare.key)) for compare in part.compares)
        version = self._clock.take()
        then, then_bytes = self._try(part.then)
        otherwise, otherwise_bytes = self._try(part.otherwise)
        vote = Vote(
            VoteKind.PREPARED, transaction.attempt, holds, version, then=then, otherwise=otherwise
        )
        if part.bounded:
            vote = vote._replace(
                sized=True, then_answer_bytes=then_bytes, otherwise_answer_bytes=otherwise_bytes
            )
        self.open[transaction.id] = transaction
        stripped = self._keep(transaction, self._stripped(vote, part))
        return self._overlay.answered(vote, stripped)

    def _stripped(self, vote: Vote, part: Prepare) -> Vote:
        """The vote as it is kept: without the values that can be read again."""
        if self._settings.level < BYTES_LEVEL:
            return vote
        then, otherwise = vote.then, vote.otherwise
        if not isinstance(then, Refused):
            then = kept.strip(part.then, then, _COMMIT_VERSION)
        if not isinstance(otherwise, Refused):
            otherwise = kept.strip(part.otherwise, otherwise, _COMMIT_VERSION)
        return vote._replace(then=then, otherwise=otherwise)

    def _try(
        self, operations: Sequence[Operation]
    ) -> tuple[tuple[OperationResult, ...] | Refused, int]:
        """The results of a branch, should it run, and what they count for in the answer."""
        branch = transact.Branch(self._overlay, _COMMIT_VERSION, self._settings)
        results = branch.run(operations)
        if isinstance(results, Refused):
            return results, 0
        return tuple(results), branch.answer_bytes

    # --- Resolve (PROTOCOL 2.4) ---------------------------------------------------------------------

    def resolve(self, command: Resolve) -> Result:
        stored = self.find_id(command.id)
        aborts = command.outcome is Outcome.ABORTED
        if stored is None:
            if self._is_gone(command.id):
                return Acknowledged()
            if not aborts:
                return self._alarm("a commit of a transaction that is not known here", command.id)
            request = RequestId(*command.id, 0, 0)
            refusal = self._refuse_fence(request, command.attempt)
            if refusal is not None:
                return refusal
            self._fence(request, command.attempt, _UNKNOWN, ())
            return Acknowledged()
        if command.attempt < stored.attempt:
            return Acknowledged()
        if command.attempt > stored.attempt:
            if stored.is_committed or not aborts:
                return self._alarm(f"an outcome of attempt {command.attempt}", stored)
            if self._checks and (refusal := bounds.refuse_attempt(command.attempt)) is not None:
                return refusal
            self._abort(stored, superseded_by=command.attempt)
            self._drop(stored)
            self._fence(stored.request, command.attempt, stored.fingerprint, stored.participants)
            return Acknowledged()
        if aborts:
            if stored.is_committed:
                return self._alarm("an abort of a committed transaction", stored)
            self._abort(stored)
            return Acknowledged()
        return self._commit(stored, command)

    def _commit(self, stored: Transaction, command: Resolve) -> Result:
        vote, part = stored.vote, stored.part
        if vote is None or vote.kind is not VoteKind.PREPARED or vote.outcome is Outcome.ABORTED:
            return self._alarm("a commit without a vote for it", stored)
        if vote.outcome is not None:
            if (vote.outcome, vote.commit_version) != (command.outcome, command.version):
                return self._alarm("another outcome than the one that is stored", stored)
            return Acknowledged()
        if command.version > bounds.version_max(self._settings.level):
            return self._alarm(f"a commit at version {command.version}: no clock is there", stored)
        if self._checks and command.version < vote.version:
            return self._alarm(f"a commit at version {command.version}, below its vote", stored)
        assert part is not None
        operations, results = {
            Outcome.THEN: (part.then, vote.then),
            Outcome.OTHERWISE: (part.otherwise, vote.otherwise),
        }.get(command.outcome, ((), ()))
        if isinstance(results, Refused):
            return self._alarm("a branch that cannot run", stored)
        # Nobody else has written these keys since the vote: what was found then is what there is.
        self._write(transact.written_by(operations, results), command.version)
        self._clock.advance(command.version)
        self._finish(stored, command.outcome, command.version)
        return Acknowledged()

    def _write(self, written: dict[bytes, bytes | None], version: int) -> None:
        values = {key: value for key, value in written.items() if value is not None}
        # Limits may have changed since the Prepare: then these keys are not among those that may be written.
        fits = max(map(len, values), default=0) <= self._settings.key_bytes_max
        if fits and len(values) == len(written) and self._slots.owns_all(values):
            self._overlay.write_all(values, version)
        else:
            transact.write(self._overlay, written, version)

    def _finish(self, transaction: Transaction, outcome: Outcome, version: int) -> None:
        """The outcome of an open transaction: keep what a retry asks for, let go of the rest, release."""
        vote = transaction.vote
        assert vote is not None
        transaction.vote = vote._replace(
            outcome=outcome,
            commit_version=version,
            then=vote.then if outcome in (Outcome.THEN, Outcome.NONE) else (),
            otherwise=vote.otherwise if outcome in (Outcome.OTHERWISE, Outcome.NONE) else (),
        )
        transaction.part = None
        del self.open[transaction.id]
        self._touch(transaction)
        if outcome is not Outcome.ABORTED:
            self.unforgotten[transaction.id] = transaction
        self._release(transaction)
        transaction.modes = {}
        self._drop_if_gone(transaction)

    def _abort(self, transaction: Transaction, superseded_by: int | None = None) -> None:
        """This attempt is aborted, as a stored Refused somewhere says."""
        if transaction.is_open:
            self._finish(transaction, Outcome.ABORTED, 0)
        elif transaction.vote is None:
            refusal = Refused(Code.ABORTED, "the attempt was aborted while it waited for locks")
            vote = self._refuse_vote(transaction, refusal)._replace(again=True)
            self._keep(transaction, vote)
            if superseded_by is None:
                self._answer(transaction, vote)
            else:
                self._answer(transaction, Vote(VoteKind.SUPERSEDED, superseded_by))
            self._release(transaction)
            transaction.part, transaction.modes = None, {}
            self._drop_if_gone(transaction)

    # --- Inquire, Forget (PROTOCOL 2.5, 2.10) ---------------------------------------------------------

    def inquire(self, command: Inquire) -> Result:
        malformed = self._checks and bounds.refuse_part(command, self._settings)
        if malformed:
            return malformed
        refused = Vote(VoteKind.REFUSED, command.attempt)
        stored = self.find(command.id)
        if stored is None:
            if self._foreign_use(command.id) is not None or self._is_gone(identity_of(command.id)):
                return refused
            if id_refusals.malformed(command.id) is not None:
                return refused
            refusal = self._refuse_to_store(command.id)
            if refusal is not None:
                return refusal  # not a vote (!): by the group's time it may be voted for later
            return self._fence(
                command.id, command.attempt, command.fingerprint, command.participants
            )
        if stored.attempt > command.attempt:
            return refused
        if stored.attempt == command.attempt:
            if stored.fingerprint not in (_UNKNOWN, command.fingerprint):
                return (
                    refused  # the id belongs to another request here: it never votes for this one
                )
            if stored.vote is None:
                self._abort(stored)
            assert stored.vote is not None
            return self._for_finisher(stored.vote)
        if stored.is_committed:
            return self._alarm(f"an inquiry for attempt {command.attempt}", stored)
        self._abort(stored, superseded_by=command.attempt)
        self._drop(stored)
        return self._fence(command.id, command.attempt, command.fingerprint, command.participants)

    def _for_finisher(self, vote: Vote) -> Vote:
        """What decides of a vote. A finisher asks for many at once, and has no use for results."""
        if self._settings.level < BYTES_LEVEL:
            return vote
        then = vote.then if isinstance(vote.then, Refused) else ()
        otherwise = vote.otherwise if isinstance(vote.otherwise, Refused) else ()
        return vote._replace(then=then, otherwise=otherwise)

    def _fence(
        self, request: RequestId, attempt: int, fingerprint: int, participants: tuple[int, ...]
    ) -> Vote:
        """Store a Refused for an attempt that was not seen: a Prepare that comes later is refused."""
        self._sessions.open(request)
        transaction = Transaction(request, attempt, fingerprint, participants, None)
        self._store(transaction)
        refusal = Refused(Code.ABORTED, "the attempt was given up before it arrived here")
        vote = self._refuse_vote(transaction, refusal)
        return self._keep(transaction, vote._replace(again=True))

    @property
    def _checks(self) -> bool:
        """Whether bounds hold for commands here (PROTOCOL 2.11): entries from before level 1 know none."""
        return self._settings.level >= 1

    def _refuse_to_store(self, request: RequestId) -> Refused | None:
        """Why nothing is kept under an id: its record would not go for longer than any other."""
        if not self._checks:
            return None
        return self._sessions.refuse_beyond(request.client_id, self._clock.physical)

    def _refuse_fence(self, request: RequestId, attempt: int) -> Refused | None:
        """Why an abort of what was never seen here is not remembered. It names no start and no attempts."""
        if not self._checks:
            return None
        return (
            id_refusals.malformed(request)
            or self._refuse_to_store(request)
            or bounds.refuse_attempt(attempt)
        )

    def forget(self, command: Forget) -> Result:
        stored = self.find_id(command.id)
        if stored is not None and stored.attempt == command.attempt and stored.is_committed:
            if not stored.forget:
                stored.forget = True
                self._touch(stored)
            self.unforgotten.pop(stored.id, None)
            self._drop_if_gone(stored)
        return Acknowledged()

    # --- parked requests (PROTOCOL 2.6) ---------------------------------------------------------------

    def park(self, command: Put | Delete | Transact, fingerprint: int) -> Waits | Refused | None:
        """Park a request when somebody holds one of its keys; None: it runs now.

        What is parked runs in one entry, that of the release, and heartbeats wait behind it: so there is
        a bound, beyond which a request is refused and nothing of it is kept.
        """
        parked = Parked(command, fingerprint, 0)
        holder = self.locks.holder(parked)
        if holder is None:
            return None
        limit = self._settings.parked_keys_max
        if self._parked_keys + len(parked.modes) > limit:
            return Refused(
                Code.RESOURCE_EXHAUSTED,
                f"requests on {self._parked_keys} keys wait for transactions of group "
                f"{self._settings.group}, the limit is {limit}; this one would wait for "
                f"{_name(holder.id)}; retry later",
            )
        size = parked.value_bytes
        if (
            self._settings.level >= BYTES_LEVEL
            and self._parked_bytes
            and self._parked_bytes + size > PARKED_BYTES_MAX
        ):
            return Refused(
                Code.RESOURCE_EXHAUSTED,
                f"{self._parked_bytes} bytes of requests wait for transactions of group "
                f"{self._settings.group}, the limit is {PARKED_BYTES_MAX}; this one, of {size} bytes, would "
                f"wait for {_name(holder.id)}; retry later",
            )
        parked.order = self._next_ticket()
        self._index_parked(parked)
        self._changed[parked.name] = parked
        self._enter_if_oldest(parked)
        return Waits(Token(*parked.id, 0))

    def _enter_if_oldest(self, parked: Parked) -> None:
        if not parked.ticket and self.locks.rival(parked) is None:
            self._enter(parked)

    def _index_parked(self, parked: Parked) -> None:
        self.parked[parked.id] = parked
        self._parked_keys += len(parked.modes)
        self._parked_bytes += parked.value_bytes
        for key in parked.modes:
            self._parked_on.setdefault(key, {})[parked.id] = parked

    def _unpark(self, parked: Parked) -> None:
        del self.parked[parked.id]
        self._parked_keys -= len(parked.modes)
        self._parked_bytes -= parked.value_bytes
        for key in parked.modes:
            on_key = self._parked_on[key]
            del on_key[parked.id]
            if not on_key:
                del self._parked_on[key]
        self._changed[parked.name] = None
        self.locks.leave(parked)

    # --- releases -------------------------------------------------------------------------------------

    def _release(self, locker: Locker) -> None:
        """Leave the queues: what is parked and may run runs, in log order; then waiters get their votes.

        Who holds what does not change between the leaving and the votes, but for the one that left.
        """
        keys = dict.fromkeys(locker.modes)
        self.locks.leave(locker)
        self._clock.released()
        self._released_keys.update(keys)
        for parked in self._parked_among(keys):
            if self.locks.holder(parked) is None:
                self._unpark(parked)
                keys.update(dict.fromkeys(parked.modes))
                result = self._run_parked(parked.command, parked.fingerprint)
                self._released.append((Token(*parked.id, 0), result))
        for parked in self._parked_among(keys):
            self._enter_if_oldest(parked)
        for granted in self.locks.promote(keys):
            assert isinstance(granted, Transaction)
            self._answer(granted, self._vote(granted))

    def _parked_among(self, keys: dict[bytes, None]) -> list[Parked]:
        found = {one.id: one for key in keys for one in self._parked_on.get(key, {}).values()}
        return sorted(found.values(), key=lambda parked: parked.order)

    def _answer(self, transaction: Transaction, vote: Vote | Unread) -> None:
        self._released.append((_token(transaction), vote))

    # --- records ----------------------------------------------------------------------------------------

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket

    def _enter(self, locker: Transaction | Parked) -> None:
        self.locks.enter(locker, self._next_ticket())
        self._changed[locker.name] = locker

    def _touch(self, transaction: Transaction) -> None:
        self._changed[transaction.name] = transaction

    def _keep(self, transaction: Transaction, vote: Vote) -> Vote:
        """Return the vote, and store it in the form in which a restart reads it."""
        transaction.vote = vote
        if isinstance(vote.refusal, Untimely):
            transaction.vote = vote._replace(refusal=Refused(*vote.refusal))
        self._touch(transaction)
        return vote

    def _refuse_vote(self, transaction: Transaction, refusal: Refused) -> Vote:
        vote = Vote(
            VoteKind.REFUSED, transaction.attempt, version=self._clock.take(), refusal=refusal
        )
        if not transaction.ticket:  # one that waits keeps its keys until it is released
            transaction.part = None
            transaction.modes = {}
        return self._keep(transaction, vote)

    def _store(self, transaction: Transaction) -> None:
        client_id, number = transaction.id
        self.by_client.setdefault(client_id, {})[number] = transaction
        self._touch(transaction)
        if transaction.is_open:
            self.open[transaction.id] = transaction
        elif transaction.is_committed and not transaction.forget:
            self.unforgotten[transaction.id] = transaction

    def _drop(self, transaction: Transaction) -> None:
        client_id, number = transaction.id
        numbers = self.by_client.get(client_id, {})
        if numbers.get(number) is not transaction:
            return  # it has gone already
        del numbers[number]
        if not numbers:
            del self.by_client[client_id]
        self._changed[transaction.name] = None
        self._count(transaction.name, None, 0)  # now: it may make the room for what comes with it

    def _is_gone(self, identity: TransactionId) -> bool:
        return self._sessions.is_gone(identity)

    def _drop_if_gone(self, transaction: Transaction) -> None:
        """PROTOCOL 2.10: what may be dropped, once the client will not ask again as a fact in this log."""
        if self._is_droppable(transaction) and self._is_gone(transaction.id):
            self._drop(transaction)

    def _is_droppable(self, transaction: Transaction) -> bool:
        vote = transaction.vote
        if vote is None:
            return False
        if vote.kind is VoteKind.REFUSED or vote.outcome is Outcome.ABORTED:
            return True
        return transaction.is_committed and transaction.forget

    def _close(self, client_id: bytes, below: int | None) -> None:
        """The client will not ask for numbers below this again (None: for none)."""
        numbers = self.by_client.get(client_id)
        if numbers is None:
            return
        for transaction in list(numbers.values()):
            if (below is None or transaction.id.request_number < below) and self._is_droppable(
                transaction
            ):
                self._drop(transaction)

    def _alarm(self, what: str, about: Transaction | TransactionId) -> Refused:
        """What cannot happen: refuse, change nothing, and have somebody told."""
        identity = about.id if isinstance(about, Transaction) else about
        message = f"transaction {_name(identity)}: {what}; nothing was changed, report this"
        self.alarms.append(message)
        return Refused(Code.DATA_LOSS, message)

    def digest_items(self) -> list[bytes]:
        """All of it in an order of its own, for comparisons in tests."""
        records = [(one.name, one.pack()) for one in self.transactions()]
        records += [(one.name, one.pack()) for one in self.parked.values()]
        return [name + packed for name, packed in sorted(records)]


def _told(transaction: Transaction) -> str:
    """What an id was used for, for whoever used it again."""
    groups = ", ".join(map(str, transaction.participants[:_LISTED_GROUPS_MAX]))
    more = ", ..." if len(transaction.participants) > _LISTED_GROUPS_MAX else ""
    return f"a transaction over several groups ({groups or 'not known here'}{more})"


def _given(vote: Vote) -> Vote | Unread:
    """A stored vote as a copy is answered."""
    return Unread(vote) if kept.is_stripped(vote) else vote


def _token(transaction: Transaction) -> Token:
    return Token(*transaction.id, transaction.attempt)


def _name(identity: TransactionId) -> str:
    return f"{identity.client_id.hex()}/{identity.request_number}"
