"""How cost, memory and interruptions grow: `make growth`. Real processes, never fewer than a router and three
replicas of each group."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from bench import report
from bench.growth import lag, shape, size, trouble

SECTIONS = {
    "keys": size.keys,
    "restart": size.restart,
    "recovery": size.recovery,
    "snapshot": trouble.snapshot,
    "groups": shape.groups,
    "busy-groups": shape.busy_groups,
    "large": shape.large,
    "slow-follower": trouble.slow_follower,
    "overload": trouble.overload,
    "catch-up": lag.catch_up,
}


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, short windows")
    parser.add_argument("--sections", help="some of " + ", ".join(SECTIONS))
    parser.add_argument("--json", type=Path, default=Path("bench/growth.json"))
    parser.add_argument(
        "--markdown", type=Path, help="page (default: bench/GROWTH.md of a whole run, else none)"
    )
    arguments = parser.parse_args(argv)
    if not (arguments.markdown or arguments.quick or arguments.sections):
        arguments.markdown = Path("bench/GROWTH.md")
    arguments.sections = (arguments.sections or ",".join(SECTIONS)).split(",")
    for name in arguments.sections:
        if name not in SECTIONS:
            parser.error(f"section {name!r}: {', '.join(SECTIONS)} are known")
    return arguments


def main(argv: list[str]) -> int:
    """Measure the sections that are wanted, and write the page after each."""
    arguments = parsed(argv)
    done = []
    command = f"python -m bench.growth {' '.join(argv)}".strip()
    for name in arguments.sections:
        section = SECTIONS[name](arguments.quick)
        done.append(section)
        print(f"\n{section.markdown()}", flush=True)
        head = f"# Growth\n\n{report.now()}; {report.machine()}. `{command}`\n\n"
        if arguments.markdown:
            arguments.markdown.write_text(head + "\n".join(one.markdown() for one in done))
        arguments.json.write_text(json.dumps([asdict(one) for one in done], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
