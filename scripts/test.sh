#!/usr/bin/env bash
# Sets up, verifies, and runs the tests: test.sh quick | full [pytest arguments]
# JOBS: how many tests at once. Verifying and what waits for the network run beside the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
size=${1:?usage: test.sh quick | full [pytest arguments]}
shift
began=$SECONDS
# Many tests wait more than they work, so there is room for two more than there are cores.
jobs=${JOBS:-$(($(getconf _NPROCESSORS_ONLN) + 2))}
mkdir -p build
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

# All tests include those of containers. They make what is missing by then, and report what is wrong.
containers=0
if [ $# = 0 ] && docker version >/dev/null 2>&1; then
  containers=1
  deploy/base-image.sh >/dev/null </dev/null &
fi
scripts/setup.sh codegen </dev/null &
codegen=$!
scripts/setup.sh dev
[ "$containers" = 0 ] || deploy/build-image.sh >build/image-early.log 2>&1 </dev/null &
# Tests start hundreds of processes. Where PYTHONDONTWRITEBYTECODE is set each would compile all modules anew.
# Without it pytest keeps the tests' modules too as it has rewritten them: 3 s for a worker to collect, not 11.
unset PYTHONDONTWRITEBYTECODE
.venv/bin/python -m compileall -q services tests
wait "$codegen"
echo "test: set up after $((SECONDS - began)) s"

scripts/verify.sh >build/verify.log 2>&1 </dev/null &
verify=$!
failed=0
.venv/bin/python -m pytest -n "$jobs" --dist loadgroup --size "$size" "$@" || failed=$?
wait "$verify" || failed=1
cat build/verify.log
echo "test: $([ $failed = 0 ] && echo passed || echo FAILED) after $((SECONDS - began)) s"
exit "$failed"
