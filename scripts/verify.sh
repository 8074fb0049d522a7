#!/usr/bin/env bash
# Lint, format, types, generated code. Writes nothing into the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
echo "verify: ruff"
"$bin/ruff" check .
"$bin/ruff" format --check .
echo "verify: mypy"
"$bin/mypy"
echo "verify: generated code"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
scripts/generate.sh "$fresh/services/client" "$fresh"
for file in $(cd "$fresh" && find . -type f | LC_ALL=C sort); do
  cmp -s "$fresh/$file" "$file" || {
    echo "verify: ${file#./} is not what its .proto generates: run 'make generate'" >&2
    exit 1
  }
done
