#!/usr/bin/env bash
# Finds or makes the base image: one with Python 3.11 and nothing else that we need. Prints its name.
#
# In this order: OVERDB_BASE_IMAGE if set; what an earlier call left; the official slim Python image,
# pulled; and where no registry answers, a minimal Debian made by debootstrap from the mirror that this
# machine's apt is set to (OVERDB_DEBIAN_MIRROR names another one; about a minute, once).
set -euo pipefail
official=python:3.11-slim
ours=overdb-base:bookworm
suite=bookworm # its python3 is 3.11
registry_answers_seconds_max=20 # where nothing answers, some networks let one wait for ever
pull_seconds_max=300

say() { echo "base image: $*" >&2; }
die() {
  say "$*"
  exit 1
}
is_here() { docker image inspect "$1" >/dev/null 2>&1; }

# `docker pull` says nothing until the registry has answered.
pull_official() {
  local output pid waited
  output=$(mktemp)
  timeout "$pull_seconds_max" docker pull "$official" >"$output" 2>/dev/null </dev/null &
  pid=$!
  for ((waited = 0; waited < registry_answers_seconds_max; waited++)); do
    { [ -s "$output" ] || ! kill -0 "$pid" 2>/dev/null; } && break
    sleep 1
  done
  [ -s "$output" ] || kill "$pid" 2>/dev/null || true
  rm -f "$output"
  wait "$pid"
}

# The address of the Debian archive in apt's sources, of both forms; empty when there is none.
mirror_of_apt() {
  local codename='^(bullseye|bookworm|trixie|forky|oldoldstable|oldstable|stable|testing|sid|unstable)$'
  awk -v codename="$codename" '
    FNR == 1 { uri = suites = types = ""; enabled = 1 }
    function flush(  i, n, names) {
      n = split(suites, names, " ")
      for (i = 1; i <= n && enabled && !found && types ~ /(^| )deb( |$)/; i++)
        if (names[i] ~ codename && uri ~ /^(https?|file):/) { print uri; found = 1 }
      uri = suites = types = ""; enabled = 1
    }
    FILENAME ~ /\.list$/ {
      sub(/#.*/, ""); sub(/\[[^]]*\]/, "")
      if ($1 == "deb") { types = "deb"; uri = $2; suites = $3; flush() }
      next
    }
    /^#/ { next }
    /^[ \t]*$/ { flush(); next }
    { key = tolower($1) }
    key == "types:" { sub(/^[^:]*:[ \t]*/, ""); types = $0 }
    key == "uris:" { uri = $2 }
    key == "suites:" { sub(/^[^:]*:[ \t]*/, ""); suites = $0 }
    key == "enabled:" { enabled = ($2 !~ /^(no|false|0)$/) }
    END { flush() }
  ' $(ls /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources \
    2>/dev/null) </dev/null | head -n 1
}

proxy_of_apt() {
  local proxy=
  eval "$(apt-config shell proxy Acquire::http::Proxy 2>/dev/null || true)"
  echo "${http_proxy:-$proxy}"
}

have_debootstrap() {
  PATH=$PATH:/usr/sbin command -v debootstrap >/dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "installing debootstrap"
  { apt-get update -qq && apt-get install -qq --yes --no-install-recommends debootstrap; } \
    >/dev/null </dev/null
}

# What a container of ours never reads: of 190 MB about half.
trim() {
  local root=$1 python
  python=$(echo "$root"/usr/lib/python3.*)
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/var/cache/debconf/* \
    "$root"/usr/share/{doc,man,info,locale,lintian,bash-completion,zoneinfo,pixmaps,common-licenses} \
    "$root"/usr/lib/*/{gconv,perl-base} "$root"/usr/share/perl* "$root"/usr/lib/locale \
    "$root"/debootstrap "$root"/boot/* "$root"/usr/share/python-wheels \
    "$python"/{test,idlelib,tkinter,turtledemo,ensurepip,lib2to3,pydoc_data}
  mkdir -p "$root/usr/share/zoneinfo"
}

make_from_debian() {
  local mirror proxy root
  [ "$(uname -s)" = Linux ] || die "no registry answers; pull $official, or set OVERDB_BASE_IMAGE"
  if [ "$(id -u)" != 0 ]; then
    die "cannot pull $official; to make one from Debian packages instead: sudo deploy/base-image.sh"
  fi
  mirror=${OVERDB_DEBIAN_MIRROR:-$(mirror_of_apt)}
  [ -n "$mirror" ] || die "cannot pull $official, and apt here has no Debian mirror:" \
    "set OVERDB_DEBIAN_MIRROR, or OVERDB_BASE_IMAGE"
  have_debootstrap || die "cannot pull $official, and there is no debootstrap:" \
    "apt-get install debootstrap, or set OVERDB_BASE_IMAGE"
  say "no registry answers: making it from Debian packages (about a minute, once)"
  work=$(mktemp -d "${TMPDIR:-/tmp}/overdb-base.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  root=$work/root
  proxy=$(proxy_of_apt)
  [ -z "$proxy" ] || export http_proxy=$proxy
  PATH=$PATH:/usr/sbin:/sbin debootstrap --variant=minbase --include=python3,ca-certificates \
    "$suite" "$root" "$mirror" >"$work/log" 2>&1 </dev/null || {
    tail -n 5 "$work/log" >&2
    die "debootstrap failed; set OVERDB_DEBIAN_MIRROR to another mirror, or OVERDB_BASE_IMAGE"
  }
  trim "$root"
  tar -C "$root" --one-file-system --numeric-owner -c . |
    docker import --change 'CMD ["python3"]' - "$ours" >/dev/null
}

# Two at once make it once.
command -v flock >/dev/null && exec 9>"${TMPDIR:-/tmp}/overdb-base-image-$(id -u).lock" && flock 9
docker version >/dev/null 2>&1 || die "no Docker engine answers: start it, or use 'make run'"
if [ -n "${OVERDB_BASE_IMAGE:-}" ]; then
  is_here "$OVERDB_BASE_IMAGE" || docker pull --quiet "$OVERDB_BASE_IMAGE" >&2 ||
    die "cannot pull OVERDB_BASE_IMAGE=$OVERDB_BASE_IMAGE"
  echo "$OVERDB_BASE_IMAGE"
elif is_here "$ours"; then
  echo "$ours"
elif is_here "$official"; then
  echo "$official"
elif say "pulling $official" && pull_official; then
  echo "$official"
else
  make_from_debian
  echo "$ours"
fi
