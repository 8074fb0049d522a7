"""A configuration as it stands in CURRENT and in a snapshot's manifest.

    "members": [[id, address, voter], ...], "retired": [id, ...], "incarnations": {"id": number, ...}

The last two were added later: a file without them is read, one with them too by programs from before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overdb_node.raft.types import Configuration, Member


def to_json(configuration: Configuration) -> dict[str, Any]:
    members = configuration.members
    return {
        "members": [[m.replica_id, m.address, m.voter] for m in members],
        "retired": list(configuration.retired),
        "incarnations": {str(m.replica_id): m.incarnation for m in members if m.incarnation},
    }


def from_json(content: Mapping[str, Any]) -> Configuration:
    """Raises KeyError, TypeError, ValueError for what ``to_json`` has not written."""
    incarnations = content.get("incarnations", {})
    members = tuple(
        Member(int(i), str(address), bool(voter), int(incarnations.get(str(i), 0)))
        for i, address, voter in content["members"]
    )
    return Configuration(members, tuple(int(i) for i in content.get("retired", ())))
