"""Runs ``async def`` tests, as those of the client are run."""

from __future__ import annotations

from tests.unit.client.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
