"""``python -m overdb_router``: run one router, configured by the environment."""

from __future__ import annotations

import asyncio
import sys

from overdb_common import process
from overdb_router.settings import RouterSettings


async def _run(settings: RouterSettings, stop: asyncio.Event) -> None:
    from overdb_router.router import run  # noqa: PLC0415 - --help and --check need none of it

    await run(settings, stop)


def _is_serving(settings: RouterSettings) -> bool:
    from overdb_common import serving  # noqa: PLC0415  # grpc comes behind what process.run sets

    return serving.is_serving(settings.listen)


def main() -> None:
    """Entry point of ``overdb-router``."""
    sys.exit(process.run("overdb-router", RouterSettings, _run, _is_serving))


if __name__ == "__main__":
    main()
