#!/bin/bash
# What Calico's agent does on a node of a lab, as far as Spanwire meets it; an imitation of Felix, BIRD and confd.
# Called as: calico.sh NODES ME PORT. NODES has one line for each node of the cluster:
# name, location, mode, address, subnet, MTU of the LAN, hardware and IP address on the tunnel's device (- : none), blocks.
set -u
nodes=$1 me=$2 port=$3
dev=vxlan.calico

# Of pods: no address that is not theirs, nothing that belongs to no connection. Out of the device: what has its address.
# Into the tunnel: the nodes of the cluster alone. Out of the cluster: as the node. (Felix has it as iptables rules.)
nft -f - <<END
table ip calico {}
delete table ip calico
table ip calico {
	set nodes { type ipv4_addr; elements = { $(cut -d' ' -f4 "$nodes" | paste -sd,) } }
	chain raw {
		type filter hook prerouting priority raw;
		iifname "cali*" fib saddr . iif oif 0 drop
	}
	chain forward {
		type filter hook forward priority filter;
		iifname "cali*" jump workload
		oifname "cali*" jump workload
	}
	chain workload {
		ct state established,related accept
		ct state invalid drop
	}
	chain input {
		type filter hook input priority filter;
		udp dport $port ip saddr != @nodes drop
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		ip saddr 10.244.128.0/17 ip daddr != 10.244.128.0/17 masquerade
		oifname "$dev" fib saddr . oif type != local fib saddr type local masquerade
	}
}
END

# Returns its lines without trailing spaces, in order.
tidy() { sed 's/ *$//' | LC_ALL=C sort; }

# Makes what is missing and deletes what is too much: the two lists, and how.
align() { # WHAT WANTED ACTUAL ADD DELETE
	local line
	while read -r line; do
		[ -z "$line" ] || { echo "deletes $1 $line"; $5 $line; }
	done < <(LC_ALL=C comm -13 <(echo "$2") <(echo "$3"))
	while read -r line; do
		[ -z "$line" ] || $4 $line
	done < <(LC_ALL=C comm -23 <(echo "$2") <(echo "$3"))
}
neighbour() { ip neigh replace "$1" lladdr "$3" nud permanent dev $dev; }
no_neighbour() { ip neigh del "$1" dev $dev; }
entry() { bridge fdb replace "$1" dev $dev dst "$3" self permanent; }
no_entry() { bridge fdb del "$1" dev $dev dst "$3" self; }

device() {
	ip link show $dev >/dev/null 2>&1 && return
	ip link add $dev address "$mac" mtu $((mtu - 50)) type vxlan id 4096 local "$address" dev eth0 dstport "$port" nolearning
	ip link set $dev up
}

# Writes the routes, neighbours and FDB entries that this node is to have.
wanted() { # KIND
	local name place other_mode other_address other_subnet other_mtu other_mac other_vtep first second block
	while read -r name place other_mode other_address other_subnet other_mtu other_mac other_vtep first second; do
		if [ "$name" = "$me" ]; then
			case $1 in routes) for block in $first $second; do echo "blackhole $block proto 80"; done ;; esac
			continue
		fi
		case $1 in
		routes)
			for block in $first $second; do
				if [ "$other_mode" = bgp ] || [ "$mode" = bgp ]; then
					# Their BIRDs have a session inside a location alone.
					[ "$place" != "$location" ] || echo "$block via $other_address dev eth0 proto bird"
				elif [ "$other_mode" = cross ] && [ "$place" = "$location" ] && [ "$other_subnet" = "$subnet" ]; then
					echo "$block via $other_address dev eth0 proto 80 onlink"
				else
					echo "$block via $other_vtep dev $dev onlink"
				fi
			done
			;;
		neighbours) [ "$other_vtep" = - ] || echo "$other_vtep lladdr $other_mac PERMANENT" ;;
		entries) [ "$other_vtep" = - ] || echo "$other_mac dst $other_address self permanent" ;;
		esac
	done <"$nodes"
}

# Makes everything as it is to be.
keep() {
	local link
	read -r _ location mode address subnet mtu mac vtep _ < <(grep "^$me " "$nodes")
	if [ "$vtep" != - ]; then
		device
		if [ "$(ip -o -4 addr show dev $dev | sed -E 's/.* inet ([^ ]+) .*/\1/')" != "$vtep/32" ]; then
			ip -4 addr flush dev $dev
			ip addr add "$vtep/32" dev $dev
		fi
		align neighbour "$(wanted neighbours | tidy)" "$(ip -4 neigh show dev $dev | tidy)" neighbour no_neighbour
		align "FDB entry" "$(wanted entries | tidy)" "$(bridge fdb show dev $dev | tidy)" entry no_entry
	fi
	align route "$(wanted routes | tidy)" \
		"$(ip -4 route show table main | grep -E "dev $dev|proto (80|bird)" | tidy)" "ip route replace" "ip route del"
	# The plugin that stands in for Calico's gives devices other names.
	for link in $(ip -o link show type veth | sed -nE 's/^[0-9]+: (veth[^@:]*).*/\1/p'); do
		ip link set "$link" name "cali${link#veth}"
	done
}

# Shows everything that matters to that.
look() {
	cat "$nodes"
	ip -o link
	ip -4 route show table main
	ip -4 -o addr show dev $dev
	ip -4 neigh show dev $dev
	bridge fdb show dev $dev
} 2>&1

# What was found as it is to be is left alone until it looks otherwise: a lab has this loop on each of its nodes.
mkdir -p /run/calico
settled=
while :; do
	before=$(look)
	if [ "$before" != "$settled" ]; then
		keep
		[ "$(look)" != "$before" ] || settled=$before
	fi
	touch /run/calico/ready
	sleep 1
done
