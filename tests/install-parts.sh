#!/bin/sh
# Installs the Debian packages whose programs the integration tests run, where that is allowed.
#
# What is there already is left alone. Without apt-get, or without the right to use it, nothing happens: the tests that
# need a missing part are skipped. In CI (CI=true) a missing part is an error. Nothing is left running: the packages'
# own services are kept from starting while they are installed.
set -eu

missing_packages() {
    PATH="$PATH:/usr/sbin:/sbin"
    while read -r program package; do
        command -v "$program" >/dev/null 2>&1 || printf '%s ' "$package"
    done <<LIST
nginx nginx-light
haproxy haproxy
curl curl
h2load nghttp2-client
node nodejs
npm npm
chromium chromium
chromedriver chromium-driver
promtool prometheus
redis-server redis-server
openssl openssl
systemd-analyze systemd
LIST
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true >/dev/null 2>&1; }
}

# Debian asks this file before a package starts its service; 101 means "not now". One that is there stays in force.
POLICY=/usr/sbin/policy-rc.d
made_policy=no

forbid_services() {
    if [ ! -e "$POLICY" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
        as_root chmod 755 "$POLICY"
        made_policy=yes
    fi
}

allow_services() {
    if [ "$made_policy" = yes ]; then
        as_root rm -f "$POLICY"
        made_policy=no
    fi
}

install_packages() {
    log=$(mktemp)
    trap 'allow_services; rm -f "$log"' EXIT
    trap 'exit 130' INT TERM
    forbid_services
    # shellcheck disable=SC2086  # the list is made of words
    if ! {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install $1
    } >"$log" 2>&1 </dev/null; then
        echo "install-parts: apt-get failed:" >&2
        tail -n 20 "$log" >&2
    fi
}

wanted=$(missing_packages)
[ -n "$wanted" ] || exit 0

if may_install; then
    echo "install-parts: installing $wanted"
    install_packages "$wanted"
fi

wanted=$(missing_packages)
[ -n "$wanted" ] || exit 0
echo "install-parts: missing, and their tests with them: $wanted" >&2
case "${CI:-}" in
    '' | 0 | false) exit 0 ;;
    *) exit 1 ;;
esac
