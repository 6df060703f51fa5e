#!/bin/sh
# The proxy's image of the container tests: Debian's HAProxy on the tests' base image, in place of the official one.
#   tests/proxy_image.sh [TAG]           default tag: mlw-proxy:debian
# Kept as a tarball in MLW_TEST_CACHE (default ~/.cache/mlworkbench-tests), so that the next engine only loads it.
# The package mirror is this machine's own and comes in as a build secret: no layer names it.
set -eu

HERE="$(cd "$(dirname "$0")" && pwd)"
. "$HERE/mirror.sh"
TAG="${1:-mlw-proxy:debian}"
RECIPE=1                                   # raise it when the recipe below changes
TARBALL="$CACHE/proxy-debian-$RECIPE.tar"

build() {
    MIRROR="$(mirror)"
    [ -n "$MIRROR" ] || { echo "proxy_image: no Debian mirror in this machine's apt sources" >&2; exit 3; }
    BASE="$(DOCKER="$DOCKER" sh "$HERE/base_image.sh")"
    WORK="$(mktemp -d)"
    trap 'rm -rf "$WORK"' EXIT INT TERM
    echo "deb [trusted=yes] $MIRROR bookworm main" >"$WORK/sources.list"
    cat >"$WORK/Dockerfile" <<RECIPE_END
FROM $BASE
RUN --mount=type=secret,id=sources,target=/etc/apt/sources.list \
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends haproxy >/dev/null && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc /usr/share/man /var/log/*
STOPSIGNAL SIGUSR1
ENTRYPOINT []
CMD ["haproxy", "-v"]
RECIPE_END
    DOCKER_BUILDKIT=1 "$DOCKER" build --quiet --tag "$TAG" --secret "id=sources,src=$WORK/sources.list" "$WORK" >"$WORK/log" 2>&1 ||
        { tail -n 20 "$WORK/log" >&2; exit 1; }
    mkdir -p "$CACHE"
    "$DOCKER" save --output "$TARBALL.$$" "$TAG" && mv "$TARBALL.$$" "$TARBALL"
}

"$DOCKER" image inspect "$TAG" >/dev/null 2>&1 || {
    [ -s "$TARBALL" ] && "$DOCKER" load --quiet --input "$TARBALL" >/dev/null && "$DOCKER" image inspect "$TAG" >/dev/null 2>&1
} || build
echo "$TAG"
