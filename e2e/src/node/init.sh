#!/bin/bash
# First process of a node of the lab: makes the node's own view of the machine, then runs its services.
# Killing it is a power cut; starting it again on the kept folders is a reboot.
# Called as: init.sh LAB-FOLDER NODE PATH, in fresh mount, PID, UTS, IPC and cgroup namespaces, in the node's network
# namespace and in the node's control groups. Services get that PATH; this script's own holds the programs that
# scripts/programs lists.
set -eu
lab=$1 node=$2 whole_path=$3
dir=$lab/nodes/$node
mkdir -p "$dir"/{lib,log,kubernetes}

# The machine's number of this process; inside it is 1.
read -r outer _ </proc/self/stat
hierarchies=$(cut -d: -f2 /proc/self/cgroup)

# Namespaces of others must not live on in a copy of their mounts.
while umount --recursive --lazy /run/netns 2>/dev/null; do :; done
mount --make-rshared /
hostname "$node"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for names in $hierarchies; do
	at=/sys/fs/cgroup/${names#name=}
	mkdir "$at"
	case $names in name=*) names=none,$names ;; esac
	mount -t cgroup -o "$names" cgroup "$at"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$dir/lib" /var/lib
mount --bind "$dir/log" /var/log
mkdir -p /run/lab /run/lock

# Folders that the machine itself does not have are made in an overlay of /etc, not in its own.
mkdir -p "$dir"/etc "$dir"/etc.work
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc.work" overlay /etc
mkdir -p /etc/cni/net.d /etc/kubernetes
cp "$dir"/cni/*.conflist /etc/cni/net.d/
rm -f /etc/resolv.conf /etc/hosts
cp "$lab/resolv.conf" /etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts
echo "$node" >/etc/hostname

# The kubelet sets these for the whole machine; here it finds them set.
mkdir -p /run/lab/sys
while read -r name value; do
	echo "$value" >"/run/lab/sys/$name"
	mount --bind "/run/lab/sys/$name" "/proc/sys/${name//.//}"
done <<'SYSCTLS'
vm.overcommit_memory 1
vm.panic_on_oom 0
kernel.panic 10
kernel.panic_on_oops 1
kernel.keys.root_maxkeys 1000000
kernel.keys.root_maxbytes 25000000
SYSCTLS

# What the unit of docs/operations/boot.md does on a host, before the CNI starts.
if [ -e /var/lib/spanwire/guard.nft ]; then nft -f /var/lib/spanwire/guard.nft; fi

# Runs a service until its stop file appears, again whenever it ends.
supervise() { # NAME COMMAND…
	local name=$1
	shift
	(
		while :; do
			while [ -e "/run/lab/$name.stop" ]; do sleep 0.1; done
			env "PATH=$whole_path" "$@" >>"/var/log/$name.log" 2>&1 </dev/null &
			echo $! >"/run/lab/$name.pid"
			code=0
			wait $! || code=$?
			rm -f "/run/lab/$name.pid"
			echo "lab: $(date +%T) $name ended with $code" >>"/var/log/$name.log"
			sleep 0.3
		done
	) &
}
await() { until [ -e "$1" ]; do sleep 0.1; done; }

echo "$outer" >"$dir/.pid"
mv "$dir/.pid" "$dir/pid"
. "$dir/services.sh"
while :; do wait || :; sleep 1; done
