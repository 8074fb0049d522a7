#!/usr/bin/env bash
# Builds the image, starts the containers, waits until all are healthy, says what to do next.
# OVERDB_PORT (default 7400): port of the first router on this machine. ROUTERS: how many, side by side.
set -euo pipefail
cd "$(dirname "$0")/.."
port=${OVERDB_PORT:-7400}
routers=${ROUTERS:-1}
ready_seconds_max=120
die() {
  echo "up: $*" >&2
  exit 1
}
is_count() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]]; }
is_count "$port" && [ "$port" -le 65000 ] || die "OVERDB_PORT=$port is not a port (1-65000)"
is_count "$routers" && [ "$routers" -le 10 ] || die "ROUTERS=$routers is not a number of routers (1-10)"

command -v docker >/dev/null || die "there is no Docker on this machine: install it, or use 'make run'"
docker version >/dev/null 2>&1 ||
  die "no Docker engine answers (is it started, and may you use it?); 'make run' needs none"
deploy/build-image.sh
scripts/compose.sh version >/dev/null # it may have to be installed, and that is no part of the start

export OVERDB_PORT_RANGE=$port
[ "$routers" = 1 ] || OVERDB_PORT_RANGE=$port-$((port + routers - 1))
began=$SECONDS
scripts/compose.sh up --detach --remove-orphans --scale "router=$routers" \
  --wait --wait-timeout "$ready_seconds_max" </dev/null || {
  scripts/compose.sh ps --all >&2 || true
  die "not all containers became healthy; see 'scripts/compose.sh logs'"
}
endpoints=127.0.0.1:$port
for ((i = 1; i < routers; i++)); do endpoints+=,127.0.0.1:$((port + i)); done
flag=
[ "$endpoints" = 127.0.0.1:7400 ] || flag="-e $endpoints "
cat <<TEXT

Healthy after $((SECONDS - began)) s. The router listens on $endpoints.

  .venv/bin/overdb ${flag}put greeting hello
  .venv/bin/overdb ${flag}get greeting
  .venv/bin/overdb ${flag}status

  in a container   scripts/compose.sh run --rm client put a 1
  Python           from overdb.sync import Client; Client("127.0.0.1:$port").get(b"greeting")
  grpcurl          grpcurl -plaintext 127.0.0.1:$port list
  logs             scripts/compose.sh logs -f
  stop             make down             (the data stays; make down VOLUMES=1 forgets it)
TEXT
