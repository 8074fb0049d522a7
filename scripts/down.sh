#!/usr/bin/env bash
# Stops the containers of `make up`. VOLUMES=1 forgets their data too.
set -euo pipefail
cd "$(dirname "$0")/.."
docker version >/dev/null 2>&1 || {
  echo "down: no Docker engine answers, so nothing of ours runs in one" >&2
  exit 1
}
arguments=(--profile client down --remove-orphans)
case ${VOLUMES:-} in
  "" | 0) ;;
  1) arguments+=(--volumes) ;;
  *)
    echo "down: VOLUMES=$VOLUMES is neither 0 nor 1" >&2
    exit 1
    ;;
esac
scripts/compose.sh "${arguments[@]}" </dev/null
