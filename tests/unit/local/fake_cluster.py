"""``overdb local`` over processes that only pretend: ``python -m tests.unit.local.fake_cluster DATA PORT``.

One group of two replicas and a router. OVERDB_TEST_STOP_SECONDS shortens the patience at the end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from overdb.cli import _local_supervisor, local
from overdb.cli._local_layout import Layout


def main() -> int:
    layout = Layout(Path(sys.argv[1]), groups=1, replicas=2, routers=1, base_port=int(sys.argv[2]))
    for plan in layout.plans:
        plan.module = "tests.unit.local.fake_process"
    seconds = os.environ.get("OVERDB_TEST_STOP_SECONDS")
    if seconds is not None:
        _local_supervisor.STOP_SECONDS_MAX = float(seconds)
    return local.run(layout)


if __name__ == "__main__":
    sys.exit(main())
