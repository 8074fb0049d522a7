"""``python -m overdb_router``: run one router, configured by the environment."""

from __future__ import annotations

import asyncio
import sys

from overdb_common import process, serving
from overdb_router.settings import RouterSettings


async def _run(settings: RouterSettings, stop: asyncio.Event) -> None:
    from overdb_router.router import run  # noqa: PLC0415 - --help and --check need none of it

    await run(settings, stop)


def main() -> None:
    """Entry point of ``overdb-router``."""
    code = process.run(
        "overdb-router", RouterSettings, _run, lambda settings: serving.is_serving(settings.listen)
    )
    sys.exit(code)


if __name__ == "__main__":
    main()
