"""Fixtures of the storage tests."""

from __future__ import annotations

from tests.unit.storage.data_rows import pages_take_their_time
from tests.unit.storage.replicas import small_segments

__all__ = ["pages_take_their_time", "small_segments"]
