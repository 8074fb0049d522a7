#!/usr/bin/env bash
# Builds the image OVERDB_IMAGE (default overdb:latest) from this checkout; quick when nothing changed.
# Needs the environment of `scripts/setup.sh run` and a Docker engine; see deploy/Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${OVERDB_IMAGE:-overdb:latest}
python=.venv/bin/python
context=build/image
say() { echo "image: $*" >&2; }

base=$(deploy/base-image.sh)
# Two that build the same image at once would each replace the other's: the second one waits.
command -v flock >/dev/null && exec 9>"${TMPDIR:-/tmp}/overdb-image-$(id -u).lock" && flock 9
base_id=$(docker image inspect --format '{{.Id}}' "$base")

# The same files, the same base: nothing to do. The image itself remembers what it was made from.
inputs=$(
  {
    echo "$base_id"
    find services deploy/Dockerfile deploy/build-image.sh pyproject.toml requirements/run.txt \
      -name __pycache__ -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum
  } | cksum | tr -d ' '
)
made_from=$(docker image inspect --format '{{index .Config.Labels "overdb.inputs"}}' "$image" 2>/dev/null || true)
if [ "$made_from" = "$inputs" ]; then
  exit 0
fi
say "building $image on $base"

# What the image's Python can run, which is not always what this machine's can.
version=$(docker run --rm --network none "$base" \
  python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
architecture=$(docker image inspect --format '{{.Architecture}}' "$base")
case $architecture in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  *) machine=$architecture ;;
esac
platforms=()
for glibc in 2_36 2_35 2_34 2_31 2_28 2_27 2_24 2_17 2_12 2_5; do
  platforms+=(--platform "manylinux_${glibc}_$machine")
done
platforms+=(--platform "manylinux2014_$machine")

pip() { "$python" -m pip --disable-pip-version-check "$@"; }
# What pip makes without a look at the machine that it runs on.
install() { pip install --quiet --no-index --no-compile --target "$@"; }

needed=$("$python" - <<'PYTHON'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print("\n".join([*project["dependencies"], *extras["server"], *extras["cli"]]))
PYTHON
)
made=build/image.libraries
wanted=$({ cat requirements/run.txt; echo "$version $machine $needed"; } | cksum)
if [ "$(cat "$made" 2>/dev/null)" != "$wanted" ] || [ ! -d "$context/libraries" ]; then
  say "collecting the libraries for Python $version on $machine"
  rm -rf "$context" "$made"
  mkdir -p "$context"
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' EXIT
  pip download --quiet --require-hashes --no-deps \
    --only-binary=:all: --python-version "$version" "${platforms[@]}" \
    --dest "$wheels" -r requirements/run.txt
  echo "$needed" >"$wheels/needed.txt"
  install "$context/libraries" --find-links "$wheels" \
    --only-binary=:all: --python-version "$version" "${platforms[@]}" -r "$wheels/needed.txt"
  rm -rf "$context/libraries/bin"
  echo "$wanted" >"$made"
fi
rm -rf "$context/program" build/wheel
pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir build/wheel .
install "$context/program" --no-deps build/wheel/*.whl
# The programs begin with the path of this machine's Python.
"$python" - "$context"/program/bin/* <<'PYTHON'
import pathlib, sys
for program in map(pathlib.Path, sys.argv[1:]):
    _, _, rest = program.read_text().partition("\n")
    program.write_text(f"#!/usr/bin/env python3\n{rest}")
PYTHON
chmod -R u=rwX,go=rX "$context"

old=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)
docker build --network none --build-arg BASE="$base" --label "overdb.inputs=$inputs" \
  --tag "$image" --file deploy/Dockerfile "$context" >build/image.log 2>&1 </dev/null || {
  tail -n 20 build/image.log >&2
  say "docker build failed (all of its output: build/image.log)"
  exit 1
}
# The one before has lost its name: without this every change would leave something behind.
[ -z "$old" ] || docker image rm "$old" >/dev/null 2>&1 || true
