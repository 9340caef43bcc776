# shellcheck shell=bash
# One private containerd: its configuration, its start, its end. It has its own
# root, state and socket below $DIR/NAME and runs inside the keeper's namespaces;
# a containerd of the system is never looked at. Sourced by scripts/testbed.

CRI=runtime.v1.RuntimeService
IMAGES=runtime.v1.ImageService

# locate NAME: finds and unpacks what it runs with; sets SUITE and PREFIX, its files.
locate() {
    unpack bookworm containerd runc containernetworking-plugins busybox-static
    case $1 in
    containerd-1.6) SUITE=bookworm ;;
    containerd-1.7) SUITE=$(suite_with containerd '1.7.*' trixie) ;;
    containerd-2) SUITE=$(suite_with containerd '2.*' trixie forky sid) ;;
    *) die "no runtime named $1: choose from containerd-1.6 containerd-1.7 containerd-2" ;;
    esac
    PREFIX=$CACHE/$SUITE/root
    [ "$SUITE" = bookworm ] || {
        unpack "$SUITE" containerd
        unpack_new "$SUITE" usr/sbin/runc runc libseccomp2
    }
}

# unpack_bindfs: a newer bindfs than the system's, of the suite last located; sets
# BINDFS_NEW. Without it the tests have the system's only, and say so.
unpack_bindfs() {
    BINDFS_NEW=$CACHE/$SUITE/bindfs-new
    (unpack_new "$SUITE" usr/bin/bindfs bindfs libfuse3-4) && return 0
    say "going on without the bindfs of Debian $SUITE"
    # shellcheck disable=SC2034 # for the caller
    BINDFS_NEW=
}

# has_userns NAME: can its pods have a user namespace? containerd 1.6 takes the wish and
# ignores it.
has_userns() { [ "$1" != containerd-1.6 ]; }

socket_of() { echo "$DIR/$1/containerd.sock"; }

# prepare NAME NUMBER: all its files. NUMBER keeps bridges and subnets apart.
prepare() {
    local home=$DIR/$1
    locate "$1"
    mkdir -p "$home"/{root,state,cni,cni-bin,certs.d,cdi}
    ln -sf "$BASE"/usr/lib/cni/* "$home/cni-bin/"
    ln -sf "$BASE/usr/sbin/runc" "$home/oci-runc"
    [ ! -x "$CACHE/$SUITE/runc-new" ] || ln -sf "$CACHE/$SUITE/runc-new" "$home/oci-runc-new"
    echo "$PREFIX/usr/bin:$BASE/usr/sbin:$BASE/usr/bin:$PATH" >"$home/path"
    write_network "$home" "$2"
    case $1 in
    containerd-2) config_v3 "$home" >"$home/config.toml" ;;
    *) config_v2 "$home" >"$home/config.toml" ;;
    esac
}

write_network() {
    cat >"$1/cni/10-bridge.conflist" <<JSON
{ "cniVersion": "1.0.0", "name": "crane-testbed-$2", "plugins": [
  { "type": "bridge", "bridge": "cranebr$2", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "$1/addresses", "routes": [ { "dst": "0.0.0.0/0" } ],
              "ranges": [ [ { "subnet": "10.211.$2.0/24" } ] ] } },
  { "type": "portmap", "capabilities": { "portMappings": true } } ] }
JSON
}

# runtime_tables HOME TABLE: the OCI runtimes, each with its own state, else all
# private instances would share /run/containerd/runc. By links, and so are the network
# plugins: a soak puts scripts in their places.
runtime_tables() {
    local name binary
    for name in runc runc-new; do
        binary=$1/oci-$name
        [ -x "$binary" ] || continue
        cat <<TOML
[plugins.'$2'.containerd.runtimes.$name]
  runtime_type = "io.containerd.runc.v2"
[plugins.'$2'.containerd.runtimes.$name.options]
  BinaryName = "$binary"
  Root = "$1/state/oci-$name"
  SystemdCgroup = false
TOML
    done
}

config_head() {
    cat <<TOML
version = $2
root = "$1/root"
state = "$1/state"
[grpc]
  address = "$1/containerd.sock"
[ttrpc]
  address = "$1/containerd.sock.ttrpc"
[plugins.'io.containerd.internal.v1.opt']
  path = "$1/opt"
TOML
}

# restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot lower the score.
config_v2() {
    config_head "$1" 2
    cat <<TOML
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_port = "0"
$([ "$SUITE" = bookworm ] || printf '  enable_cdi = true\n  cdi_spec_dirs = ["%s/cdi"]' "$1")
[plugins.'io.containerd.grpc.v1.cri'.cni]
  bin_dir = "$1/cni-bin"
  conf_dir = "$1/cni"
[plugins.'io.containerd.grpc.v1.cri'.registry]
  config_path = "$1/certs.d"
[plugins.'io.containerd.grpc.v1.cri'.containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
TOML
    runtime_tables "$1" io.containerd.grpc.v1.cri
}

# Its pods' user namespaces need runc 1.2 or later, which Debian 12 does not have.
config_v3() {
    config_head "$1" 3
    cat <<TOML
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_port = "0"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "$1/certs.d"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_cdi = true
  cdi_spec_dirs = ["$1/cdi"]
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["$1/cni-bin"]
  conf_dir = "$1/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc-new"
TOML
    runtime_tables "$1" io.containerd.cri.v1.runtime
}

# The instance's pid, if that is still the process we started.
runtime_pid() {
    local pid
    pid=$(cat "$DIR/$1/pid" 2>/dev/null) || return 1
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$DIR/$1/config.toml" && echo "$pid"
}

# Its own suite's shim must come first in PATH: containerd finds the shim by name.
start_runtime() {
    local name=$1 home=$DIR/$1
    [ -e "$home/config.toml" ] || die "$DIR has no runtime named $name"
    runtime_pid "$name" >/dev/null && die "$name of $DIR runs already"
    enter
    PATH=$(cat "$home/path") setsid "${ENTER[@]}" "$(cut -d: -f1 "$home/path")/containerd" \
        --config "$home/config.toml" </dev/null >>"$home/containerd.log" 2>&1 9>&- &
    echo $! >"$home/pid"
    disown
    wait_for 60 "$name to answer (see $home/containerd.log)" answers "$name"
}

stop_runtime() {
    local pid
    pid=$(runtime_pid "$1") || die "$1 of $DIR does not run"
    kill -s "$2" "$pid"
    wait_for 20 "$1 to end" gone "$1"
}

gone() { ! runtime_pid "$1" >/dev/null; }

answers() { cri "$1" $CRI/Status >/dev/null; }

# cri NAME SERVICE/METHOD [BYTES]: one CRI call, its framed answer on stdout. BYTES is
# the request in protobuf, with printf's escapes.
cri() {
    local socket headers=$DIR/$1/headers.$BASHPID size body status=1
    socket=$(socket_of "$1") body=${3-}
    # shellcheck disable=SC2059 # the escapes are the point
    size=$(printf "$body" | wc -c)
    # shellcheck disable=SC2059
    printf "\\0\\0\\0\\0\\x$(printf %02x "$size")$body" | curl -sS --http2-prior-knowledge --max-time 30 \
        --unix-socket "$socket" -H 'content-type: application/grpc' -H 'te: trailers' \
        --data-binary @- -D "$headers" -o "$headers.body" "http://localhost/$2" 2>/dev/null || true
    if grep -qsi '^grpc-status: 0' "$headers"; then
        cat "$headers.body"
        status=0
    fi
    rm -f "$headers" "$headers.body"
    return $status
}

# A protobuf string as field 1, for cri.
field1() { printf '\\x0a\\x%02x%s' "${#1}" "$1"; }

import_images() {
    local archive name
    for archive in "$DIR"/images/*.tar; do
        "$BASE/usr/bin/ctr" -a "$(socket_of "$1")" -n k8s.io images import "$archive" >>"$DIR/$1/import.log" 2>&1 ||
            die "cannot import $archive into $1: $(tail -1 "$DIR/$1/import.log")"
    done
    for name in alpine:latest localhost/bb:1 localhost/pause:1; do
        wait_for 20 "$1 to know $name" knows_image "$1" "$name"
    done
}

# ImageStatus of an unknown image is a success without a body beyond the frame.
knows_image() {
    local spec
    spec=$(field1 "$2")
    [ "$(cri "$1" $IMAGES/ImageStatus "$(printf '\\x0a\\x%02x' $((${#2} + 2)))$spec" | wc -c)" -gt 5 ]
}

# containers_of NAME [FILTER]: ids of pods and containers the runtime knows.
containers_of() {
    "$BASE/usr/bin/ctr" -a "$(socket_of "$1")" --connect-timeout 5s -n k8s.io containers ls -q "${@:2}"
}

# Ends and removes every pod; what fails here falls to the keeper's end.
remove_pods() {
    local pod
    for pod in $(containers_of "$1" 'labels."io.cri-containerd.kind"==sandbox' 2>/dev/null); do
        say "removing pod $pod left in $1"
        cri "$1" $CRI/StopPodSandbox "$(field1 "$pod")" >/dev/null || true
        cri "$1" $CRI/RemovePodSandbox "$(field1 "$pod")" >/dev/null || true
    done
}
