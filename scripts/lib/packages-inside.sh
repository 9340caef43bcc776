#!/usr/bin/env bash
# The part of scripts/test-packages that installs: packages-inside.sh deb|rpm SCRATCH BED.
# Runs in a mount namespace of its own and turns into the same script inside a root whose writes
# go to memory; with its last process both are gone.
set -eEuo pipefail
kind=$1 scratch=$2 bed=$3
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source=scripts/lib.sh
. "$here/../lib.sh"

if [ "${INSIDE-}" != yes ]; then
    mkdir -p "$scratch/root" "$scratch/layer" "$scratch/crane-$kind"
    mount -t tmpfs -o size=512M packages "$scratch/layer"
    mkdir "$scratch/layer/upper" "$scratch/layer/work"
    mount -t overlay -o "lowerdir=/,upperdir=$scratch/layer/upper,workdir=$scratch/layer/work" packages "$scratch/root"
    for place in /proc /sys /dev "$bed" "$REPO" "$scratch"/{1,2,layer,crane-"$kind"}; do
        mkdir -p "$scratch/root$place"
        mount --rbind "$place" "$scratch/root$place"
    done
    # The machine's own sockets, links of services and package locks are not ours.
    mount -t tmpfs -o mode=0755 run "$scratch/root/run"
    rm -rf "$scratch/root/tmp/crane" "$scratch/root/etc/crane" "$scratch/root/var/crane"
    INSIDE=yes exec chroot "$scratch/root" "$here/packages-inside.sh" "$@"
fi

# shellcheck source=scripts/lib/packages-checks.sh
. "$here/packages-checks.sh"
export DEBIAN_FRONTEND=noninteractive
cd "$scratch"

case $kind in
deb)
    options=/etc/default/crane-supervisor
    install() { dpkg -i "$scratch/$1"/*.deb >&2; }
    remove() { dpkg -r crane-supervisor; }
    ;;
rpm)
    options=/etc/sysconfig/crane-supervisor
    # A database of its own; what Debian has of libraries, rpm does not know.
    database=(--dbpath /var/lib/rpm-of-the-test)
    install() { rpm "${database[@]}" --nodeps -U "$scratch/$1"/*.rpm >&2; }
    remove() { rpm "${database[@]}" -e crane-supervisor; }
    ;;
*) die "deb or rpm" ;;
esac

trap 'say "${0##*/}: line $LINENO failed: $BASH_COMMAND"' ERR
trap end_all_jobs EXIT
write_config
say "-- $kind: install"
install 1
remember_files
check_installed "$options"
check_units
check_ageing
check_boot
check_timer enabled

say "-- $kind: a job, and an upgrade under three others"
run_prints_its_line
start_job ends && start_job is-killed && start_job outlives
check_cleanup_beside_jobs
echo 'CLEANUP_OPTIONS="--timeout 7s"' >"$options"
install 2
grep -q 'timeout 7s' "$options" || die "the upgrade lost the administrator's $options"
all_run_a_deleted_program
end_job ends
kill_supervisor_of is-killed
run_prints_its_line

say "-- $kind: remove"
words=$(remove 2>&1) || die "removing failed: $words"
say "$words"
[[ $words == *"still names this program"* ]] || die "nobody said that craned's configuration still names the program"
end_job outlives
case $kind in
deb)
    [ -e "$options" ] || die "remove took the administrator's $options, which is for purge"
    dpkg -P crane-supervisor >&2
    ;;
rpm)
    rm "$options.rpmsave"
    # The job that went on held it.
    rmdir /tmp/crane
    ;;
esac
nothing_of_the_package_is_left
[ -e "$scratch/crane-$kind/supervisor" ] || die "removing the package removed the jobs' logs"
