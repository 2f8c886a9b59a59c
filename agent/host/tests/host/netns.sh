# Two LANs of two nodes with pods, a router between them, flannel and kube-proxy as they leave a node, in network
# namespaces of this shell's own sandbox. DIR holds for each node the commands that make it what it should be.
# Prints one line per finding: 'ok WHAT' or 'BAD WHAT: …'.
set -eu
DIR=$1
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
touch /run/netns/router
mount --bind /proc/self/ns/net /run/netns/router

in_ns() { ns=$1; shift; nsenter --net=/run/netns/"$ns" "$@"; }
set_sysctl() { echo "$2" >"/proc/sys/$1"; }
number() { case $1 in a*) echo 1 ;; b*) echo 2 ;; esac; }
lan() { echo "192.168.$(number "$1").${1#?}"; }
subnet() { echo "10.244.$(number "$1")${1#?}"; }
mac() { echo "02:00:00:00:0$(number "$1"):0${1#?}"; }
nodes="a1 a2 b1 b2"

# What arrives, by source.
watch_arrivals() {
	in_ns "$1" nft -f - <<-END
	table ip probe {
		set seen { type ipv4_addr; flags dynamic; }
		chain input {
			type filter hook input priority 0
			icmp type echo-request add @seen { ip saddr }
			tcp flags & (syn | ack) == syn add @seen { ip saddr }
			ip daddr 10.244.0.0/16 udp dport 51820 add @seen { ip saddr }
		}
	}
	END
}
forget() { in_ns "$1" nft flush set ip probe seen; }
seen() { in_ns "$1" nft list set ip probe seen | sed -n '/elements/,/}/p' | grep -oE '[0-9]+(\.[0-9]+){3}' | tr '\n' ' '; }

make_router() {
	set_sysctl net/ipv4/ip_forward 1
	# What stays in a LAN is nothing to the router.
	set_sysctl net/bridge/bridge-nf-call-iptables 0
	set_sysctl net/bridge/bridge-nf-call-ip6tables 0
	for l in 1 2; do
		ip link add br$l type bridge
		ip addr add 192.168.$l.254/24 dev br$l
		ip link set br$l up
	done
	ip link set lo up
	nft -f - <<-END
	table inet router {
		counter plaintext { }
		set tcp_open { type inet_service; elements = { 6443 } }
		chain forward {
			type filter hook forward priority 0
			udp dport 51820 udp sport 51820 accept
			tcp dport @tcp_open accept
			tcp sport @tcp_open accept
			counter name plaintext
			jump rest
		}
		chain rest {
			drop
		}
	}
	table bridge lan {
		counter foreign { }
		chain forward {
			type filter hook forward priority 0
			ip saddr 10.0.0.0/8 counter name foreign drop
			ip daddr 10.0.0.0/8 counter name foreign drop
		}
	}
	END
}
plaintext() { nft list counter inet router plaintext | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
foreign() { nft list counter bridge lan foreign | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }

make_node() {
	node=$1
	ip netns add "$node"
	ip netns add "pod-$node"
	in_ns "$node" sh -c 'cd /proc/sys/net/ipv4; echo 1 >conf/all/rp_filter; echo 1 >conf/default/rp_filter; echo 1 >ip_forward'
	ip link add "$node" type veth peer name eth0 netns "$node"
	ip link set "$node" master "br$(number "$node")" up
	in_ns "$node" ip link set lo up
	in_ns "$node" ip addr add "$(lan "$node")/24" dev eth0
	in_ns "$node" ip link set eth0 up
	in_ns "$node" ip route add default via "192.168.$(number "$node").254"
	in_ns "$node" ip link add cni0 mtu 1450 type veth peer name eth0 mtu 1450 netns "pod-$node"
	in_ns "$node" ip addr add "$(subnet "$node").1/24" dev cni0
	in_ns "$node" ip link set cni0 up
	in_ns "pod-$node" ip link set lo up
	in_ns "pod-$node" ip addr add "$(subnet "$node").2/24" dev eth0
	in_ns "pod-$node" ip link set eth0 up
	in_ns "pod-$node" ip route add default via "$(subnet "$node").1"
	watch_arrivals "$node"
	watch_arrivals "pod-$node"
}

# Flannel spans all nodes, as it does in a cluster that knows nothing of locations.
make_flannel() {
	node=$1
	in_ns "$node" ip link add flannel.1 address "$(mac "$node")" mtu 1450 type vxlan id 1 local "$(lan "$node")" dev eth0 dstport 8472 nolearning
	in_ns "$node" ip addr add "$(subnet "$node").0/32" dev flannel.1
	in_ns "$node" ip link set flannel.1 up
	for other in $nodes; do
		[ "$other" != "$node" ] || continue
		in_ns "$node" ip neigh add "$(subnet "$other").0" lladdr "$(mac "$other")" dev flannel.1 nud permanent
		in_ns "$node" bridge fdb add "$(mac "$other")" dev flannel.1 dst "$(lan "$other")" self permanent
		in_ns "$node" ip route add "$(subnet "$other").0/24" via "$(subnet "$other").0" dev flannel.1 onlink
	done
	in_ns "$node" nft -f - <<-END
	table ip flannel-ipv4 {
		chain postrtg {
			type nat hook postrouting priority srcnat
			ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 return
			ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
			ip saddr != 10.244.0.0/16 ip daddr $(subnet "$node").0/24 return
			ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
		}
	}
	END
}

# Services 10.96.0.1 and the node port 30080, with one endpoint: the pod on b2.
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

# reach WHAT FROM TO ADDRESS SOURCE: a ping arrives, with this source alone.
reach() {
	forget "$3"
	if ! in_ns "$2" ping -q -c 2 -i 0.1 -W 2 "$4" >/dev/null; then
		echo "BAD $1: no answer; arrived from: $(seen "$3")"
	elif [ "$(seen "$3")" != "$5 " ]; then
		echo "BAD $1: arrived from: $(seen "$3")instead of $5"
	else
		echo "ok $1"
	fi
}
expect() { if [ "$2" = "$3" ]; then echo "ok $1"; else echo "BAD $1: $2 instead of $3"; fi; }
stream() {
	what=$1; from=$2; shift 2
	# The server is busy for a moment after each client.
	for attempt in 1 2 3; do
		if in_ns "$from" timeout 20 iperf3 "$@" >/run/iperf 2>&1; then echo "ok $what"; return; fi
		sleep 0.2
	done
	echo "BAD $what: $(tail -1 /run/iperf)"
}

make_router
for node in $nodes; do make_node "$node"; done
for node in $nodes; do make_flannel "$node"; make_kube_proxy "$node"; done
ip addr add 10.244.22.9/32 dev lo
for node in $nodes; do
	# Each node has WireGuard sockets of its own.
	in_ns "$node" unshare --mount sh -eu -c 'mkdir -p /run/wireguard; mount -t tmpfs tmpfs /run/wireguard; . "$1"' sh "$DIR/$node.sh"
done

for from in a1 a2; do
	for to in b1 b2; do
		reach "pod $from to pod $to" pod-$from pod-$to "$(subnet $to).2" "$(subnet $from).2"
		reach "pod $to to pod $from" pod-$to pod-$from "$(subnet $from).2" "$(subnet $to).2"
		reach "host $from to pod $to" $from pod-$to "$(subnet $to).2" "$(lan $from)"
		reach "host $to to pod $from" $to pod-$from "$(subnet $from).2" "$(lan $to)"
		reach "pod $from to host $to" pod-$from $to "$(lan $to)" "$(subnet $from).2"
		reach "pod $to to host $from" pod-$to $from "$(lan $from)" "$(subnet $to).2"
		reach "host $from to host $to" $from $to "$(lan $to)" "$(lan $from)"
		reach "host $to to host $from" $to $from "$(lan $from)" "$(lan $to)"
	done
done
reach "leader to leader's overlay address" a1 b1 10.4.0.21 10.4.0.11
reach "follower to a remote leader's overlay address" a2 b1 10.4.0.21 "$(lan a2)"
reach "pod to pod inside a location" pod-a2 pod-a1 10.244.11.2 10.244.12.2

in_ns pod-b2 iperf3 -s -D >/dev/null
in_ns b1 iperf3 -s -D -p 6443 >/dev/null
reach "a service, from a pod" pod-a2 pod-b2 10.96.0.1 10.244.12.2
reach "a service, from a host, whose source kube-proxy hides" a2 pod-b2 10.96.0.1 10.244.12.0
reach "a service, from a leader's host" a1 pod-b2 10.96.0.1 10.4.0.11
stream "a node port of a follower, from outside" router -c 192.168.1.2 -p 30080 -n 100K
stream "a node port of a leader, from outside" router -c 192.168.1.1 -p 30080 -n 100K
stream "10 MB from pod to pod" pod-a2 -c 10.244.22.2 -n 10M
stream "10 MB back" pod-a2 -c 10.244.22.2 -n 10M -R

forget pod-b2
in_ns pod-a2 bash -c 'echo x >/dev/udp/10.244.22.2/51820'
sleep 0.2
expect "UDP to the WireGuard port of a remote pod" "$(seen pod-b2)" "10.244.12.2 "

in_ns a2 ip addr add 172.31.0.1/32 dev lo
forget pod-b2
in_ns a2 ping -q -c 1 -W 2 -I 172.31.0.1 10.244.22.2 >/dev/null || echo "BAD a source of no member: no answer"
expect "a source of no member becomes the node's" "$(seen pod-b2)" "192.168.1.2 "

expect "transit in the leader's conntrack" "$(in_ns a1 conntrack -L 2>/dev/null | grep 10.244.12.2 | grep -c 10.244.2 || true)" 0
expect "plaintext at the router" "$(plaintext)" 0
expect "foreign packets in a LAN" "$(foreign)" 0

# From here on the router and the LANs let everything through.
nft insert rule inet router rest accept
nft flush chain bridge lan forward
opened() { expect "plaintext at the open router $1" "$(( $(plaintext) - before ))" 0; }

forget pod-a2
ping -q -c 1 -W 1 -I 10.244.22.9 10.244.12.2 >/dev/null && echo "BAD a spoofed source gets an answer"
expect "a spoofed source arrives" "$(seen pod-a2)" ""

before=$(plaintext)
in_ns a2 ip rule del priority 2108
in_ns pod-a2 ping -q -c 1 -W 1 10.244.22.2 >/dev/null && echo "BAD without the rule: an answer"
in_ns a2 ping -q -c 1 -W 1 192.168.2.2 >/dev/null && echo "BAD without the rule: an answer"
opened "without the rule"
in_ns a2 ip rule add priority 2108 not fwmark 0x2000/0x2000 lookup 51830

before=$(plaintext)
in_ns a1 ip link delete spanwire0
in_ns a2 ping -c 1 -W 2 192.168.2.2 >/run/ping && echo "BAD without the tunnel: an answer"
expect "without the tunnel the sender is told" "$(grep -c 'Unreachable' /run/ping)" 1
in_ns a1 ping -c 1 -W 2 10.244.22.2 >/run/ping 2>&1 && echo "BAD without the tunnel: an answer"
in_ns pod-a1 ping -c 1 -W 2 10.244.22.2 >/run/ping && echo "BAD without the tunnel: an answer"
expect "without the tunnel a pod is told" "$(grep -c 'Unreachable' /run/ping)" 1
opened "without the tunnel"
stream "the API server past the mesh, without the tunnel" a2 -c 192.168.2.1 -p 6443 -n 100K
stream "the API server past the mesh, from a pod" pod-a2 -c 192.168.2.1 -p 6443 -n 100K
echo "ok the end"
