# shellcheck shell=bash
# What scripts/lib/packages-inside.sh checks, one function each. Sourced, inside the root.
# Reads kind, scratch, bed and database.
# shellcheck disable=SC2154 # set where it is sourced

UNITS=/usr/lib/systemd/system

# craned's configuration as an administrator has it; and one of the test's for jobs.
write_config() {
    mkdir -p /etc/crane
    cat >/etc/crane/config.yaml <<YAML
CraneBaseDir: $scratch/crane-$kind/
Supervisor:
  Path: /usr/libexec/crane-supervisor
Container:
  Enabled: true
  RuntimeEndpoint: unix://$bed/containerd-1.6/containerd.sock
YAML
}

# Every path of the package but directories, for the end.
remember_files() {
    case $kind in
    deb) dpkg -L crane-supervisor ;;
    rpm) rpm "${database[@]}" -ql crane-supervisor ;;
    esac | while read -r path; do
        [ -d "$path" ] && [ ! -L "$path" ] || echo "$path"
    done >/run/files
    [ "$(wc -l </run/files)" -ge 20 ] || die "the package lists only $(wc -l </run/files) files"
}

check_installed() {
    local file page
    while read -r file; do
        [ -e "$file" ] || die "$file is in the package and not installed"
    done </run/files
    [ "$(readlink -f /usr/bin/crane-supervisor)" = /usr/libexec/crane-supervisor ] || die "the link is wrong"
    [ "$(stat -c '%U %a' /usr/libexec/crane-supervisor)" = "root 755" ] || die "the program's owner or mode is wrong"
    [[ "$(crane-supervisor --version)" == "crane-supervisor "* ]] || die "the program does not say its version"
    [ "$(stat -c '%U %a' /tmp/crane)" = "root 700" ] || die "/tmp/crane is not root's alone"
    [ "$kind" = rpm ] || apt-get -qq --simulate install "$scratch"/1/*.deb >&2 || die "apt cannot install the package"
    grep -q CLEANUP_OPTIONS "$1" || die "$1 does not say what it is for"
    for page in /usr/share/man/man8/crane-supervisor*.8.gz; do
        grep -q "$(basename "$page" .8.gz)" < <(man -l "$page" 2>&1) || die "the manual page $page cannot be shown"
    done
    for page in "" -run -cleanup -logs; do
        [ -e "/usr/share/man/man8/crane-supervisor$page.8.gz" ] || die "there is no page crane-supervisor$page(8)"
    done
    # shellcheck disable=SC1091
    (. /usr/share/bash-completion/completions/crane-supervisor && complete -p crane-supervisor) >&2 ||
        die "bash has no completions"
    ! grep -q hold-user-namespace /usr/share/bash-completion/completions/crane-supervisor ||
        die "hidden commands are offered"
    zgrep -q "^tokio v" /usr/share/doc/crane-supervisor/third-party.txt.gz || die "tokio's licence is missing"
}

# systemd reads the units without a complaint, and starts cleanup before craned.
check_units() {
    local words
    printf '[Service]\nExecStart=/bin/true\n' >/etc/systemd/system/craned.service
    words=$(systemd-analyze verify --man=no "$UNITS"/crane-supervisor-cleanup.{service,timer} craned.service 2>&1) ||
        die "systemd-analyze: $words"
    [ -z "$words" ] || die "systemd-analyze complains: $words"
    chmod 1777 /run
    words=$(setpriv --reuid nobody --clear-groups /lib/systemd/systemd --test --system --unit=craned.service 2>&1)
    chmod 0755 /run
    words=$(awk '$1 == "->" && $2 == "Unit" { ours = $3 == "craned.service:" } ours' <<<"$words")
    grep -q "After: crane-supervisor-cleanup.service" <<<"$words" || die "craned does not wait for cleanup: $words"
    grep -q "Wants: crane-supervisor-cleanup.service" <<<"$words" || die "craned does not start cleanup: $words"
    rm /etc/systemd/system/craned.service
}

# What is old goes by the package's own lines, with their age set to nothing; the state of steps stays.
check_ageing() {
    local dir=/var/crane/supervisor
    mkdir -p $dir/containers/42/steps/1 /tmp/crane
    touch $dir/42.1.log $dir/containers/42/steps/1/journal /tmp/crane/step_42.1.sock
    systemd-tmpfiles --clean crane-supervisor.conf
    [ -e $dir/42.1.log ] || die "a new log was removed"
    sed 's/ 90d$/ 0/' /usr/lib/tmpfiles.d/crane-supervisor.conf >/run/old.conf
    systemd-tmpfiles --clean /run/old.conf
    [ ! -e $dir/42.1.log ] || die "an old log was not removed"
    [ -e $dir/containers/42/steps/1/journal ] || die "ageing took the state of a step"
    [ -e /tmp/crane/step_42.1.sock ] || die "ageing took a control socket"
    rm -r /var/crane /tmp/crane/step_42.1.sock
}

# A directory that a user made in our place before the boot holds nothing of theirs after it.
check_boot() {
    touch /tmp/crane/planted
    chown nobody /tmp/crane /tmp/crane/planted
    chmod 0777 /tmp/crane
    systemd-tmpfiles --create --remove --boot crane-supervisor.conf
    [ "$(stat -c '%U %a' /tmp/crane)" = "root 700" ] || die "/tmp/crane is not root's alone after a boot"
    [ ! -e /tmp/crane/planted ] || die "what a user put into /tmp/crane outlives a boot"
}

check_timer() {
    [ "$(systemctl --root=/ is-enabled crane-supervisor-cleanup.timer 2>&1)" = "$1" ] || die "the timer is not $1"
}

run_prints_its_line() {
    local output
    output=$(crane-supervisor run alpine:latest -- echo "Hello from container") || die "run ended with exit code $?"
    [ "$output" = "Hello from container" ] || die "run printed: $output"
}

# start_job NAME: one that ends with 7 when it is told to, and says so.
start_job() {
    : >"/run/$1.out"
    # shellcheck disable=SC2016 # the container's shell
    setsid crane-supervisor run --name "$1" alpine:latest -- \
        sh -c 'trap "echo told; exit 7" TERM; echo begun; while :; do sleep 0.1; done' >"/run/$1.out" 2>"/run/$1.err" &
    echo $! >"/run/$1.pid"
    wait_for 30 "the job $1" grep -q begun "/run/$1.out" || die "it did not start: $(cat "/run/$1.err")"
}

# end_job NAME: as Ctrl-C does.
end_job() {
    local status=0
    kill -INT "$(cat "/run/$1.pid")"
    wait "$(cat "/run/$1.pid")" || status=$?
    [ "$status $(tail -n 1 "/run/$1.out")" = "7 told" ] ||
        die "the job $1 ended with $status and $(cat "/run/$1.out" "/run/$1.err")"
}

# After a failed check: no job may outlive the test.
end_all_jobs() {
    local file
    for file in /run/*.pid; do
        [ -e "$file" ] || continue
        kill -INT "$(cat "$file")" 2>/dev/null || true
    done
    wait
}

# The unit's own commands, while jobs run: they are skipped where no runtime is configured, and touch nothing here.
check_cleanup_beside_jobs() {
    local condition command
    condition=$(sed -n 's/^ExecCondition=//p' $UNITS/crane-supervisor-cleanup.service)
    command=$(sed -n 's/^ExecStart=//p' $UNITS/crane-supervisor-cleanup.service)
    sh -c "$condition" || die "the unit's condition does not hold"
    mv /etc/crane/config.yaml /etc/crane/kept
    printf 'Container:\n  # RuntimeEndpoint: unix:///x\n' >/etc/crane/config.yaml
    ! sh -c "$condition" || die "the unit's condition holds without a runtime"
    mv /etc/crane/kept /etc/crane/config.yaml
    [ "$(sh -c "$command")" = "nothing is left" ] || die "the unit's command found something beside live jobs"
}

# supervisors_of NAME: process numbers of those that its run started.
supervisors_of() { pgrep -P "$(cat "/run/$1.pid")" -f 'csupervisor: \['; }

all_run_a_deleted_program() {
    local name pid
    for name in ends is-killed outlives; do
        [ "$(supervisors_of $name | wc -l)" = 2 ] || die "job $name has lost its supervisors"
        for pid in $(supervisors_of $name); do
            [[ "$(readlink "/proc/$pid/exe")" == *" (deleted)" ]] || die "process $pid of $name runs another file"
        done
    done
}

# kill_supervisor_of NAME: its container step dies; its guardian undoes, from the program that is gone.
kill_supervisor_of() {
    local pid step status=0
    # Its title is "csupervisor: [JOB.STEP]"; step 1 is the container's.
    pid=$(pgrep -P "$(cat "/run/$1.pid")" -f 'csupervisor: \[[0-9]+\.1\]')
    step=$(tr '\0' ' ' <"/proc/$pid/cmdline" | sed 's/.*\[\(.*\)\].*/\1/')
    kill -KILL "$pid"
    wait "$(cat "/run/$1.pid")" || status=$?
    [ $status = 125 ] || die "run of a killed supervisor ended with $status: $(cat "/run/$1.err")"
    wait_for 60 "the reaper of $step" no_directory_of "$step" || die "the reaper left something of $step"
    grep -q "nothing is left" "$scratch/crane-$kind/supervisor/$step.log" || die "the reaper of $step says nothing"
}

no_directory_of() { [ ! -e "$scratch/crane-$kind/supervisor/containers/${1%%.*}/steps/${1#*.}" ]; }

nothing_of_the_package_is_left() {
    local left
    left=$(while read -r file; do [ ! -e "$file" ] && [ ! -L "$file" ] || echo "$file"; done </run/files)
    # All else that is new in this root, but for the package managers' own records.
    left+=$(cd "$scratch/layer/upper" && find . \( -type f -o -type l \) -name '*crane*' |
        { grep -v -e '^./var/lib/dpkg/' -e '^./var/lib/rpm-of-the-test/' -e '^./etc/crane/' || true; })
    [ -z "$left" ] || die "left behind: $left"
    [ ! -e /tmp/crane ] || die "left behind: $(ls -ld /tmp/crane /tmp/crane/*)"
}
