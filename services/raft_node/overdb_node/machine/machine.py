"""The replicated state machine: log entries in, results and one batch of writes out (PROTOCOL 2).

Pure and total: the same entries give the same results and the same state on every replica, and no command,
however malformed, makes ``apply`` fail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import xxhash

from overdb_node.machine import transact, validation
from overdb_node.machine.clock import Clock
from overdb_node.machine.fingerprint import of_transact
from overdb_node.machine.overlay import Overlay
from overdb_node.machine.sessions import Sessions
from overdb_node.machine.settings import MachineSettings
from overdb_node.machine.slots import Slots
from overdb_node.machine.store import Reader
from overdb_node.machine.types import (
    Advance,
    Advanced,
    Batch,
    Behind,
    Code,
    Command,
    Delete,
    Deleted,
    Put,
    ReadRefusal,
    Refused,
    RequestId,
    Result,
    Transact,
    Written,
    WrongGroup,
)

__all__ = ["CLOCK_RECORD", "Machine", "MachineSettings"]

CLOCK_RECORD = b"snapshot"  # clock and physical time: what a snapshot's element needs to know
_SLOTS_RECORD = b"slots"


class Machine:
    """State that fits in memory (clock, slots, sessions) above a reader of what does not (values)."""

    def __init__(self, reader: Reader, settings: MachineSettings) -> None:
        self._reader = reader
        self._settings = settings
        self._begin()

    def _begin(self) -> None:
        """The state of a new group."""
        settings = self._settings
        self._clock = Clock()
        self._slots = Slots(settings.group, settings.groups)
        self._overlay = Overlay(self._reader)
        self._sessions = Sessions(settings, self._reader)
        self._slots_written = False

    def load(self) -> None:
        """Take the state anew from the records, after a start or an installed snapshot.

        What was applied and not taken as a batch is forgotten, as after a crash.
        """
        self._begin()
        self._clock.load(self._reader.record(CLOCK_RECORD))
        slots = self._reader.record(_SLOTS_RECORD)
        self._slots.load(slots)
        self._slots_written = slots is not None
        self._sessions.load()

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
        return max(0, self._clock.physical - self._settings.retention_us)

    @property
    def sessions_open(self) -> int:
        return len(self._sessions)

    @property
    def results_kept(self) -> int:
        return self._sessions.kept

    def check_read(self, key: bytes, version: int) -> ReadRefusal | None:
        """Why a key cannot be read at a version (0: the newest) here and now; None: it can."""
        refusal = validation.refuse_key(key, self._settings)
        if refusal is not None:
            return refusal
        if not self._slots.owns(key):
            return WrongGroup(self._slots.epoch)
        return self.check_version(version) if version else None

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

    # --- applying -------------------------------------------------------------------------------

    def apply(
        self, index: int, term: int, stamp: int, commands: Sequence[Command | Refused]
    ) -> list[Result]:
        """Apply one entry and return a result for each command, in order.

        ``stamp`` is the leader's wall clock in microseconds (0: none). A command that could not be read is
        given as the Refused that it is answered with. ``term`` takes no part: it is the host's to record.
        """
        del term
        clock = self._clock
        clock.begin_entry(stamp)
        self._sessions.begin_entry(index, clock.physical)
        results = [self._apply(command) for command in commands]
        self._sessions.end_entry()
        return results

    def _apply(self, command: Command | Refused) -> Result:
        if type(command) is Put:
            return self._put(command)
        if isinstance(command, Transact):
            return self._transact(command)
        if isinstance(command, Delete):
            return self._delete(command)
        if isinstance(command, Advance):
            return self._advance(command)
        assert isinstance(command, Refused)
        return command

    def _put(self, command: Put) -> Result:
        key, value, request = command
        fingerprint = xxhash.xxh3_64_intdigest(value, xxhash.xxh3_64_intdigest(key, 1))
        stored = self._sessions.find(request, fingerprint)
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
        version = self._clock.take()
        self._overlay.write(key, version, value)
        self._sessions.keep(request, fingerprint, version)
        return Written(version)

    def _delete(self, command: Delete) -> Result:
        refusal = validation.refuse_key(command.key, self._settings)
        fingerprint = xxhash.xxh3_64_intdigest(command.key, 2)

        def run() -> Result:
            newest = self._overlay.newest(command.key)
            version = self._clock.take()
            self._overlay.write(command.key, version, None)
            return Deleted(version, newest is not None and newest[1] is not None)

        return self._once(command.id, (command.key,), fingerprint, refusal, run)

    def _transact(self, command: Transact) -> Result:
        refusal = validation.refuse_transact(command, self._settings)
        fingerprint = of_transact(command)
        keys = (
            *(compare.key for compare in command.compares),
            *(operation.key for operation in command.then),
            *(operation.key for operation in command.otherwise),
        )

        def run() -> Result:
            version = self._clock.peek()
            result = transact.run(command, self._overlay, version, self._settings.request_bytes_max)
            if not isinstance(result, Refused):
                self._clock.take()
            return result

        return self._once(command.id, keys, fingerprint, refusal, run)

    def _once(
        self,
        request: RequestId,
        keys: Sequence[bytes],
        fingerprint: int,
        malformed: Refused | None,
        run: Callable[[], Result],
    ) -> Result:
        """Run what was not run before, and keep its result, a refusal by the state included."""
        stored = self._sessions.find(request, fingerprint)
        if stored is not None:
            return stored
        if malformed is not None:
            return malformed
        if not all(map(self._slots.owns, keys)):
            return WrongGroup(self._slots.epoch)
        refusal = self._sessions.admit(request, self._clock.physical)
        if refusal is not None:
            return refusal
        result = run()
        self._sessions.keep(request, fingerprint, result)
        return result

    def _advance(self, command: Advance) -> Result:
        latest = self._clock.physical + self._settings.ahead_us_max
        if command.version > latest:
            return Refused(
                Code.INVALID_ARGUMENT,
                f"version {command.version} is too far ahead: the latest that is taken is {latest}",
            )
        self._clock.advance(command.version)
        return Advanced(self._clock.value)

    def take_batch(self) -> Batch:
        """Everything to be written since the last call; the reader must show it before the next apply."""
        records = self._sessions.take_records()
        records.append((CLOCK_RECORD, self._clock.pack()))
        if not self._slots_written:
            self._slots_written = True
            records.append((_SLOTS_RECORD, self._slots.pack()))
        return Batch(self._overlay.take(), records)

    def digest(self) -> str:
        """A hash of what is in memory, to compare replicas in tests."""
        state = (
            self._clock.value,
            self._clock.physical,
            self._slots.epoch,
            self._slots.bitmap,
            self._sessions.digest_items(),
        )
        return hashlib.sha256(repr(state).encode()).hexdigest()
