"""``python -m overdb_node``: run one replica, configured by the environment."""

from __future__ import annotations

import sys

from overdb_common import process, serving
from overdb_node.settings import NodeSettings


def main() -> None:
    """Entry point of ``overdb-node``."""
    from overdb_node.node import run  # noqa: PLC0415  # --help and --check need none of it

    sys.exit(process.run("overdb-node", NodeSettings, run, lambda s: serving.is_serving(s.listen)))


if __name__ == "__main__":
    main()
