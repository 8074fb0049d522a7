#!/usr/bin/env bash
# Makes .venv and installs what is locked in requirements/: setup.sh run | dev | codegen | bench
# Needs Python 3.11 or newer (PYTHON names the interpreter), and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?usage: scripts/setup.sh run | dev | codegen | bench}
system=/usr/bin/python3

die() {
  echo "setup: $1" >&2
  exit 1
}

# Succeeds if python3 was compiled without optimisations, as pyenv does by default: it is 10 to 20 % slower.
# Distributions optimise their Python without this configure option, so the system's never counts as slow.
is_slow() {
  python3 -c 'import os, sys, sysconfig
options = sysconfig.get_config_var("CONFIG_ARGS") or "--enable-optimizations"
system = os.path.realpath(sys._base_executable) == os.path.realpath(sys.argv[1])
sys.exit(system or "--enable-optimizations" in options)' "$system" 2>/dev/null
}

# Succeeds if the system's Python can make environments and has the same minor version as python3.
is_like_it() {
  "$system" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' \
    "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" 2>/dev/null
}

case $what in
  run | dev | bench) environment=.venv ;;
  codegen) environment=.venv/codegen ;;
  *) die "'$what' is not known: run, dev, codegen or bench" ;;
esac
stamp="$environment/.installed-$what"
wanted=$(cat requirements/pip.txt "requirements/$what.txt" pyproject.toml | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  exit 0
fi

python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ ! -x "$environment/bin/python" ] && is_slow && is_like_it; then
  python=$system
  echo "setup: python3 ($(command -v python3)) was compiled without optimisations, so $system is taken" \
    "(PYTHON=python3 takes it all the same)"
fi
command -v "$python" >/dev/null || die "there is no '$python': install Python 3.11 or newer, or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$("$python" --version) is too old: install Python 3.11 or newer, or set PYTHON"
if [ ! -x "$environment/bin/python" ]; then
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$python has no venv module (on Debian and Ubuntu: apt install python3-venv)"
  echo "setup: making $environment"
  "$python" -m venv "$environment"
fi
"$environment/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$environment was made with an older Python: remove it and start again"
"$environment/bin/python" -m pip --version >/dev/null 2>&1 ||
  "$environment/bin/python" -m ensurepip >/dev/null # made by a tool that leaves pip out
# Older ones compare each file in the index with each platform: twice the work for all packages together.
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
  -r requirements/pip.txt
echo "setup: installing requirements/$what.txt into $environment (about a minute the first time)"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
  -r "requirements/$what.txt"
if [ "$what" = run ] || [ "$what" = dev ]; then
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation -e .
fi
echo "$wanted" >"$stamp"
# dev.txt holds all of run.txt.
if [ "$what" = dev ]; then
  cat requirements/pip.txt requirements/run.txt pyproject.toml | cksum >"$environment/.installed-run"
fi
