# shellcheck shell=bash
# Small OCI images made on the spot from one static busybox, so that tests and
# demo need no registry. Sourced by scripts/testbed.

# build_images DIR BUSYBOX: DIR/shell.tar (two names), DIR/entry.tar, the same with an
# entrypoint and a working directory, and DIR/pause.tar.
build_images() {
    local dir=$1 busybox=$2
    mkdir -p "$dir"
    busybox_tree "$dir/shell" "$busybox"
    compile as-root "$dir/shell/usr/bin/as-root"
    chmod 4755 "$dir/shell/usr/bin/as-root"
    compile files "$dir/shell/usr/bin/files"
    cp -a "$dir/shell" "$dir/entry"
    image_archive "$dir/shell" '"Cmd":["/bin/sh"]' docker.io/library/alpine:latest localhost/bb:1
    image_archive "$dir/entry" '"Entrypoint":["/bin/echo","entry"],"Cmd":["usual"],"WorkingDir":"/var"' localhost/entry:1
    mkdir -p "$dir/pause"
    compile pause "$dir/pause/pause"
    image_archive "$dir/pause" '"Cmd":["/pause"]' localhost/pause:1
}

# compile NAME FILE: scripts/lib/NAME.c into FILE.
compile() {
    cc -Os -static -o "$2" "$REPO/scripts/lib/$1.c" || die "cannot compile scripts/lib/$1.c"
}

busybox_tree() {
    local tree=$1 busybox=$2 applet
    mkdir -p "$tree"/{bin,sbin,usr/bin,usr/sbin,etc,root,tmp,var,home}
    chmod 1777 "$tree/tmp"
    cp "$busybox" "$tree/bin/busybox"
    "$busybox" --list-full | while read -r applet; do
        [ "$applet" = bin/busybox ] || ln -sf /bin/busybox "$tree/$applet"
    done
    printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/false >"$tree/etc/passwd"
    printf '%s\n' root:x:0: nobody:x:65534: >"$tree/etc/group"
    printf '%s\n' 'ID=busybox' 'PRETTY_NAME="busybox, standing in for a distribution"' >"$tree/etc/os-release"
}

# image_archive TREE CONFIG-JSON NAME...: TREE.tar, an OCI layout with one image under each NAME.
image_archive() {
    local tree=$1 own=$2 layout=$1.oci name layer config manifest entries=
    shift 2
    mkdir -p "$layout/blobs/sha256"
    # One owner and one time: the same tree has the same digest everywhere.
    tar -C "$tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$layout/new" .
    layer=$(add_blob "$layout")
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=%s"],%s},"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
        "$(dpkg --print-architecture)" /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "$own" "${layer%% *}" >"$layout/new"
    config=$(add_blob "$layout")
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' \
        application/vnd.oci.image.manifest.v1+json \
        "$(descriptor application/vnd.oci.image.config.v1+json "$config")" \
        "$(descriptor application/vnd.oci.image.layer.v1.tar "$layer")" >"$layout/new"
    manifest=$(add_blob "$layout")
    for name in "$@"; do
        entries+=${entries:+,}$(descriptor application/vnd.oci.image.manifest.v1+json "$manifest" "$name")
    done
    printf '{"schemaVersion":2,"manifests":[%s]}' "$entries" >"$layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    tar -C "$layout" -cf "$tree.tar" .
    rm -rf "$layout" "$tree"
}

# add_blob LAYOUT: files LAYOUT/new under its digest; prints "DIGEST SIZE".
add_blob() {
    local sum size
    sum=$(sha256sum <"$1/new" | cut -d' ' -f1)
    size=$(stat -c %s "$1/new")
    mv "$1/new" "$1/blobs/sha256/$sum"
    echo "sha256:$sum $size"
}

# descriptor MEDIA-TYPE "DIGEST SIZE" [NAME]
descriptor() {
    local annotations=
    [ $# -lt 3 ] || annotations=$(printf ',"annotations":{"io.containerd.image.name":"%s"}' "$3")
    printf '{"mediaType":"%s","digest":"%s","size":%s%s}' "$1" "${2%% *}" "${2##* }" "$annotations"
}
