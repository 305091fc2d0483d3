#!/bin/sh
# Boots a systemd in namespaces of its own. It is run twice: `boot.sh outside CGROUP …` on the host,
# and by that `boot.sh inside …` in the namespaces.
#   LOWER   a Debian root, which is not changed
#   FOLDER  an empty folder of the test's own: what the machine changes lies in a tmpfs on it
set -e

case $1 in
outside)
    cgroup=$2 lower=$3 folder=$4
    # The machine's systemd finds this as the root of all control groups.
    echo $$ >"$cgroup/cgroup.procs"
    # With us, whom the test kills, goes the machine's process 1, and with that all others.
    exec unshare --mount --pid --fork --uts --ipc --cgroup --propagation private --kill-child \
        sh "$0" inside "$lower" "$folder"
    ;;
inside)
    lower=$2 folder=$3
    mount -t tmpfs -o size=1g tmpfs "$folder"
    mkdir "$folder/upper" "$folder/work" "$folder/root"
    mount -t overlay -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
    cd "$folder/root"
    mount -t proc proc proc
    # The kernel's settings are the host's: the machine may read them.
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=755 tmpfs dev
    for device in null zero full random urandom tty; do
        : >"dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    hostname machine
    exec env -i container=penstock-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        chroot . /lib/systemd/systemd --system --unit=multi-user.target
    ;;
esac
