"""``python -m overdb_node``: run one replica, configured by the environment."""

from __future__ import annotations

import asyncio
import sys

from overdb_common import process
from overdb_node.settings import NodeSettings


async def _run(settings: NodeSettings, stop: asyncio.Event) -> None:
    from overdb_node.node import run  # noqa: PLC0415  # --help and --check need none of it

    await run(settings, stop)


def _is_serving(settings: NodeSettings) -> bool:
    from overdb_common import serving  # noqa: PLC0415  # grpc comes behind what process.run sets

    return serving.is_serving(settings.listen)


def main() -> None:
    """Entry point of ``overdb-node``."""
    sys.exit(process.run("overdb-node", NodeSettings, _run, _is_serving))


if __name__ == "__main__":
    main()
