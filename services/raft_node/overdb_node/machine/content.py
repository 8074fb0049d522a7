"""What of the records is compared between replicas: what they mean, not how it is worded.

Refusals are stored with their text, and two releases may word them differently; while a group is upgraded,
its replicas then have different texts for good. Everything else in the records is a function of the log.
"""

from __future__ import annotations

from overdb_node.machine import packing, records
from overdb_node.machine.machine import CHAIN_RECORD
from overdb_node.machine.records import TRANSACTION_PREFIX
from overdb_node.machine.sessions import ENTRY_PREFIX

# Of the digest, and of all that is stored as far as it enters it. A release that stores something differently
# gives it another number: replicas of different forms are not compared.
CONTENT_FORM = "1"


def canonical(name: bytes, content: bytes) -> bytes | None:
    """The content of a record as it is compared; None: it is each replica's own."""
    if name == CHAIN_RECORD:
        return None  # it may have begun elsewhere
    kind = name[:1]
    if kind == ENTRY_PREFIX:
        return packing.without_words(content)
    if kind == TRANSACTION_PREFIX:
        return records.without_words(content)
    return content
