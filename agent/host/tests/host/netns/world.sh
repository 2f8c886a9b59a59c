# Two LANs of two nodes with pods, a router between them, flannel and kube-proxy as they leave a node, both families, in
# network namespaces of this shell's own sandbox.
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
touch /run/netns/router
mount --bind /proc/self/ns/net /run/netns/router
nodes="a1 a2 b1 b2"

in_ns() { ns=$1; shift; nsenter --net=/run/netns/"$ns" "$@"; }
set_sysctl() { echo "$2" >"/proc/sys/$1"; }
number() { case $1 in a*) echo 1 ;; b*) echo 2 ;; esac; }
id() { echo "$(number "$1")${1#?}"; }
lan4() { echo "192.168.$(number "$1").${1#?}"; }
lan6() { echo "fd00:$(number "$1")::${1#?}"; }
subnet4() { echo "10.244.$(id "$1")"; }
subnet6() { echo "fd00:244:$(id "$1"):"; }
pod4() { echo "$(subnet4 "$1").2"; }
pod6() { echo "$(subnet6 "$1"):2"; }
mac() { echo "02:00:00:0$2:0$(number "$1"):0${1#?}"; }

# What arrives, by source.
watch_arrivals() {
	in_ns "$1" nft -f - <<-END
	table inet probe {
		set seen4 { type ipv4_addr; flags dynamic; }
		set seen6 { type ipv6_addr; flags dynamic; }
		counter large { }
		chain input {
			type filter hook input priority 0
			icmp type echo-request add @seen4 { ip saddr }
			icmpv6 type echo-request add @seen6 { ip6 saddr }
			ip daddr 10.244.0.0/16 udp dport 51820 add @seen4 { ip saddr }
		}
	}
	END
}
forget() { in_ns "$1" nft 'flush set inet probe seen4; flush set inet probe seen6'; }
seen() {
	for set in seen4 seen6; do
		in_ns "$1" nft list set inet probe $set | sed -n '/elements/,/}/p' | grep -oE '[0-9a-f]+[.:][0-9a-f.:]+' || true
	done | tr '\n' ' '
}

# 'closed' lets nothing but WireGuard from LAN to LAN, and no pod's address into a LAN, as clouds do.
make_router() {
	set_sysctl net/ipv4/ip_forward 1
	set_sysctl net/ipv6/conf/all/forwarding 1
	# What stays in a LAN is nothing to the router.
	for tables in iptables ip6tables; do
		[ ! -e /proc/sys/net/bridge/bridge-nf-call-$tables ] || set_sysctl net/bridge/bridge-nf-call-$tables 0
	done
	for l in 1 2; do
		ip link add br$l type bridge
		ip addr add 192.168.$l.254/24 dev br$l
		ip addr add fd00:$l::fe/64 dev br$l nodad
		ip link set br$l up
	done
	ip link set lo up
	nft -f - <<-END
	table inet router {
		counter plaintext { }
		set ports { type inet_service; elements = { 6443 } }
		chain forward {
			type filter hook forward priority 0
			udp dport 51820 udp sport 51820 accept
			tcp dport @ports accept
			tcp sport @ports accept
			counter name plaintext
			jump closed
		}
		chain closed { drop; }
	}
	table bridge lan {
		counter foreign { }
		chain forward { type filter hook forward priority 0; jump closed; }
		chain closed {
			ip saddr 10.0.0.0/8 counter name foreign drop
			ip daddr 10.0.0.0/8 counter name foreign drop
			ip6 saddr fd00:244::/32 counter name foreign drop
			ip6 daddr fd00:244::/32 counter name foreign drop
		}
	}
	END
}
open_world() {
	nft insert rule inet router closed accept
	nft insert rule bridge lan closed accept
}
close_world() {
	nft flush chain inet router closed
	nft add rule inet router closed drop
	nft delete rule bridge lan closed handle "$(nft -a list chain bridge lan closed | sed -n 's/.*accept # handle //p')"
}
plaintext() { nft list counter inet router plaintext | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
foreign() { nft list counter bridge lan foreign | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }

make_node() {
	node=$1
	ip netns add "$node"
	ip netns add "pod-$node"
	in_ns "$node" sh -eu <<-'END'
	cd /proc/sys/net
	echo 1 >ipv4/conf/all/rp_filter
	echo 1 >ipv4/conf/default/rp_filter
	echo 1 >ipv4/ip_forward
	echo 1 >ipv6/conf/all/forwarding
	END
	ip link add "$node" type veth peer name eth0 netns "$node"
	ip link set "$node" master "br$(number "$node")" up
	in_ns "$node" ip link set lo up
	in_ns "$node" ip addr add "$(lan4 "$node")/24" dev eth0
	in_ns "$node" ip addr add "$(lan6 "$node")/64" dev eth0 nodad
	in_ns "$node" ip link set eth0 up
	in_ns "$node" ip route add default via "192.168.$(number "$node").254"
	in_ns "$node" ip route add default via "fd00:$(number "$node")::fe"
	in_ns "$node" ip link add cni0 mtu 1430 type veth peer name eth0 mtu 1430 netns "pod-$node"
	in_ns "$node" ip addr add "$(subnet4 "$node").1/24" dev cni0
	in_ns "$node" ip addr add "$(subnet6 "$node"):1/64" dev cni0 nodad
	in_ns "$node" ip link set cni0 up
	in_ns "pod-$node" ip link set lo up
	in_ns "pod-$node" ip addr add "$(pod4 "$node")/24" dev eth0
	in_ns "pod-$node" ip addr add "$(pod6 "$node")/64" dev eth0 nodad
	in_ns "pod-$node" ip link set eth0 up
	in_ns "pod-$node" ip route add default via "$(subnet4 "$node").1"
	in_ns "pod-$node" ip route add default via "$(subnet6 "$node"):1"
	watch_arrivals "$node"
	watch_arrivals "pod-$node"
	# Each node has WireGuard sockets of its own; this process holds the mounts.
	in_ns "$node" unshare --mount sh -c 'mkdir -p /run/wireguard; mount -t tmpfs tmpfs /run/wireguard; echo $$ >/run/holder-$1; exec sleep 600' sh "$node" &
}
on_node() { node=$1; shift; nsenter --net=/run/netns/"$node" --mount=/proc/"$(cat /run/holder-"$node")"/ns/mnt "$@"; }

# Flannel spans all nodes, as it does in a cluster that knows nothing of locations.
make_flannel() {
	node=$1
	vxlan="type vxlan id 1 dev eth0 dstport 8472 nolearning"
	# shellcheck disable=SC2086 # words
	in_ns "$node" ip link add flannel.1 address "$(mac "$node" 4)" mtu 1450 $vxlan local "$(lan4 "$node")"
	# shellcheck disable=SC2086 # words
	in_ns "$node" ip link add flannel-v6.1 address "$(mac "$node" 6)" mtu 1430 $vxlan local "$(lan6 "$node")"
	in_ns "$node" ip addr add "$(subnet4 "$node").0/32" dev flannel.1
	in_ns "$node" ip addr add "$(subnet6 "$node"):/128" dev flannel-v6.1 nodad
	in_ns "$node" ip link set flannel.1 up
	in_ns "$node" ip link set flannel-v6.1 up
	for other in $nodes; do
		[ "$other" != "$node" ] || continue
		neighbour flannel.1 "$(subnet4 "$other").0" "$(mac "$other" 4)" "$(lan4 "$other")" "$(subnet4 "$other").0/24"
		neighbour flannel-v6.1 "$(subnet6 "$other"):" "$(mac "$other" 6)" "$(lan6 "$other")" "$(subnet6 "$other"):/64"
	done
	in_ns "$node" nft -f - <<-END
	table inet flannel {
		chain postrtg {
			type nat hook postrouting priority srcnat
			ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 return
			ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
			ip saddr != 10.244.0.0/16 ip daddr $(subnet4 "$node").0/24 return
			ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
			ip6 saddr fd00:244::/32 ip6 daddr fd00:244::/32 return
			ip6 saddr fd00:244::/32 ip6 daddr != ff00::/8 masquerade fully-random
			ip6 saddr != fd00:244::/32 ip6 daddr $(subnet6 "$node"):/64 return
			ip6 saddr != fd00:244::/32 ip6 daddr fd00:244::/32 masquerade fully-random
		}
	}
	END
}
neighbour() {
	in_ns "$node" ip neigh add "$2" lladdr "$3" dev "$1" nud permanent
	in_ns "$node" bridge fdb add "$3" dev "$1" dst "$4" self permanent
	in_ns "$node" ip route add "$5" via "$2" dev "$1" onlink
}

# Service 10.96.0.1 and node port 30080, with one endpoint: the pod on b2.
make_kube_proxy() {
	in_ns "$1" nft -f - <<-END
	table ip kube-proxy {
		chain services {
			ip daddr 10.96.0.1 ip saddr != 10.244.0.0/16 meta mark set mark or 0x4000
			ip daddr 10.96.0.1 dnat to 10.244.22.2
			fib daddr type local tcp dport 30080 meta mark set mark or 0x4000
			fib daddr type local tcp dport 30080 dnat to 10.244.22.2:5201
		}
		chain prerouting { type nat hook prerouting priority dstnat; jump services; }
		chain output { type nat hook output priority -100; jump services; }
		chain postrouting {
			type nat hook postrouting priority srcnat
			meta mark & 0x4000 == 0 return
			meta mark set mark xor 0x4000
			masquerade fully-random
		}
		chain forward { type filter hook forward priority filter; ct state invalid drop; }
	}
	END
}

make_world() {
	make_router
	for node in $nodes; do make_node "$node"; done
	for node in $nodes; do
		while [ ! -s "/run/holder-$node" ]; do sleep 0.02; done
		make_flannel "$node"
		make_kube_proxy "$node"
	done
}
