"""``python -m tests.scenarios.rewrite [NAME ...]``: write the traces anew."""

from __future__ import annotations

import sys

from tests.scenarios.runner import execute, files


def main(names: list[str]) -> None:
    for path in files():
        if names and path.stem not in names:
            continue
        before = path.read_text()
        after = execute(before)
        if after != before:
            path.write_text(after)
            print(f"rewritten: {path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
