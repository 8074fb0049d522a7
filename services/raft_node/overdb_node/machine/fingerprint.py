"""What tells one request from another under the same id (PROTOCOL 2.2).

Fingerprints lie on disk and are compared by replicas of different releases: their form never changes.
"""

from __future__ import annotations

from xxhash import xxh3_64, xxh3_64_intdigest

from overdb_node.machine.types import OperationKind, Puts, Transact

_SEED = 3  # a Put's is 1, a Delete's 2
_PUT = b"%d,0,%%d,%%d;%%b%%b" % OperationKind.PUT


def of_transact(request: Transact) -> int:
    """Every part stands behind its length, so that no two transactions feed the hash the same bytes.

    Numbers are written as text: one of any size is taken, also from a request that will be refused.
    """
    _, compares, then, otherwise = request
    digest = xxh3_64(b"%d,%d;" % (len(compares), len(then)), _SEED)
    for key, operator, target, operand in compares:
        content = operand if isinstance(operand, bytes) else b"%d" % operand
        digest.update(b"%d,%d,%d,%d;" % (operator, target, len(key), len(content)))
        digest.update(key)
        digest.update(content)
    for branch in (then, otherwise):
        for kind, key, value, delta in branch:
            digest.update(b"%d,%d,%d,%d;" % (kind, delta, len(key), len(value)))
            digest.update(key)
            digest.update(value)
    return int(digest.intdigest())


def of_puts(request: Puts) -> int:
    """The same as of the whole transaction, in one piece."""
    _, keys, values = request
    puts = [
        _PUT % (len(key), len(value), key, value) for key, value in zip(keys, values, strict=True)
    ]
    return int(xxh3_64_intdigest(b"0,%d;" % len(keys) + b"".join(puts), _SEED))
