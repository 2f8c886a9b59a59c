# Does to each node what stands in DIR/STAGE/NODE.sh, and looks. Prints one line per finding: 'ok WHAT' or 'BAD WHAT'.
set -eu
DIR=$1
# shellcheck source=world.sh
. "${0%/*}/world.sh"

expect() { if [ "$2" = "$3" ]; then echo "ok $1"; else echo "BAD $1: '$2' instead of '$3'"; fi; }
# reach WHAT FROM TO ADDRESS SOURCE: a ping is answered, and arrived with this source alone.
reach() {
	forget "$3"
	in_ns "$2" ping -q -c 1 -W 2 "$4" >/dev/null || echo "BAD $1: no answer"
	expect "$1" "$(seen "$3")" "$5 "
}
stream() {
	what=$1; from=$2; shift 2
	# The server is busy for a moment after each client.
	for attempt in 1 2 3; do
		if in_ns "$from" timeout 20 iperf3 "$@" >/run/iperf 2>&1; then echo "ok $what"; return; fi
		sleep 0.2
	done
	echo "BAD $what: $(tail -1 /run/iperf)"
}
# The steps of a node stand one by one; packets flow between any two.
stage() {
	for node in $nodes; do
		on_node "$node" sh -eu "$DIR/$1/$node.sh" || echo "BAD $1 on $node"
	done
}
# IPv6 is ready only when the kernel has told itself of the carrier, and neighbours look for each other for a while.
keep_pinging() {
	what=$1; from=$2; to=$3
	for attempt in 1 2 3 4 5 6 7 8 9 10; do
		if in_ns "$from" ping -q -c 1 -W 1 "$to" >/dev/null 2>&1; then break; fi
		sleep 0.2
	done
	[ "$attempt" -lt 10 ] || echo "BAD $what: no answer before anything is done"
	nsenter --net=/run/netns/"$from" ping -n -i 0.01 "$to" >"/run/pinging-$what" &
	pingers="$pingers $!"
}
# Between which answers there are none.
unanswered() {
	sed -n 's/.*seq=\([0-9]*\) .*time=.*/\1/p' | { last=0; while read -r seq; do
		[ "$seq" -le $((last + 1)) ] || echo "$last-$seq"
		last=$seq
	done; } | tr '\n' ' '
}
stop_pinging() {
	# shellcheck disable=SC2086 # process numbers
	kill -INT $pingers
	# shellcheck disable=SC2086 # process numbers
	wait $pingers || true
	for file in /run/pinging-*; do
		lost=$(sed -n 's/\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' "$file" | { read -r sent received; echo $((sent - received)); })
		# The last ones may have been on their way; a gap between two steps costs three and more.
		[ "$lost" -gt 2 ] && lost="$lost of them, $(unanswered <"$file")" || lost=0
		expect "lost while moving into the mesh, ${file#*-}" "$lost" 0
		rm "$file"
	done
}

# Link-local addresses take a moment, and are nobody's doing.
everything() {
	on_node "$1" sh -c 'ip -br link; ip addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list tables' 2>/dev/null |
		sed '/fe80:/d; s/valid_lft.*//; s/expires [0-9]*sec//'
}

# Node and number of one that stands by: what it sends from its overlay address goes through its own tunnel.
stands_by() {
	in_ns "$1" ping -q -c 1 -W 2 -I 10.4.0."$2" 10.4.0.21 >/dev/null || echo "BAD $1 stands by: no answer"
	expect "$1 stands by, with a session of its own" "$(on_node "$1" wg show spanwire0 latest-handshakes | grep -vc '	0$')" 1
	reach "pod on $1, which stands by, to a leader's overlay address" "pod-$1" b1 10.4.0.21 "$(pod4 "$1")"
	reach "$1, which stands by, to a leader's overlay address" "$1" b1 10.4.0.21 "$(lan4 "$1")"
}

matrix() {
	for from in $nodes; do
		for to in $nodes; do
			[ "$(number "$from")" != "$(number "$to")" ] || continue
			for v in 4 6; do
				pod=$(pod$v "$from") lan=$(lan$v "$from") far_pod=$(pod$v "$to") far_lan=$(lan$v "$to")
				reach "IPv$v pod $from to pod $to" "pod-$from" "pod-$to" "$far_pod" "$pod"
				reach "IPv$v pod $from to host $to" "pod-$from" "$to" "$far_lan" "$pod"
				reach "IPv$v host $from to pod $to" "$from" "pod-$to" "$far_pod" "$lan"
				reach "IPv$v host $from to host $to" "$from" "$to" "$far_lan" "$lan"
			done
		done
	done
}

make_world
open_world
for node in $nodes; do everything "$node" >"/run/found-$node"; done
pingers=
keep_pinging pod-to-pod-4 pod-a2 "$(pod4 b2)"
keep_pinging pod-to-pod-6 pod-a2 "$(pod6 b2)"
keep_pinging host-to-host-4 a2 "$(lan4 b2)"
keep_pinging host-to-host-6 b2 "$(lan6 a2)"
keep_pinging leader-to-pod-4 b1 "$(pod4 a2)"
keep_pinging pod-to-leader-4 pod-b2 "$(lan4 a1)"
sleep 0.2
stage tunnels
reach "leader to leader's overlay address, not established" a1 b1 10.4.0.21 10.4.0.11
before=$(plaintext)
sleep 0.2
[ "$(plaintext)" -gt "$before" ] || echo "BAD the router sees plaintext where there is some"
stage established
sleep 0.2
before=$(plaintext)
sleep 0.2
expect "plaintext at the open router, established" "$(($(plaintext) - before))" 0
stage settled
sleep 0.2
stop_pinging
close_world
before=$(plaintext)

matrix
reach "leader to leader's overlay address" a1 b1 10.4.0.21 10.4.0.11
reach "follower to a remote leader's overlay address" b2 a1 10.4.0.11 "$(lan4 b2)"
reach "follower to a remote leader's overlay address, IPv6" b2 a1 fd00:4::11 "$(lan6 b2)"
stands_by a2 12

in_ns pod-b2 iperf3 -s -D >/dev/null
in_ns pod-b2 nft add rule inet probe input 'tcp flags & (syn | rst) == syn tcp option maxseg size > 1380 counter name large'
in_ns b1 iperf3 -s -D -p 6443 >/dev/null
reach "a service, from a pod" pod-a2 pod-b2 10.96.0.1 "$(pod4 a2)"
reach "a service, from a host, whose source kube-proxy hides" a2 pod-b2 10.96.0.1 10.244.12.0
reach "a service, from a leader's host" a1 pod-b2 10.96.0.1 10.4.0.11
stream "a node port of a follower, from outside" router -c 192.168.1.2 -p 30080 -n 100K
stream "a node port of a leader, from outside" router -c 192.168.1.1 -p 30080 -n 100K
stream "10 MB from pod to pod" pod-a2 -c "$(pod4 b2)" -n 10M
stream "10 MB back" pod-a2 -c "$(pod4 b2)" -n 10M -R
stream "10 MB from pod to pod, IPv6" pod-a2 -c "$(pod6 b2)" -n 10M
stream "10 MB from host to pod" a2 -c "$(pod4 b2)" -n 10M
expect "connections whose segments do not fit the tunnel" "$(in_ns pod-b2 nft list counter inet probe large | grep -c 'packets 0 ')" 1

forget pod-b2
in_ns pod-a2 bash -c 'echo x >/dev/udp/10.244.22.2/51820'
sleep 0.2
expect "UDP to the WireGuard port of a remote pod" "$(seen pod-b2)" "$(pod4 a2) "
in_ns a2 ip addr add 172.31.0.1/32 dev lo
forget pod-b2
in_ns a2 ping -q -c 1 -W 2 -I 172.31.0.1 "$(pod4 b2)" >/dev/null || echo "BAD a source of no member: no answer"
expect "a source of no member becomes the node's" "$(seen pod-b2)" "$(lan4 a2) "

expect "transit in the leader's conntrack" "$(in_ns a1 conntrack -L 2>/dev/null | grep "$(pod4 a2)" | grep -c 10.244.2 || true)" 0
expect "plaintext at the closed router" "$(($(plaintext) - before))" 0
expect "foreign packets in the LANs" "$(foreign)" 0

# The other node of a leads; then the router is still closed.
stage moved
before=$(plaintext)
matrix
expect "plaintext at the closed router, moved" "$(($(plaintext) - before))" 0
stands_by a1 11

# From here on everything is open again, so what is not seen was not sent.
open_world
before=$(plaintext)
in_ns a2 ip rule del priority 2108
in_ns pod-a2 ping -q -c 1 -W 0.5 "$(pod4 b2)" >/dev/null && echo "BAD without the rule: an answer"
in_ns a2 ping -q -c 1 -W 0.5 "$(lan4 b2)" >/dev/null && echo "BAD without the rule: an answer"
expect "plaintext at the open router without the rule" "$(($(plaintext) - before))" 0
in_ns a2 ip rule add priority 2108 not fwmark 0x2000/0x2000 lookup 51830 protocol 151

ip addr add 10.244.22.9/32 dev lo
ip route add 10.244.12.0/24 via 192.168.1.2
in_ns a2 sh -c 'cd /proc/sys/net/ipv4/conf; echo 0 >all/rp_filter; echo 0 >eth0/rp_filter'
forget pod-a2
ping -q -c 1 -W 0.5 -I 10.244.22.9 "$(pod4 a2)" >/dev/null && echo "BAD a spoofed source gets an answer"
expect "a spoofed source arrives" "$(seen pod-a2)" ''

in_ns a2 sh -c 'cd /proc/sys/net/ipv4/conf; echo 1 >all/rp_filter; echo 1 >eth0/rp_filter'
in_ns a2 ip addr del 172.31.0.1/32 dev lo
stage retired
for node in $nodes; do
	everything "$node" >"/run/left-$node"
	expect "left on $node" "$(diff "/run/found-$node" "/run/left-$node")" ""
done
reach "pod to pod, as before" pod-a2 pod-b2 "$(pod4 b2)" "$(pod4 a2)"

# Once more, and then the tunnel's process ends.
stage tunnels
stage established
stage settled
before=$(plaintext)
in_ns a1 ip link delete spanwire0
for v in 4 6; do
	in_ns a2 ping -c 1 -W 2 "$(lan$v b2)" >/run/ping && echo "BAD without the tunnel: an answer"
	expect "IPv$v without the tunnel a host is told" "$(grep -ci 'unreachable' /run/ping)" 1
	in_ns pod-a1 ping -c 1 -W 2 "$(pod$v b2)" >/run/ping && echo "BAD without the tunnel: an answer"
	expect "IPv$v without the tunnel a pod is told" "$(grep -ci 'unreachable' /run/ping)" 1
done
expect "plaintext at the open router without the tunnel" "$(($(plaintext) - before))" 0
stream "the API server past the mesh, without the tunnel" a2 -c 192.168.2.1 -p 6443 -n 100K
stream "the API server past the mesh, from a pod" pod-a2 -c 192.168.2.1 -p 6443 -n 100K

echo "ok the end"
