#!/bin/sh
# The base image of the container tests, made from Debian packages alone: no image registry is needed.
#   tests/base_image.sh [TAG]            default tag: mlw-base:py311
# The root file system is kept as a tarball in MLW_TEST_CACHE (default ~/.cache/mlworkbench-tests), so that
# the next run, and the next container engine, only import it. The mirror is this machine's own. Needs: a running
# engine, debootstrap, root.
set -eu

HERE="$(cd "$(dirname "$0")" && pwd)"
. "$HERE/mirror.sh"
TAG="${1:-mlw-base:py311}"
RECIPE=2                                   # raise it when the recipe below changes
TARBALL="$CACHE/base-bookworm-py311-$RECIPE.tar"

build() {
    command -v debootstrap >/dev/null || { echo "base_image: debootstrap is missing: apt-get install debootstrap" >&2; exit 3; }
    MIRROR="$(mirror)"
    [ -n "$MIRROR" ] || { echo "base_image: no Debian mirror in this machine's apt sources" >&2; exit 3; }
    WORK="$(mktemp -d)"
    trap 'rm -rf "$WORK"' EXIT INT TERM
    ROOT="$WORK/root"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$ROOT" "$MIRROR" >"$WORK/log" 2>&1 ||
        { tail -n 20 "$WORK/log" >&2; exit 1; }
    rm -rf "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/cache/apt/* "$ROOT"/usr/share/doc "$ROOT"/usr/share/man \
        "$ROOT"/usr/share/locale "$ROOT"/usr/share/info "$ROOT"/var/log/*
    find "$ROOT" -name __pycache__ -type d -prune -exec rm -rf {} +
    # the machine's mirror is nobody's business but the machine's
    : >"$ROOT/etc/apt/sources.list"
    mkdir -p "$CACHE"
    tar -C "$ROOT" --numeric-owner -cf "$TARBALL.$$" . && mv "$TARBALL.$$" "$TARBALL"
}

[ -s "$TARBALL" ] || build
"$DOCKER" image inspect "$TAG" >/dev/null 2>&1 ||
    "$DOCKER" import -c 'ENV LANG=C.UTF-8' -c 'CMD ["python3"]' "$TARBALL" "$TAG" >/dev/null
echo "$TAG"
