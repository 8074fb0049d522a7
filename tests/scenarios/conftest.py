"""Tests import each other's helpers by their path from the repository's root."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``pytest tests/scenarios --rewrite-scenarios``: write the traces of all scenarios anew."""
    parser.addoption("--rewrite-scenarios", action="store_true", help="write scenario traces anew")
