"""The replicated state machine: log entries in, results and one batch of writes out (PROTOCOL 2).

Pure and total: the same entries give the same results and the same state on every replica, and no command,
however malformed, makes ``apply`` fail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from xxhash import xxh3_64_intdigest as _digest

from overdb.sharding import slot_of
from overdb_node.machine import bounds, kept, puts, transact, validation
from overdb_node.machine.chain import Chain
from overdb_node.machine.clock import Clock
from overdb_node.machine.fingerprint import of_puts, of_transact
from overdb_node.machine.floors import Floors
from overdb_node.machine.overlay import Overlay
from overdb_node.machine.participant import Participant
from overdb_node.machine.sessions import BYTES_LEVEL, Session, Sessions
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.slots import Slots
from overdb_node.machine.store import Reader
from overdb_node.machine.types import (
    Acknowledged,
    Advance,
    Advanced,
    Batch,
    Behind,
    Code,
    Command,
    CompareReplicas,
    Configure,
    Delete,
    Deleted,
    Forget,
    Inquire,
    Operation,
    Prepare,
    Put,
    Puts,
    ReadRefusal,
    Refused,
    RequestId,
    Resolve,
    Result,
    SetTime,
    Token,
    Transact,
    Transacted,
    TransactionId,
    Unread,
    Vote,
    Written,
    WrongGroup,
)

__all__ = ["CHAIN_RECORD", "CLOCK_RECORD", "Machine", "MachineSettings"]

CLOCK_RECORD = b"snapshot"  # clock and physical time: what a snapshot's element needs to know
_SLOTS_RECORD = b"slots"
_LIMITS_RECORD = b"limits"
_new = tuple.__new__  # of a NamedTuple, without the call that its class puts before it
TIME_WRONG_US_MIN = 10_000_000  # by which physical time must be ahead for it to be set back
CHAIN_RECORD = b"sum"  # the running checksum, with the index that it is of


class Machine:
    """State that fits in memory (clock, slots, sessions) above a reader of what does not (values)."""

    def __init__(self, reader: Reader, settings: MachineSettings) -> None:
        self._reader = reader
        self._started_with = settings
        self._begin()

    def _begin(self) -> None:
        """The state of a new group."""
        # Limits of the log take the place of those that the process was started with.
        self._settings = settings = replace(self._started_with)
        self._limited = False  # by the log
        self._limits_written = True
        self._clock = Clock()
        self._slots = Slots(settings.group, settings.groups)
        self._floors = Floors(settings)
        self._overlay = Overlay(self._reader)
        self._sessions = Sessions(settings, self._floors, self._reader)
        self._slots_written = False
        self.chain = Chain(settings.release)
        self.compared = 0  # index of the last entry with a CompareReplicas since the start
        self._compares = False
        self.participant = Participant(
            settings,
            self._reader,
            self._overlay,
            self._clock,
            self._slots,
            self._sessions,
            self._run_parked,
        )
        self._find = self.participant.find
        self._transactions_of = self.participant.by_client.get
        self._parked = self.participant.parked
        self._locks = self.participant.locks

    def load(self) -> None:
        """Take the state anew from the records, after a start or an installed snapshot.

        What was applied and not taken as a batch is forgotten, as after a crash.
        """
        self._begin()
        self._clock.load(self._reader.record(CLOCK_RECORD))
        slots = self._reader.record(_SLOTS_RECORD)
        self._slots.load(slots)
        self._slots_written = slots is not None
        limits = self._reader.record(_LIMITS_RECORD)
        floors = self._settings.load(limits)
        self._limited = limits is not None
        self._floors.load(floors, self._clock.physical)
        self._sessions.load()
        self.participant.load()
        self.chain.load(self._reader.record(CHAIN_RECORD))

    # --- what a host may read -------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """The largest timestamp that was given or promised."""
        return self._clock.value

    @property
    def physical(self) -> int:
        """Microseconds since the epoch by the own leaders' stamps."""
        return self._clock.physical

    @property
    def epoch(self) -> int:
        return self._slots.epoch

    @property
    def slots(self) -> bytes:
        return self._slots.bitmap

    @property
    def retention_floor(self) -> int:
        """Versions below it may be gone where newer ones have replaced them."""
        return self._floors.versions

    @property
    def retention_us(self) -> int:
        """How long old versions are kept, by the limits in force."""
        return self._settings.retention_us

    @property
    def client_id_lifetime_us(self) -> int:
        """How long a client id is accepted, by the limits in force."""
        return self._settings.client_id_lifetime_us

    @property
    def id_floor(self) -> int:
        """Client ids that were created before it have expired."""
        return self._floors.ids

    @property
    def limits(self) -> tuple[int, ...]:
        """Those in force, in the order of ``settings.LIMITS``."""
        return self._settings.limits

    @property
    def level(self) -> int:
        """The rules that entries are applied by (``settings.LEVEL``)."""
        return self._settings.level

    @property
    def sessions_open(self) -> int:
        return len(self._sessions)

    @property
    def results_kept(self) -> int:
        return self._sessions.kept

    @property
    def bytes_kept(self) -> int:
        """What is kept for retries, with client ids and transactions, as the bounds count it."""
        return self._sessions.bytes_kept

    def check_read(self, key: bytes, version: int) -> ReadRefusal | None:
        """Why a key cannot be read at a version (0: the newest) here and now; None: it can."""
        refusal = validation.refuse_key(key, self._settings)
        if refusal is not None:
            return refusal
        if not self._slots.owns(key):
            return WrongGroup(self._slots.epoch)
        return self.check_version(version) if version else None

    def may_read_all(self, keys: Sequence[bytes]) -> bool:
        """Whether all these keys can be read at their newest here and now."""
        lengths = set(map(len, keys))
        if not lengths or min(lengths) == 0 or max(lengths) > self._settings.key_bytes_max:
            return False
        return self._slots.owns_all(keys)

    def check_version(self, version: int) -> Behind | Refused | None:
        """Why nothing can be read at a version here and now; None: it can."""
        if version > self._clock.value:
            return Behind(self._clock.value)
        if version < self.retention_floor:
            return Refused(
                Code.FAILED_PRECONDITION,
                f"version {version} is no longer kept: the oldest that can be read is "
                f"{self.retention_floor} (old versions are kept for "
                f"{self._settings.retention_us // 1_000_000} s)",
            )
        return None

    def is_gone(self, identity: TransactionId) -> bool:
        """Whether an id is stale or expired here: nothing will run under it any more."""
        return self._sessions.is_gone(identity)

    def stored_result(self, identity: TransactionId) -> Result | None:
        """The result of a request inside this group that is kept under an id."""
        return self._sessions.stored(identity)

    def stored_answer(self, command: Command | Refused) -> Result | None:
        """The answer to a put, a delete or a transaction of this group that has run; None: not known here.

        Changes nothing: for a copy that is not applied. An answer whose values were not kept is none.
        """
        if isinstance(command, Put):
            fingerprint = _digest(command.value, _digest(command.key, 1))
        elif isinstance(command, Delete):
            fingerprint = _digest(command.key, 2)
        elif isinstance(command, Puts):
            fingerprint = of_puts(command)
        elif isinstance(command, Transact):
            fingerprint = of_transact(command)
        else:
            return None
        stored = self._sessions.find(command.id, fingerprint)
        if isinstance(stored, Refused) or (
            isinstance(stored, Transacted) and kept.is_stripped(stored)
        ):
            return None
        return stored

    # --- applying -------------------------------------------------------------------------------

    def apply(
        self, index: int, term: int, stamp: int, commands: Sequence[Command | Refused]
    ) -> list[Result]:
        """Apply one entry and return a result for each command, in order.

        ``stamp`` is the leader's wall clock in microseconds (0: none). A command that could not be read is
        given as the Refused that it is answered with. ``term`` is part of the running checksum alone.
        """
        clock, written = self._clock, len(self._overlay.versions)
        clock.begin_entry(stamp)
        self.participant.begin_entry(index)
        self._overlay.begin_entry()
        self._floors.follow(clock.physical, clock.value)
        self._sessions.begin_entry(index)
        put, other = self._put, self._apply
        results = [put(command) if type(command) is Put else other(command) for command in commands]
        records = self._sessions.end_entry()
        if together := self.participant.end_entry():
            records.update(together)
        versions = self._overlay.versions
        self.chain.extend(
            index,
            term,
            (clock.value, clock.physical),
            versions[written:] if written else versions,
            records,
        )
        if self._compares:
            self._compares = False
            self.compared = index
            self.chain.compare()
        return results

    def _apply(self, command: Command | Refused) -> Result:
        if isinstance(command, Puts):
            return self._puts(command)
        if isinstance(command, Transact):
            return self._transact(command)
        if isinstance(command, Delete):
            return self._delete(command)
        if isinstance(command, Advance):
            return self._advance(command)
        if isinstance(command, Refused):
            return command
        return self._take_part(command)

    def _take_part(self, command: Command) -> Result:
        participant = self.participant
        if isinstance(command, Prepare):
            return participant.prepare(command)
        if isinstance(command, Resolve):
            return participant.resolve(command)
        if isinstance(command, Inquire):
            return participant.inquire(command)
        if isinstance(command, Forget):
            return participant.forget(command)
        if isinstance(command, Configure):
            return self._configure(command)
        if isinstance(command, SetTime):
            return self._set_time()
        assert isinstance(command, CompareReplicas)
        self._compares = True  # at the end of the entry: what replicas compare is whole entries
        return Acknowledged()

    def _put(self, command: Put) -> Result:
        """The put that nearly all are: well-formed, of a known client, fresh, nobody in its way.

        A shorter way to what ``_put_carefully`` does with it: half of a replica's time goes by here. All
        that is not so, and every refusal, is left to that.
        """
        key, value, request = command
        client_id, number, started_at, acknowledged_below = request
        sessions, settings, clock = self._sessions, self._settings, self._clock
        session = sessions.session_of(client_id)
        if (
            session is None
            or number in session.results
            or not session.acknowledged_below <= number >= acknowledged_below
            or not number
            or self._parked
            or ((known := self._transactions_of(client_id)) and number in known)
            or (self._locks and self._locks.is_held(key))
            or not 0 < len(key) <= settings.key_bytes_max
            or len(value) > settings.value_bytes_max
            or not self._slots.owned[slot_of(key)]
            or session.created < self._floors.ids
            or session.created > (latest := clock.physical + settings.ahead_us_max)
            or started_at > latest
        ):
            return self._put_carefully(command)
        if acknowledged_below > session.acknowledged_below:
            sessions.acknowledge(session, client_id, acknowledged_below)
        if len(session.results) >= session.results_max:
            return self._put_carefully(command)
        fingerprint = _digest(value, _digest(key, 1))
        version = clock.take()
        self._overlay.write(key, version, value)
        sessions.keep_in(session, client_id, number, fingerprint, version)
        return _new(Written, (version,))

    def _put_carefully(self, command: Put) -> Result:
        key, value, request = command
        fingerprint = _digest(value, _digest(key, 1))
        stored = self._stored(request, fingerprint)
        if stored is not None:
            return stored
        settings = self._settings
        refusal = validation.refuse_key(key, settings) or validation.refuse_value(value, settings)
        if refusal is not None:
            return refusal
        if not self._slots.owns(key):
            return WrongGroup(self._slots.epoch)
        refusal = self._sessions.admit(request, self._clock.physical)
        if refusal is not None:
            return refusal
        if self._locks and self._locks.is_held(key):
            waits = self.participant.park(command, fingerprint)
            if waits is not None:
                return waits
        return self._write(command, fingerprint)

    def _write(self, command: Put, fingerprint: int) -> Written:
        version = self._clock.take()
        self._overlay.write(command.key, version, command.value)
        self._sessions.keep(command.id, fingerprint, version)
        return Written(version)

    def _puts(self, command: Puts) -> Result:
        """A transaction of puts as nearly all are: as ``_put`` is to a put, for all of them at once.

        All that is not so, and every refusal, is left to ``_transact``.
        """
        request, keys, values = command
        sessions, settings = self._sessions, self._settings
        session = sessions.session_of(request.client_id)
        if (
            session is None
            or not self._is_fresh(request, session)
            or not puts.fit(command, settings)
            or (self._locks and any(map(self._locks.is_held, keys)))
        ):
            return self._transact(command.whole())
        absent = puts.absent(keys, self._overlay, self._slots, settings)
        written = dict(zip(keys, values, strict=True))
        # Of a key that comes twice and is not there yet, the second put finds what the first has written.
        if absent is None or (absent and len(written) < len(keys)):
            return self._transact(command.whole())
        if request.acknowledged_below > session.acknowledged_below:
            sessions.acknowledge(session, request.client_id, request.acknowledged_below)
        if len(session.results) >= session.results_max:
            return self._transact(command.whole())
        version = self._clock.take()
        self._overlay.write_all(written, version)
        result = Transacted(True, puts.results(keys, absent, version), version)
        sessions.keep(request, of_puts(command), result)
        return result

    def _is_fresh(self, request: RequestId, session: Session) -> bool:
        """Whether nothing is known of a request of a known client, and nothing is wrong with its id."""
        client_id, number, started_at, acknowledged_below = request
        settings, physical = self._settings, self._clock.physical
        latest = physical + settings.ahead_us_max
        return (
            number not in session.results
            and session.acknowledged_below <= number >= acknowledged_below
            and number > 0
            and not self._parked
            and not ((known := self._transactions_of(client_id)) and number in known)
            and session.created >= self._floors.ids
            and session.created <= latest
            and started_at <= latest
        )

    def _stored(self, request: RequestId, fingerprint: int) -> Result | None:
        """What is stored under the id, of this group alone or of a transaction, or waits under it."""
        stored = self._sessions.find(request, fingerprint)
        if stored is None and (self._parked or self._find(request) is not None):
            return self.participant.stored_answer(request, fingerprint)
        if isinstance(stored, Transacted) and kept.is_stripped(stored):
            return Unread(stored)
        return stored

    def _delete(self, command: Delete) -> Result:
        refusal = validation.refuse_key(command.key, self._settings)
        fingerprint = _digest(command.key, 2)

        return self._once(command, (command.key,), fingerprint, refusal)

    def _transact(self, command: Transact) -> Result:
        refusal = validation.refuse_transact(command, self._settings)
        fingerprint = of_transact(command)
        keys = (
            *(compare.key for compare in command.compares),
            *(operation.key for operation in command.then),
            *(operation.key for operation in command.otherwise),
        )

        return self._once(command, keys, fingerprint, refusal)

    def _once(
        self,
        command: Delete | Transact,
        keys: Sequence[bytes],
        fingerprint: int,
        malformed: Refused | None,
    ) -> Result:
        """Run what was not run before, and keep its result, a refusal by the state included."""
        stored = self._stored(command.id, fingerprint)
        if stored is not None:
            return stored
        if malformed is not None:
            return malformed
        if not all(map(self._slots.owns, keys)):
            return WrongGroup(self._slots.epoch)
        refusal = self._sessions.admit(command.id, self._clock.physical)
        if refusal is not None:
            return refusal
        if self._locks:
            waits = self.participant.park(command, fingerprint)
            if waits is not None:
                return waits
        return self._run(command, fingerprint)

    def _run(self, command: Delete | Transact, fingerprint: int) -> Result:
        result: Result
        if isinstance(command, Delete):
            newest = self._overlay.newest(command.key)
            version = self._clock.take()
            self._overlay.write(command.key, version, None)
            result = Deleted(version, newest is not None and newest[1] is not None)
        else:
            version = self._clock.peek()
            result, operations = transact.run(command, self._overlay, version, self._settings)
            if not isinstance(result, Refused):
                self._clock.take()
                return self._keep_transacted(command.id, fingerprint, result, operations)
        self._sessions.keep(command.id, fingerprint, result)
        return result

    def _keep_transacted(
        self,
        request: RequestId,
        fingerprint: int,
        result: Transacted,
        operations: Sequence[Operation],
    ) -> Result:
        """Keep a result without the values that can be read again, and return what is answered now."""
        stripped = result
        if self._settings.level >= BYTES_LEVEL:
            results = kept.strip(operations, result.results, result.version)
            if results is not result.results:
                stripped = result._replace(results=results)
        self._sessions.keep(request, fingerprint, stripped)
        return self._overlay.answered(result, stripped)

    def _run_parked(self, command: Put | Delete | Transact, fingerprint: int) -> Result:
        """At the moment it runs, not at its entry, it takes its timestamp (PROTOCOL 2.1)."""
        if isinstance(command, Put):
            return self._write(command, fingerprint)
        return self._run(command, fingerprint)

    def _advance(self, command: Advance) -> Result:
        """Raise the clock, to any version that a group can have issued (PROTOCOL 2.1).

        At level 0 the bound is this group's time: a group whose time ran ahead can then not be read together
        with the others. A forged Configure can set any bound at level 0. Versions above the largest commit
        timestamp are refused all the same, although release 0.1.0 accepts them.
        """
        latest = bounds.ADVANCE_MAX
        if self._settings.level == 0:
            at_most = self._clock.physical + self._settings.ahead_us_max
            latest = min(at_most, bounds.VERSION_MAX)
        if command.version > latest:
            return Refused(
                Code.INVALID_ARGUMENT,
                f"version {command.version} is too far ahead: the latest that is taken is {latest}",
            )
        self._clock.advance(command.version)
        return Advanced(self._clock.value)

    def _configure(self, command: Configure) -> Acknowledged | Refused:
        if not all(command.limits):
            return Refused(Code.INVALID_ARGUMENT, "a limit is 0")
        if self._settings.level >= 1:
            refusal = bounds.refuse_limits(command.limits, command.byte_limits)
            if refusal is not None:
                return refusal
        if command.level > self._settings.level_known:  # none is written while this is a member
            return Refused(Code.INVALID_ARGUMENT, f"level {command.level} is not known here")
        if self._limited:
            self._floors.hold()  # before the limits that they follow from change
        else:
            self._floors.reset()  # so far they follow from what this process was started with
        if command.limits != self._settings.limits:
            self._settings.limit(command.limits)
            self._overlay.forget_known()
        if not self._limited or self._settings.level < BYTES_LEVEL:
            self._settings.reset_byte_limits()
        self._settings.level = max(self._settings.level, command.level)
        if self._settings.level >= BYTES_LEVEL:
            self._settings.limit_bytes(command.byte_limits)
        self._sessions.measure_all()
        self._floors.follow(self._clock.physical, self._clock.value)
        self._limited, self._limits_written = True, False
        return Acknowledged()

    def _set_time(self) -> Acknowledged | Refused:
        """Repair physical time that is ahead of what a quorum of clocks says now (PROTOCOL 2.1)."""
        clock = self._clock
        if self._settings.level < 1:
            return Refused(Code.FAILED_PRECONDITION, "the time of a group of level 0 cannot be set")
        if not clock.stamp:
            return Refused(
                Code.FAILED_PRECONDITION,
                "the clocks of a majority of the replicas are not known, or do not agree within 10 s "
                "(`overdb time` shows them): set them first. Nothing was done",
            )
        ahead_us = clock.physical - clock.stamp
        if ahead_us <= TIME_WRONG_US_MIN:
            return Refused(
                Code.FAILED_PRECONDITION,
                f"the time of group {self._settings.group} is {ahead_us / 1e6:.1f} s ahead of its machines' "
                f"clocks; up to {TIME_WRONG_US_MIN // 1_000_000} s it is left as it is. Nothing was done",
            )
        clock.set_back()
        self._floors.set_back(clock.physical)
        return Acknowledged()

    def read_again(self, result: Transacted | Vote) -> Transacted | Vote | Refused:
        """A result whose values were not kept, as it is answered. The state may have moved on since."""
        return kept.read_again(result, self._overlay.newest_at, self._floors.versions)

    def take_released(self) -> list[tuple[Token, Result]]:
        """Answers to requests that were answered with Waits, since the last call."""
        return self.participant.take_released()

    def take_batch(self) -> Batch:
        """Everything to be written since the last call; the reader must show it before the next apply."""
        records = self._sessions.take_records()
        records += self.participant.take_records()
        records.append((CLOCK_RECORD, self._clock.pack()))
        if not self._slots_written:
            self._slots_written = True
            records.append((_SLOTS_RECORD, self._slots.pack()))
        if not self._limits_written or (self._floors.changed and self._limited):
            self._limits_written, self._floors.changed = True, False
            records.append((_LIMITS_RECORD, self._settings.pack() + self._floors.pack()))
        if (chain := self.chain.take()) is not None:
            records.append((CHAIN_RECORD, chain))
        return Batch(self._overlay.take(), records)

    def digest(self) -> str:
        """A hash of what is in memory, to compare replicas in tests."""
        state = (
            self._clock.value,
            self._clock.physical,
            self._settings.limits if self._limited else (),
            self._settings.level,
            self._settings.byte_limits if self._limited and self._settings.level else (),
            (self._floors.held, self._floors.marks) if self._settings.level else (),
            self._slots.epoch,
            self._slots.bitmap,
            self._sessions.digest_items(),
            self.participant.digest_items(),
        )
        return hashlib.sha256(repr(state).encode()).hexdigest()
