#!/bin/bash
# What the agent of a cloud's CNI does on a node of a lab, as far as Spanwire meets it; an imitation of aws-node by its source.
# Called as: cloud.sh LAN GATEWAY ADDRESS [DEVICE ADDRESS PODS]: the network that is the node's VPC, its router, the node's address;
# and, of a second network card, its name, its address and the addresses of its pods.
set -u
lan=$1 gateway=$2 own=$3
device=${4:-} second=${5:-} pods=${6:-}

# What leaves the VPC leaves it as the node, by the first card, and the answers to what came by that card go out by it.
# All of it once: the service may have been killed.
rules=$(iptables-save 2>/dev/null)
rule() { # TABLE CHAIN RULE…
	iptables -w -t "$1" -C "${@:2}" 2>/dev/null || iptables -w -t "$1" -A "${@:2}"
}
for chain in AWS-SNAT-CHAIN-0 AWS-CONNMARK-CHAIN-0; do
	case $rules in *":$chain "*) ;; *) iptables -w -t nat -N $chain ;; esac
done
rule nat AWS-SNAT-CHAIN-0 -d "$lan" -j RETURN
rule nat AWS-SNAT-CHAIN-0 ! -o vlan+ -m addrtype ! --dst-type LOCAL -j SNAT --to-source "$own" --random-fully
rule nat POSTROUTING -j AWS-SNAT-CHAIN-0
rule nat AWS-CONNMARK-CHAIN-0 -d "$lan" -j RETURN
rule nat AWS-CONNMARK-CHAIN-0 -j CONNMARK --set-xmark 0x80/0x80
rule nat PREROUTING -i eni+ -j AWS-CONNMARK-CHAIN-0
rule nat PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
rule mangle PREROUTING -i eth0 -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
rule mangle PREROUTING -i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
[ -n "$(ip -4 rule show priority 1024)" ] || ip -4 rule add priority 1024 fwmark 0x80/0x80 lookup main

if [ -n "$device" ]; then
	ip link set "$device" up
	# Of a LAN that both cards are in, only the first has the route.
	ip addr replace "$second/${lan#*/}" dev "$device" noprefixroute
	ip route replace "$gateway" dev "$device" scope link table 2
	ip route replace default via "$gateway" dev "$device" table 2
fi

# Returns the addresses of the pods that there are, those of a network or all.
pods_in() { ip -4 -o route show table main root "$1" scope host | cut -d' ' -f1 | LC_ALL=C sort; }
# Returns the addresses for which there are rules.
ruled() { ip -4 rule show priority "$1" | sed -nE "s/^$1:[[:space:]]+$2 ([0-9.]+) .*/\1/p" | LC_ALL=C sort; }

# Makes the rules that are missing and deletes those of pods that are gone.
align() { # PRIORITY SELECTOR TABLE PODS
	local address
	for address in $(LC_ALL=C comm -13 <(ruled "$1" "$2") <(echo "$4")); do
		ip -4 rule add priority "$1" ${2##from all } "$address" lookup "$3"
	done
	for address in $(LC_ALL=C comm -23 <(ruled "$1" "$2") <(echo "$4")); do
		ip -4 rule del priority "$1" ${2##from all } "$address" lookup "$3"
	done
}

# Makes everything as it is to be.
keep() {
	local link
	align 512 "from all to" main "$(pods_in "$lan")"
	[ -z "$device" ] || align 1536 from 2 "$(pods_in "$pods")"
	# The plugin that stands in for the cloud's gives devices other names.
	for link in $(ip -o link show type veth | sed -nE 's/^[0-9]+: (veth[^@:]*).*/\1/p'); do
		ip link set "$link" name "eni${link#veth}"
	done
}

# Shows everything that matters to that.
look() {
	ip -o link
	ip -4 route show table main
	ip -4 rule
}

# What was found as it is to be is left alone until it looks otherwise: a lab has this loop on each of its nodes.
mkdir -p /run/cloud
settled=
while :; do
	before=$(look)
	if [ "$before" != "$settled" ]; then
		keep
		[ "$(look)" != "$before" ] || settled=$before
	fi
	touch /run/cloud/ready
	sleep 1
done
