#!/usr/bin/env bash
# Writes requirements/*.txt anew: every version and hash that `make` installs. No index address is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${UV:-uv}"
lock() { # lock OUTPUT ARGUMENTS...
  local output=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-annotate --no-header "$@" -o "requirements/$output"
}
lock run.txt --extra server --extra cli --group build pyproject.toml
lock dev.txt --extra server --extra cli --extra torture --group build --group dev pyproject.toml
lock codegen.txt --group codegen
lock pip.txt --group pip
lock bench.txt --group bench -c requirements/dev.txt
