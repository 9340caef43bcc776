# shellcheck shell=bash
# What every script here shares: words for people, bounded waits, packages by name.
# Sourced, never run. Words for people go to stderr; stdout belongs to data.

# The top of the repository, whoever calls from wherever.
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export REPO

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root (mount namespaces, cgroups and packages): run it as root"
}

# wait_for SECONDS WHAT CMD...: until CMD succeeds; fails with words after SECONDS.
wait_for() {
    local limit=$1 what=$2 end
    shift 2
    end=$((SECONDS + limit))
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then
            say "${0##*/}: waited ${limit} s for $what, in vain"
            return 1
        fi
        sleep 0.05
    done
}

apt_options=(-qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Acquire::http::Timeout=30
    -o Dpkg::Use-Pty=0)

# need_packages [COMMAND:]PACKAGE...: installs what is missing. With COMMAND, a
# machine that has the command from elsewhere is left as it is.
need_packages() {
    local entry missing=()
    for entry in "$@"; do
        has_package "$entry" || missing+=("${entry##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "apt-get not found: install by hand what stands for Debian's ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "missing packages, and only root can install them: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get "${apt_options[@]}" update >&2 || say "apt-get update failed; trying with the lists at hand"
    # --no-remove: a package of ours must never push out one of the machine's.
    DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" install -y --no-remove \
        --no-install-recommends "${missing[@]}" >&2 </dev/null ||
        die "cannot install ${missing[*]}: see apt-get's words above"
}

has_package() {
    case $1 in
    *:*) command -v "${1%%:*}" >/dev/null ;;
    *) ! command -v dpkg-query >/dev/null || [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
    esac
}
