# shellcheck shell=bash
# The namespaces a testbed lives in, and how to tell what belongs to it.
# Sourced by scripts/testbed.
#
# The keeper is a sleeping process that holds a private mount and network
# namespace: mounts, addresses and firewall rules made inside are seen by nobody
# else and end with the last process inside. Every such process, containers too,
# has a mount whose line in its mountinfo names $DIR: that is how they are
# recognised, even after a crash or a kill -9 of the keeper.

# Places the runtimes write to whatever their configuration says.
PRIVATE_PLACES="/run/netns /run/containerd /var/lib/cni"

# The mount points we have to make, and the runtimes' cgroups that are there before
# us: noted by the first of several testbeds, for the last one to put back.
note_before() {
    local place
    alone || return 0
    k8s_cgroups >"$CACHE/cgroups-before"
    : >"$CACHE/made"
    for place in $PRIVATE_PLACES; do
        [ -d "$place" ] || echo "$place" >>"$CACHE/made"
    done
}

# No testbed is up. Removing a directory would take away what others mounted on it.
alone() { ! pgrep -fx 'crane-testbed-keeper infinity' >/dev/null; }

start_keeper() {
    local place
    note_before
    # shellcheck disable=SC2086 # a list of plain words
    mkdir -p $PRIVATE_PLACES
    # A hybrid machine's cgroup2 mount is taken out of sight: crun refuses to work beside it.
    # shellcheck disable=SC2016 # expanded by the inner shell
    setsid unshare -m -n --propagation private bash -c '
        set -e
        mount --make-rshared /
        if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
        for place in $2; do mount -t tmpfs -o mode=0755 "$1/private" "$place"; done
        ip link set lo up
        touch "$1/keeper-ready"
        exec -a crane-testbed-keeper sleep infinity
    ' keeper "$DIR" "$PRIVATE_PLACES" </dev/null >>"$DIR/keeper.log" 2>&1 9>&- &
    echo $! >"$DIR/keeper.pid"
    disown
    wait_for 10 "the keeper (see $DIR/keeper.log)" test -e "$DIR/keeper-ready"
}

# The keeper's pid, if it lives and is ours.
keeper_pid() {
    local pid
    pid=$(cat "$DIR/keeper.pid" 2>/dev/null) || return 1
    grep -qsF " $DIR/private " "/proc/$pid/mountinfo" && echo "$pid"
}

# enter CMD...: the command that runs CMD inside; the caller decides how to start it.
enter() {
    local pid
    pid=$(keeper_pid) || die "the keeper of $DIR is gone: scripts/testbed down $DIR, then up again"
    # shellcheck disable=SC2034 # for the caller
    ENTER=(nsenter -t "$pid" -m -n --)
}

# Every process that lives inside: by its mounts, and never one that shares our own.
our_pids() {
    local pid own
    own=$(readlink /proc/self/ns/mnt)
    { grep -lsF -- "$DIR/" /proc/[0-9]*/mountinfo || true; } | while IFS=/ read -r _ _ pid _; do
        [ "$(readlink "/proc/$pid/ns/mnt" 2>/dev/null || echo "$own")" = "$own" ] || echo "$pid"
    done
}

KILLED=()

# kill_pids: succeeds when all are gone. A process on its way out shows no mounts
# any more, hence the list of those killed so far.
kill_pids() {
    local pid found
    mapfile -t found < <(our_pids)
    KILLED+=("${found[@]}")
    [ ${#found[@]} = 0 ] || kill -KILL "${found[@]}" 2>/dev/null || true
    for pid in "${KILLED[@]}"; do
        is_over "$pid" || return 1
    done
}

is_over() { ! grep -qsE '^State:[[:space:]]+[^ZX]' "/proc/$1/status"; }

# Ids of every container our runtimes ever spoke of, one per line.
container_ids() {
    { cat "$DIR"/containerd-*/containerd.log; ls "$DIR"/containerd-*/state/io.containerd.runtime.v2.task/*/; } 2>/dev/null |
        { grep -oE '[0-9a-f]{64}' || true; } | sort -u
}

# our_cgroups IDS: the containers' cgroups in any hierarchy, v1 or v2, deepest first.
# A testbed that was long at work has more ids than one argument can hold.
our_cgroups() {
    [ -z "$1" ] || find /sys/fs/cgroup -depth -type d -regextype posix-extended \
        -regex '.*[0-9a-f]{64}.*' 2>/dev/null | { grep -Ff <(printf '%s\n' "$1") || true; }
}

k8s_cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name k8s.io; }

remove_cgroups() { our_cgroups "$1" | xargs -r rmdir 2>/dev/null || true; }

our_mounts() { awk -v d="$DIR/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo; }

remove_mounts() { our_mounts | tac | xargs -r -n1 umount 2>/dev/null || true; }

# Puts back what note_before noted; what somebody uses by now stays.
remove_made() {
    [ -e "$CACHE/made" ] && alone || return 0
    k8s_cgroups | { grep -vxFf "$CACHE/cgroups-before" || true; } | xargs -r rmdir 2>/dev/null || true
    xargs -r rmdir <"$CACHE/made" 2>/dev/null || true
    rm -f "$CACHE/made" "$CACHE/cgroups-before"
}

# Mount points inside, as the keeper sees them.
inner_mounts() { awk '{ print $5 }' "/proc/$(keeper_pid)/mountinfo" | sort; }

# name_leftovers IDS: one line for each thing of ours still there.
name_leftovers() {
    local pid
    for pid in $(our_pids); do
        echo "process $pid: $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)"
    done
    our_mounts | sed 's/^/mount /'
    our_cgroups "$1" | sed 's/^/cgroup /'
}
