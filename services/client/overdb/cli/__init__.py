"""The command line: ``overdb``. See ``app.py`` for the commands and exit codes."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # gRPC's own log lines mean nothing to a person; what matters arrives as an error of ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import typer  # noqa: F401, PLC0415  (only asked whether it is there)
    except ImportError:
        print(
            "overdb: the command line needs more packages: pip install 'overdb[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    from overdb.cli.app import run  # noqa: PLC0415

    raise SystemExit(run(sys.argv[1:]))
