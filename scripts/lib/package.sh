# shellcheck shell=bash
# The parts of scripts/package: what goes where, and the two formats. Sourced, never run.
# Reads version, revision, binary, output and work of scripts/package.
# shellcheck disable=SC2154 # set where it is sourced

# The C library of each system the packages are for.
GLIBC_OF=("2.34 Rocky 9" "2.35 Ubuntu 22.04" "2.36 Debian 12" "2.39 Ubuntu 24.04" "2.41 Debian 13")

# glibc_needed BINARY: the newest version that any of its symbols asks for.
glibc_needed() { objdump -T "$1" | sed -n 's/.*(\?GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -n 1; }

older() { [ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

say_where_it_runs() {
    local needed entry without=()
    needed=$(glibc_needed "$1")
    [ -n "$needed" ] || die "$1 is no program linked with glibc"
    for entry in "${GLIBC_OF[@]}"; do
        ! older "${entry%% *}" "$needed" || without+=("${entry#* }")
    done
    say "-- the program needs glibc $needed or newer"
    [ ${#without[@]} = 0 ] || say "-- WARNING: too new for $(printf '%s, ' "${without[@]}" | sed 's/, $//'): build on Debian 12 for those"
}

# generate DIR: from the command line as clap knows it, and from the crates' own files.
generate() {
    cargo run --quiet --locked --example generate -- "$1" >&2 || die "cannot make man pages and completions"
    third_party >"$1/third-party.txt"
}

# The licence texts of every crate that is in the program.
third_party() {
    local crate name version licence dir file
    echo "crane-supervisor is built from these crates besides its own; their licences follow. It also holds"
    echo "Rust's standard library, (c) The Rust Project contributors, MIT OR Apache-2.0: www.rust-lang.org."
    cargo tree --locked --offline --edges normal --prefix none --format '{p} {l}' | sort -u >"$work/crates"
    grep -v '^crane-supervisor ' "$work/crates" | sed 's/ (\*)$//; s/ (proc-macro)//' | sort -u >"$work/others"
    echo && cat "$work/others"
    while read -r name version licence; do
        for dir in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$name-${version#v}"; do
            [ -d "$dir" ] || die "no source of $name $version for its licence: run cargo fetch"
            crate="$name $version ($licence)"
            for file in "$dir"/{LICEN[CS]E,COPYING,COPYRIGHT,NOTICE,UNLICENSE}*; do
                [ -f "$file" ] || continue
                printf '\n%s\n== %s: %s\n\n' "$(printf '=%.0s' {1..78})" "$crate" "${file##*/}"
                tr -d '\r' <"$file"
            done
        done
    done <"$work/others"
}

# put MODE SOURCE TARGET
put() { install -D -p -m "$1" "$2" "$3"; }

# put_compressed SOURCE TARGET
put_compressed() {
    put 0644 "$1" "$2"
    gzip -9nf "$2"
}

# stage KIND ROOT: the tree as it will be on a node.
stage() {
    local kind=$1 root=$2 common=$REPO/packaging/common made=$work/generated page document
    local doc=$root/usr/share/doc/crane-supervisor systemd=$root/usr/lib/systemd/system
    umask 022
    put 0755 "$binary" "$root/usr/libexec/crane-supervisor"
    strip --remove-section=.comment --remove-section=.note "$root/usr/libexec/crane-supervisor"
    mkdir -p "$root/usr/bin"
    ln -s ../libexec/crane-supervisor "$root/usr/bin/crane-supervisor"
    put 0644 "$common/cleanup.service" "$systemd/crane-supervisor-cleanup.service"
    put 0644 "$common/cleanup.timer" "$systemd/crane-supervisor-cleanup.timer"
    put 0644 "$common/craned.conf" "$systemd/craned.service.d/50-crane-supervisor.conf"
    put 0644 "$common/tmpfiles.conf" "$root/usr/lib/tmpfiles.d/crane-supervisor.conf"
    put 0644 "$common/sysctl.conf" "$root/usr/lib/sysctl.d/10-crane-supervisor.conf"
    for page in "$made"/man/*.8; do
        put_compressed "$page" "$root/usr/share/man/man8/${page##*/}"
    done
    put 0644 "$made/bash/crane-supervisor.bash" "$root/usr/share/bash-completion/completions/crane-supervisor"
    put 0644 "$made/fish/crane-supervisor.fish" "$root/usr/share/fish/vendor_completions.d/crane-supervisor.fish"
    for document in README*.md docs/{operating,security,compatibility}*.md; do
        put 0644 "$REPO/$document" "$doc/${document##*/}"
        # One directory there.
        sed -i -e 's|](docs/|](|g' -e 's|](\.\./|](|g' "$doc/${document##*/}"
    done
    put_compressed "$made/third-party.txt" "$doc/third-party.txt"
    "stage_$kind" "$root" "$doc"
    # What the tree is for is a system's: no times of a checkout in it.
    find "$root" -exec touch --no-dereference --date "@$(source_date)" {} +
}

# Two builds of one commit give the same package.
source_date() { printf %s "${SOURCE_DATE_EPOCH:-$(git -C "$REPO" log -1 --format=%ct 2>/dev/null || echo 0)}"; }

stage_deb() {
    put 0644 "$REPO/packaging/common/options" "$1/etc/default/crane-supervisor"
    put 0644 "$work/generated/zsh/_crane-supervisor" "$1/usr/share/zsh/vendor-completions/_crane-supervisor"
    put 0644 "$REPO/packaging/deb/copyright" "$2/copyright"
    put 0644 "$REPO/packaging/deb/lintian-overrides" "$1/usr/share/lintian/overrides/crane-supervisor"
    put_compressed "$REPO/CHANGELOG.md" "$2/changelog"
    put_compressed "$REPO/packaging/deb/changelog" "$2/changelog.Debian"
}

stage_rpm() {
    put 0644 "$REPO/packaging/common/options" "$1/etc/sysconfig/crane-supervisor"
    put 0644 "$work/generated/zsh/_crane-supervisor" "$1/usr/share/zsh/site-functions/_crane-supervisor"
    put 0644 "$REPO/packaging/rpm/preset" "$1/usr/lib/systemd/system-preset/90-crane-supervisor.preset"
    put 0644 "$REPO/LICENSE" "$1/usr/share/licenses/crane-supervisor/LICENSE"
    put 0644 "$REPO/CHANGELOG.md" "$2/CHANGELOG.md"
}

# Depends, as the program's symbols ask for.
libraries_of() {
    mkdir -p "$work/shlibs/debian"
    printf 'Source: crane-supervisor\n\nPackage: crane-supervisor\nArchitecture: any\n' >"$work/shlibs/debian/control"
    (cd "$work/shlibs" && dpkg-shlibdeps -O "$1" 2>/dev/null) | sed -n 's/^shlibs:Depends=//p'
}

make_deb() {
    local root=$1 script architecture package depends maintainer
    architecture=$(dpkg --print-architecture)
    package=$output/crane-supervisor_$version-${revision}_$architecture.deb
    depends=$(libraries_of "$root/usr/libexec/crane-supervisor")
    [ -n "$depends" ] || die "dpkg-shlibdeps names no library that the program needs"
    maintainer=$(maintainer)
    mkdir "$root/DEBIAN"
    (cd "$root" && find usr etc -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    (cd "$root" && find etc -type f -printf '/%p\n') >"$root/DEBIAN/conffiles"
    for script in postinst prerm postrm; do
        put 0755 "$REPO/packaging/deb/$script" "$root/DEBIAN/$script"
    done
    sed -e "s|@VERSION@|$version-$revision|" -e "s|@ARCHITECTURE@|$architecture|" -e "s|@DEPENDS@|$depends|" \
        -e "s|@SIZE@|$(du -sk --apparent-size --exclude DEBIAN "$root" | cut -f 1)|" -e "s|@MAINTAINER@|$maintainer|" \
        "$REPO/packaging/deb/control.in" >"$root/DEBIAN/control"
    SOURCE_DATE_EPOCH=$(source_date) dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >&2 || die "dpkg-deb failed"
    printf '%s\n' "$package"
}

maintainer() {
    if [ -n "${DEBFULLNAME-}" ] && [ -n "${DEBEMAIL-}" ]; then
        printf '%s <%s>' "$DEBFULLNAME" "$DEBEMAIL"
    else
        sed -n 's/^ -- \(.*>\)  .*/\1/p' "$REPO/packaging/deb/changelog" | head -n 1
    fi
}

make_rpm() {
    local machine package
    machine=$(rpm --eval '%{_target_cpu}')
    package=crane-supervisor-$version-$revision.$machine.rpm
    SOURCE_DATE_EPOCH=$(source_date) rpmbuild --quiet -bb --define "_topdir $work/rpmbuild" \
        --define "staged $1" --define "version_ $version" --define "release_ $revision" \
        --define "packager_ $(maintainer)" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        --define "_rpmfilename %{name}-%{version}-%{release}.%{arch}.rpm" --define "_buildhost localhost" \
        "$REPO/packaging/rpm/crane-supervisor.spec" >&2 || die "rpmbuild failed"
    mv "$work/rpmbuild/RPMS/$package" "$output/$package"
    printf '%s\n' "$output/$package"
}
