"""The level that this program knows (PROTOCOL 4): one number for nodes and routers."""

from __future__ import annotations

# The newest rules of how log entries are applied and how transactions are decided. Raise it with every change
# of either, and ask for the group's level, or for that of the votes, where the two rules part.
#   0: release 0.1.0
#   1: release 0.2.0
LEVEL = 1
