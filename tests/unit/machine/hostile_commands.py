"""Commands that no router sends, drawn from a seed: edges of all numbers, ids and keys of any form, damage.

Few clients, keys and numbers, so that a command meets the records of another one.
"""

from __future__ import annotations

from random import Random

from overdb.internal.v1 import log_pb2
from overdb.v1 import kv_pb2
from overdb_node.machine.settings import BYTE_LIMITS, LIMITS
from tests.unit.machine.helpers import HOUR, NOW, SECOND, client

EDGES_32 = (0, 1, 2, 3, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
EDGES_64 = (
    *EDGES_32,
    1 << 32,
    (1 << 62) - 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - (1 << 32),
    (1 << 64) - 2,
    (1 << 64) - 1,
)
TIMES = (NOW, NOW, NOW + SECOND, NOW + 59 * SECOND, NOW + HOUR, NOW + 24 * HOUR, NOW - 2 * HOUR)
CLIENT_IDS = (
    client(1),
    client(1),
    client(2),
    client(3, NOW + 2 * HOUR),
    client(4, NOW - 2 * HOUR),
    b"\xff" * 6 + client(5)[6:],  # of the year 10889
    b"",
    b"\x00",
    b"\xff" * 9,
    b"\xff" * 16,
    b"\xff" * 17,
    bytes(300),
)
KEYS = (b"a", b"b", b"{a}1", b"", b"\xff" * 8, b"k" * 5000)
VALUES = (b"", b"1", b"-4", b"x", b"9223372036854775807", b"v" * 100)
NUMBERS = (1, 1, 2, 3, 4)


class Hostile:
    """Draws commands. The same seed gives the same ones."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._tame = False  # what is drawn for this command is what a router might send
        self._attempts = (0, 0, 0, 1, 1, 2, *EDGES_32)

    def stamp(self) -> int:
        random = self._random
        if random.random() < 0.05:
            return random.choice(EDGES_64)
        return random.choice((0, NOW, NOW + random.randrange(60 * SECOND)))

    def payload(self) -> bytes:
        """An entry's payload as it lies in the log: whole, or damaged on its way."""
        random = self._random
        commands = log_pb2.Commands(commands=[self.command() for _ in range(random.randrange(5))])
        envelope = log_pb2.Envelope(stamp=self.stamp(), commands=self._damaged(commands))
        return self._damaged(envelope)

    def _damaged(self, message: log_pb2.Commands | log_pb2.Envelope) -> bytes:
        random = self._random
        whole = message.SerializeToString()
        if random.random() > 0.1 or not whole:
            return whole
        damaged = bytearray(whole)
        for _ in range(random.randrange(1, 4)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        return bytes(damaged[: random.randrange(len(damaged)) + 1])

    def command(self) -> log_pb2.Command:
        random = self._random
        kind = random.choice(log_pb2.Command.DESCRIPTOR.fields).name
        command = log_pb2.Command()
        self._tame = random.random() < 0.6
        fill = getattr(self, f"_fill_{kind}", None)
        getattr(command, kind).SetInParent()
        if fill is not None and random.random() > 0.02:
            fill(getattr(command, kind))
        return command

    # --- of each kind -------------------------------------------------------------------------------

    def _fill_put(self, out: kv_pb2.PutRequest) -> None:
        out.key, out.value = self._key(), self._random.choice(VALUES)
        self._fill_id(out.id)

    def _fill_delete(self, out: kv_pb2.DeleteRequest) -> None:
        out.key = self._key()
        self._fill_id(out.id)

    def _fill_transact(self, out: kv_pb2.TransactRequest) -> None:
        self._fill_id(out.id)
        self._fill_branches(out)

    def _fill_advance(self, out: log_pb2.Advance) -> None:
        out.version = self._version()

    def _fill_prepare(self, out: log_pb2.Prepare) -> None:
        self._fill_id(out.id)
        out.attempt = self._attempt()
        out.participants.extend(self._participants())
        out.fingerprint = self._fingerprint()
        self._fill_branches(out)
        for positions, branch in (
            (out.then_positions, out.then),
            (out.otherwise_positions, out.otherwise),
        ):
            whole = self._tame or self._random.random() < 0.5
            positions.extend(range(len(branch)) if whole else self._draw(EDGES_32))

    def _fill_resolve(self, out: log_pb2.Resolve) -> None:
        self._fill_id(out.id)
        out.attempt = self._attempt()
        out.branch = self._random.choice((0, 1, 2, 3, 1, 2, 77, -1))  # type: ignore[assignment]
        out.version = self._version()

    def _fill_inquire(self, out: log_pb2.Inquire) -> None:
        self._fill_id(out.id)
        out.attempt = self._attempt()
        out.fingerprint = self._fingerprint()
        out.participants.extend(self._participants())

    def _fill_forget(self, out: log_pb2.Forget) -> None:
        self._fill_id(out.id)
        out.attempt = self._attempt()

    def _fill_configure(self, out: log_pb2.Configure) -> None:
        random = self._random
        for name in LIMITS:
            setattr(out, name, random.choice(EDGES_64))
        if random.random() < 0.5:  # as an attacker who means to be taken
            for name in LIMITS:
                setattr(out, name, 1)
        for name in BYTE_LIMITS:
            setattr(out, name, random.choice(EDGES_64))
        out.level = random.choice((0, 0, 1))

    # --- parts ----------------------------------------------------------------------------------------

    def _draw(self, choices: tuple[int, ...], most: int = 4) -> list[int]:
        return [self._random.choice(choices) for _ in range(self._random.randrange(most))]

    def _key(self) -> bytes:
        return self._random.choice(KEYS[:3] if self._tame or self._random.random() < 0.8 else KEYS)

    def _fill_id(self, out: kv_pb2.RequestId) -> None:
        random = self._random
        if self._tame:
            out.client_id = random.choice(CLIENT_IDS[:3])
            out.request_number = random.choice((1, 1, 2))
            out.started_at = random.choice(TIMES[:3])
            return
        likely = random.random() < 0.75
        out.client_id = random.choice(CLIENT_IDS[:3] if likely else CLIENT_IDS)
        out.request_number = random.choice(NUMBERS if likely else EDGES_64)
        out.started_at = random.choice(TIMES[:3] if likely else (*TIMES, *EDGES_64))
        out.acknowledged_below = random.choice((0, 1, 1, 2, 3) if likely else EDGES_64)

    def _attempt(self) -> int:
        return 0 if self._tame else self._random.choice(self._attempts)

    def _fingerprint(self) -> int:
        return 7 if self._tame else self._random.choice((7, 0, (1 << 64) - 1))

    def _participants(self) -> list[int]:
        if self._tame:
            return [0, 1]
        return self._random.choice(
            ([], [1], [0, 0], [1, 0], [0, 4096], self._draw(EDGES_32), list(range(300)))
        )

    def _version(self) -> int:
        random = self._random
        return random.choice((NOW, NOW + random.randrange(1 << 20), NOW + HOUR, *EDGES_64))

    def _fill_branches(self, out: kv_pb2.TransactRequest | log_pb2.Prepare) -> None:
        random = self._random
        for _ in range(random.choice((0, 0, 1, 3))):
            compare = out.compares.add(key=self._key())
            compare.operator = random.choice((1, 2) if self._tame else (0, 1, 2, 3, 4, 9, -1))  # type: ignore[assignment]
            target = random.choice(("value", "version", "exists", *(() if self._tame else ("",))))
            if target == "value":
                compare.value = random.choice(VALUES)
            elif target == "version":
                compare.version = random.choice(EDGES_64)
            elif target == "exists":
                compare.exists = random.random() < 0.5
        for branch in (out.then, out.otherwise):
            for _ in range(random.choice((0, 1, 1, 3, 3) if self._tame else (0, 1, 3, 40))):
                self._fill_operation(branch.add())

    def _fill_operation(self, out: kv_pb2.Operation) -> None:
        random = self._random
        weights = (5, 4, 3, 3, 0 if self._tame else 0.5)
        kind = random.choices(("put", "get", "delete", "add", ""), weights)[0]
        if not kind:
            return
        operation = getattr(out, kind)
        operation.key = self._key()
        if kind == "put":
            operation.value = random.choice(VALUES)
        elif kind == "add":
            operation.delta = random.choice((1, -3, (1 << 63) - 1, -(1 << 63)))
