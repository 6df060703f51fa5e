# For the scripts that make test images: which engine to ask, and this machine's own Debian mirror (empty: none is known).
DOCKER="${DOCKER:-docker}"
[ -x /usr/bin/docker ] && [ "$DOCKER" = docker ] && DOCKER=/usr/bin/docker
CACHE="${MLW_TEST_CACHE:-$HOME/.cache/mlworkbench-tests}"

mirror() {
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
        awk '/^deb / { for (i = 2; i <= NF; i++) if ($i ~ /^https?:.*\/debian\/?$/) { print $i; exit } }
             /^URIs:/ { for (i = 2; i <= NF; i++) if ($i ~ /^https?:.*\/debian\/?$/) { print $i; exit } }'
}
