//! How neighbours come to a host and leave it: the commands that they issue themselves.

use anyhow::{Context, Result, bail};

use super::in_namespace;
use crate::{
    layout::{PODS, SERVICES, VXLAN_PORT},
    profile::{FOREIGN_MARK, Profile},
    store::Store,
};

/// What the guest behind a device of a neighbour is called in the lab's namespaces, after the node's name.
const GUEST: &str = "-guest";
/// Address of the guest behind `wt0`, and of the node towards it.
const OVERLAY: [&str; 2] = ["100.64.9.2", "100.64.9.1"];

/// What Docker 24 issues when it starts, without a container.
const DOCKER: &str = "\
ip link add name docker0 type bridge
ip addr add 172.17.0.1/16 brd 172.17.255.255 dev docker0
ip link set docker0 up
iptables -t nat -N DOCKER
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables -t nat -A DOCKER -i docker0 -j RETURN
for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do iptables -N $chain; done
iptables -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
iptables -A DOCKER-ISOLATION-STAGE-1 -j RETURN
iptables -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
iptables -A DOCKER-ISOLATION-STAGE-2 -j RETURN
iptables -A DOCKER-USER -j RETURN
iptables -P FORWARD DROP
iptables -I FORWARD -i docker0 -o docker0 -j ACCEPT
iptables -I FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables -I FORWARD -o docker0 -j DOCKER
iptables -I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -I FORWARD -j DOCKER-ISOLATION-STAGE-1
iptables -I FORWARD -j DOCKER-USER
";

/// Docker itself leaves its rules where they are: this is what its user does who gets rid of it.
const NO_DOCKER: &str = "\
iptables -P FORWARD ACCEPT
iptables -D FORWARD -j DOCKER-USER
iptables -D FORWARD -j DOCKER-ISOLATION-STAGE-1
iptables -D FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -D FORWARD -o docker0 -j DOCKER
iptables -D FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables -D FORWARD -i docker0 -o docker0 -j ACCEPT
for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do iptables -F $chain; done
for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do iptables -X $chain; done
iptables -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -D OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables -t nat -F DOCKER
iptables -t nat -X DOCKER
ip link del docker0
";

const WIDE_LAN: &str = "\
ip link add wide0 type veth peer name wide1
ip link set wide0 up
ip link set wide1 up
ip addr add 10.0.0.5/8 dev wide0
";

const NO_IPV6: &str = "\
echo VALUE >/proc/sys/net/ipv6/conf/all/disable_ipv6
echo VALUE >/proc/sys/net/ipv6/conf/default/disable_ipv6
";

/// `wg-quick up` with `AllowedIPs = 0.0.0.0/0`, in its order, but for the device: nobody answers behind either.
const VPN: &str = "\
ip link add wgvpn type veth peer name wgvpn-far
ip link set wgvpn-far up
ip -4 address add 10.77.0.2/32 dev wgvpn
ip link set mtu 1420 arp off up dev wgvpn
ip -4 route add 0.0.0.0/0 dev wgvpn table 51820
ip -4 rule add not fwmark 51820 table 51820
ip -4 rule add table main suppress_prefixlength 0
echo 1 >/proc/sys/net/ipv4/conf/all/src_valid_mark
nft -f - <<'RULES'
table ip wg-quick-wgvpn {
	chain preraw { type filter hook prerouting priority -300; iifname != wgvpn ip daddr 10.77.0.2 fib saddr type != local drop; }
	chain premangle { type filter hook prerouting priority -150; meta l4proto udp meta mark set ct mark; }
	chain postmangle { type filter hook postrouting priority -150; meta l4proto udp meta mark 51820 ct mark set meta mark; }
}
RULES
";

/// `wg-quick down`.
const NO_VPN: &str = "\
ip -4 rule delete table 51820
ip -4 rule delete table main suppress_prefixlength 0
nft delete table ip wg-quick-wgvpn
ip link delete dev wgvpn
";

/// Returns the shell script that brings it onto a host, run in the host's network namespace; `guest` is the name of a
/// namespace for what it has behind a device. Empty where it is no matter of the host's own network.
fn comes(profile: Profile, guest: &str) -> String {
    match profile {
        Profile::Docker => DOCKER.to_owned(),
        Profile::Firewalld => firewalld(),
        Profile::WideLan => WIDE_LAN.to_owned(),
        Profile::NoIpv6 => NO_IPV6.replace("VALUE", "1"),
        Profile::VpnRules => VPN.to_owned(),
        Profile::ForeignMarks => foreign_marks(guest),
        Profile::RouterAdvertisements | Profile::ExternalVtep | Profile::StaleNode => String::new(),
    }
}

/// Returns the script that takes it away, if it can be taken from a host that runs.
fn goes(profile: Profile, guest: &str) -> Option<String> {
    Some(match profile {
        Profile::Docker => NO_DOCKER.to_owned(),
        Profile::Firewalld => "nft delete table inet firewalld\n".to_owned(),
        Profile::WideLan => "ip link del wide0\n".to_owned(),
        Profile::NoIpv6 => NO_IPV6.replace("VALUE", "0"),
        Profile::VpnRules => NO_VPN.to_owned(),
        Profile::ForeignMarks => {
            format!("nft delete table ip netbird\nip link del wt0\nip netns del {guest}\n")
        }
        Profile::RouterAdvertisements | Profile::ExternalVtep | Profile::StaleNode => return None,
    })
}

/// firewalld's table in short. A forwarded packet whose source is in no zone of its own ends with the rejection.
fn firewalld() -> String {
    let trusted = format!("{{ {}, {} }}", PODS[0], SERVICES[0]);
    format!(
        "nft -f - <<'RULES'\ntable inet firewalld {{\n\
         chain filter_INPUT {{\ntype filter hook input priority filter + 10; policy accept;\n\
         ct state {{ established, related }} accept\nct status dnat accept\niifname lo accept\n\
         ct state invalid drop\nip saddr {trusted} accept\n\
         tcp dport {{ 22, 6443, 10250, 30000-32767 }} accept\n\
         udp dport {{ 51820, {VXLAN_PORT}, 30000-32767 }} accept\n\
         meta l4proto {{ icmp, ipv6-icmp }} accept\nreject with icmpx admin-prohibited\n}}\n\
         chain filter_FORWARD {{\ntype filter hook forward priority filter + 10; policy accept;\n\
         ct state {{ established, related }} accept\nct status dnat accept\niifname lo accept\n\
         ct state invalid drop\nip saddr {trusted} accept\nreject with icmpx admin-prohibited\n}}\n\
         }}\nRULES\n"
    )
}

fn foreign_marks(guest: &str) -> String {
    let [far, near] = OVERLAY;
    // The guest's namespace outlives a power cut of the node, its cable does not.
    format!(
        "ip netns del {guest} 2>/dev/null || true\nip netns add {guest}\n\
         ip link add wt0 type veth peer name eth0 netns {guest}\n\
         ip addr add {near}/24 dev wt0\nip link set wt0 up\n\
         ip -n {guest} link set lo up\nip -n {guest} addr add {far}/24 dev eth0\n\
         ip -n {guest} link set eth0 up\nip -n {guest} route add default via {near}\n\
         nft -f - <<'RULES'\ntable ip netbird {{\n\
         chain pre {{ type filter hook prerouting priority mangle; iifname wt0 meta mark set {FOREIGN_MARK:#x}; }}\n\
         chain post {{ type nat hook postrouting priority srcnat; oifname != wt0 ip saddr {near}/24 masquerade; }}\n\
         }}\nRULES\n"
    )
}

/// Name, without the lab's, of the namespace of the guest on a node.
pub(crate) fn guest(node: &str) -> String {
    format!("{node}{GUEST}")
}

/// Returns the script of all profiles of a host; `guest` as in the lab's namespaces. IPv6 goes first: the others make devices.
pub(crate) fn script(profiles: &[Profile], guest: &str) -> String {
    let mut all = profiles.to_vec();
    all.sort_by_key(|profile| *profile != Profile::NoIpv6);
    all.iter().map(|profile| comes(*profile, guest)).collect()
}

/// Brings a neighbour to a node that runs, or takes it away.
pub(crate) fn change(store: &Store, node: &str, profile: Profile, coming: bool) -> Result<()> {
    let guest = store.namespace(&guest(node));
    let script = goes(profile, &guest).map(|script| if coming { comes(profile, &guest) } else { script });
    let Some(script) = script else {
        bail!("{profile:?} is a matter of the scenario: put it under `hosts` there");
    };
    in_namespace(store, node, &script).with_context(|| format!("{profile:?} on {node}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_off_before_another_profile_makes_a_device() {
        let script = script(&[Profile::Docker, Profile::NoIpv6], "g");
        assert!(script.find("disable_ipv6") < script.find("docker0"), "{script}");
    }
}
