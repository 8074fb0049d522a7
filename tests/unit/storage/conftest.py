"""Fixtures of the storage tests."""

from __future__ import annotations

from tests.unit.storage.replicas import small_segments

__all__ = ["small_segments"]
