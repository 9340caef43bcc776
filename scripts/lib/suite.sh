# shellcheck shell=bash
# Packages of any Debian suite, unpacked beside the system's and never installed:
# no service starts, nothing of the machine is replaced. Kept in a cache, so that
# a second run downloads nothing. Sourced by scripts/testbed.
#
#   $CACHE/SUITE/apt/     lists and downloads of a private apt
#   $CACHE/SUITE/root/    what the packages contain
#   $CACHE/SUITE/PKG.done one for each unpacked package

CACHE=${CRANE_TESTBED_CACHE:-/var/cache/crane-supervisor-testbed}

# suite_apt SUITE apt-get|apt-cache ARG...: apt that sees that suite only.
# shellcheck disable=SC2154 # apt_options is lib.sh's
suite_apt() {
    local apt=$CACHE/$1/apt tool=$2
    shift 2
    "$tool" "${apt_options[@]}" -o Dir::Etc::sourcelist="$apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::State::Lists="$apt/lists" \
        -o Dir::Cache="$apt/cache" -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o APT::Sandbox::User=root -o APT::Default-Release= \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Update::Post-Invoke::= -o APT::Update::Post-Invoke-Success::= "$@"
}

# The mirror the machine itself uses for its own release.
system_mirror() {
    local codename
    codename=$(. /etc/os-release && printf %s "$VERSION_CODENAME")
    # shellcheck disable=SC2016 # apt's own names, not the shell's
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v r="$codename" '($1 == r || $1 == "stable") && $2 == "main" { print $3; exit }'
}

# suite_lists SUITE: fetches the suite's lists unless they are here.
suite_lists() {
    local apt=$CACHE/$1/apt mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -e "$apt/fetched" ] || return 0
    mirror=$(system_mirror)
    [ -n "$mirror" ] || die "no Debian mirror in this machine's apt sources: cannot get packages of $1"
    need_packages debian-archive-keyring
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$apt/sources.list"
    say "fetching the package lists of Debian $1 from $mirror (kept in $CACHE)"
    suite_apt "$1" apt-get -o APT::Update::Error-Mode=any update >&2 || return 1
    touch "$apt/fetched"
}

# suite_with PACKAGE VERSION-PATTERN SUITE...: the first suite that has it.
suite_with() {
    local package=$1 pattern=$2 suite version
    shift 2
    for suite in "$@"; do
        suite_lists "$suite" || continue
        version=$(suite_apt "$suite" apt-cache policy "$package" | awk '$1 == "Candidate:" { print $2 }')
        # shellcheck disable=SC2053 # the right side is a pattern on purpose
        if [[ $version == $pattern ]]; then
            echo "$suite"
            return 0
        fi
    done
    say "${0##*/}: no $package $pattern in Debian $* on this machine's mirror"
    return 1
}

# unpack SUITE PACKAGE...: into $CACHE/SUITE/root.
unpack() {
    local suite=$1 package fresh
    shift
    for package in "$@"; do
        [ ! -e "$CACHE/$suite/$package.done" ] || continue
        suite_lists "$suite" || die "cannot fetch the package lists of Debian $suite"
        fresh=$(mktemp -d "$CACHE/$suite/download.XXXXXX")
        say "unpacking $package of Debian $suite"
        (cd "$fresh" && suite_apt "$suite" apt-get download "$package" >&2) || suite_retry "$suite" "$package" "$fresh"
        dpkg -x "$fresh"/*.deb "$CACHE/$suite/root" || die "cannot unpack $package of Debian $suite"
        rm -rf "$fresh"
        touch "$CACHE/$suite/$package.done"
    done
}

# A package gone from the mirror since the lists were fetched: fetch them anew, once.
suite_retry() {
    rm -f "$CACHE/$1/apt/fetched"
    suite_lists "$1" || die "cannot fetch the package lists of Debian $1"
    (cd "$3" && suite_apt "$1" apt-get download "$2" >&2) ||
        die "cannot download $2 of Debian $1: see apt-get's words above"
}

# unpack_new SUITE PROGRAM PACKAGE...: that suite's program, made to run on this
# machine's older libc, as $CACHE/SUITE/NAME-new. The PACKAGEs are its own and those of
# its libraries. The interpreter and libraries are rewritten rather than wrapped: runc
# starts itself again through /proc/self/exe, which a wrapper does not survive.
unpack_new() {
    local suite=$1 program=$2 libs loader new=$CACHE/$1/${2##*/}-new
    [ ! -x "$new" ] || return 0
    need_packages patchelf:patchelf
    unpack "$suite" "${@:3}" libc6
    libs=$(echo "$CACHE/$suite"/root/usr/lib/*-linux-gnu*)
    loader=$(echo "$libs"/ld-linux*.so.*)
    cp "$CACHE/$suite/root/$program" "$new.part"
    patchelf --set-interpreter "$loader" --set-rpath "$libs" --force-rpath "$new.part"
    "$new.part" --version >&2 || die "${program##*/} of Debian $suite does not start here"
    mv "$new.part" "$new"
}
