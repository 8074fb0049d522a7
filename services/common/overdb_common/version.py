"""The version of the program, as installed."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Return the version of the installed distribution, ``unknown`` when run from bare files."""
    try:
        return metadata.version("overdb")
    except metadata.PackageNotFoundError:
        return "unknown"
