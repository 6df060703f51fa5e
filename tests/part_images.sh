#!/bin/sh
# Images of a stack's parts, made from Debian packages on the tests' base image: no image registry is needed.
#   tests/part_images.sh        makes mlw-part-prometheus:1 mlw-part-alertmanager:1, prints their names
# The engine keeps them, so that the next run only looks. They answer to the same commands as the images that the world
# uses. Needs: a running engine with BuildKit, and what tests/base_image.sh needs.
set -eu

HERE="$(cd "$(dirname "$0")" && pwd)"
. "$HERE/mirror.sh"

build() {
    DOCKER="$DOCKER" sh "$HERE/base_image.sh" >/dev/null
    WORK="$(mktemp -d)"
    trap 'rm -rf "$WORK"' EXIT INT TERM
    # the machine's mirror and certificates are nobody's business but the machine's: no layer keeps them
    echo "deb $(mirror) bookworm main" >"$WORK/sources"
    DOCKER_BUILDKIT=1 "$DOCKER" build --quiet --target "$1" --tag "mlw-part-$1:1" \
        --secret "id=sources,src=$WORK/sources" --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt - <<'DOCKERFILE' >"$WORK/log" 2>&1 ||
FROM mlw-base:py311 AS base
FROM base AS prometheus
RUN --mount=type=secret,id=sources,target=/etc/apt/sources.list --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/* \
 && install -d -o 65534 -g 65534 /prometheus
ENTRYPOINT ["prometheus"]
FROM base AS alertmanager
RUN --mount=type=secret,id=sources,target=/etc/apt/sources.list --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus-alertmanager && rm -rf /var/lib/apt/lists/* \
 && install -d -o 65534 -g 65534 /alertmanager
ENTRYPOINT ["prometheus-alertmanager"]
DOCKERFILE
        { tail -n 20 "$WORK/log" >&2; exit 1; }
    rm -rf "$WORK"
}

for part in prometheus alertmanager; do
    "$DOCKER" image inspect "mlw-part-$part:1" >/dev/null 2>&1 || build "$part"
    echo "mlw-part-$part:1"
done
