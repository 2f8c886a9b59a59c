//! How neighbours come to a host and leave it: the commands that they issue themselves.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail};

use super::{in_namespace, location_of};
use crate::{
    layout::{Layout, LocationLayout, NodeLayout, PODS, SERVICES, VXLAN_PORT},
    profile::{FOREIGN_MARK, Profile},
    store::Store,
};

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

/// `wg-quick down`. The kernel takes away what is in a namespace a while after its name, so the cable to the router goes first:
/// it may soon be wanted again.
const NO_VPN: &str = "\
ip -4 rule delete table 51820
ip -4 rule delete table main suppress_prefixlength 0
nft delete table ip wg-quick-wgvpn
ip link delete dev wgvpn
ip -n ROUTER link delete dev NODE-vpn
ip netns del GUEST
";

/// Where a host is: what scripts need to give it neighbours.
struct Place {
    /// The node.
    node: String,
    /// Namespace of the host behind NetBird's device.
    netbird: String,
    /// Namespace of the provider of the VPN, and its address in the LAN.
    vpn: String,
    vpn_address: IpAddr,
    /// Namespace of the LAN's router, and its address there.
    router: String,
    gateway: IpAddr,
}

impl Place {
    fn of(store: &Store, location: &LocationLayout, node: &NodeLayout) -> Self {
        let own = u32::from(match node.addresses[0] {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        });
        Self {
            node: node.name.clone(),
            netbird: store.namespace(&guest(&node.name)),
            vpn: store.namespace(&format!("{}-vpn", node.name)),
            // Nodes begin at .11, and labs with so many nodes that it is one of theirs have no such profile.
            vpn_address: Ipv4Addr::from(own + 100).into(),
            router: store.namespace(&location.name),
            gateway: location.gateways[0],
        }
    }
}

/// Returns the shell script that brings it onto a host, run in the host's network namespace. Empty where it is no matter of
/// the host's own network.
fn comes(profile: Profile, place: &Place) -> String {
    match profile {
        Profile::Docker => DOCKER.to_owned(),
        Profile::Firewalld => firewalld(),
        Profile::WideLan => WIDE_LAN.to_owned(),
        Profile::NoIpv6 => NO_IPV6.replace("VALUE", "1"),
        Profile::VpnRules => vpn(place),
        Profile::ForeignMarks => foreign_marks(&place.netbird),
        Profile::RouterAdvertisements | Profile::ExternalVtep | Profile::StaleNode => String::new(),
    }
}

/// Returns the script that takes it away, if it can be taken from a host that runs.
fn goes(profile: Profile, place: &Place) -> Option<String> {
    Some(match profile {
        Profile::Docker => NO_DOCKER.to_owned(),
        Profile::Firewalld => "nft delete table inet firewalld\n".to_owned(),
        Profile::WideLan => "ip link del wide0\n".to_owned(),
        Profile::NoIpv6 => NO_IPV6.replace("VALUE", "0"),
        Profile::VpnRules => {
            let named = NO_VPN.replace("GUEST", &place.vpn);
            named
                .replace("ROUTER", &place.router)
                .replace("NODE", &place.node)
        }
        Profile::ForeignMarks => {
            format!(
                "nft delete table ip netbird\nip link del wt0\nip netns del {}\n",
                place.netbird
            )
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

/// Name, without the lab's, of the namespace of the host behind NetBird's device on a node.
pub(crate) fn guest(node: &str) -> String {
    format!("{node}-wt0")
}

/// Returns the script of all profiles of a host. IPv6 goes first: the others make devices.
pub(super) fn script(store: &Store, location: &LocationLayout, node: &NodeLayout) -> String {
    let place = Place::of(store, location, node);
    let mut all = node.profiles.clone();
    all.sort_by_key(|profile| *profile != Profile::NoIpv6);
    all.iter().map(|profile| comes(*profile, &place)).collect()
}

/// `wg-quick up` with `AllowedIPs = 0.0.0.0/0`, in its order. Instead of a WireGuard device there is a cable to the provider of
/// the VPN, who sends everything on by the LAN, under an address of his own.
fn vpn(place: &Place) -> String {
    let Place {
        vpn: guest,
        router,
        node,
        vpn_address: address,
        gateway,
        ..
    } = place;
    format!(
        "ip netns del {guest} 2>/dev/null || true\nip netns add {guest}\n\
         ip link add wgvpn type veth peer name vpn netns {guest}\n\
         ip -n {router} link add {node}-vpn type veth peer name eth0 netns {guest}\n\
         ip -n {router} link set {node}-vpn master lan up\n\
         ip -n {guest} link set eth0 up\nip -n {guest} address add {address}/24 dev eth0\n\
         ip -n {guest} link set vpn up\nip -n {guest} route add default via {gateway}\n\
         ip -n {guest} route add 10.77.0.2/32 dev vpn\n\
         ip netns exec {guest} sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.vpn.proxy_arp=1 \
         net.ipv4.neigh.vpn.proxy_delay=0\n\
         ip netns exec {guest} nft 'add table ip vpn; \
         add chain ip vpn post {{ type nat hook postrouting priority srcnat; }}; \
         add rule ip vpn post oifname eth0 masquerade'\n\
         ip -4 address add 10.77.0.2/32 dev wgvpn\nip link set mtu 1420 up dev wgvpn\n\
         ip -4 route add 0.0.0.0/0 dev wgvpn table 51820\n\
         ip -4 rule add not fwmark 51820 table 51820\n\
         ip -4 rule add table main suppress_prefixlength 0\n\
         echo 1 >/proc/sys/net/ipv4/conf/all/src_valid_mark\n\
         nft -f - <<'RULES'\ntable ip wg-quick-wgvpn {{\n\
         chain preraw {{ type filter hook prerouting priority -300; \
         iifname != wgvpn ip daddr 10.77.0.2 fib saddr type != local drop; }}\n\
         chain premangle {{ type filter hook prerouting priority -150; meta l4proto udp meta mark set ct mark; }}\n\
         chain postmangle {{ type filter hook postrouting priority -150; \
         meta l4proto udp meta mark 51820 ct mark set meta mark; }}\n}}\nRULES\n"
    )
}

/// Brings a neighbour to a node that runs, or takes it away.
pub(crate) fn change(
    store: &Store,
    layout: &Layout,
    node: &str,
    profile: Profile,
    coming: bool,
) -> Result<()> {
    let location = location_of(layout, node)?;
    let own = location.nodes.iter().find(|n| n.name == node);
    let place = Place::of(store, location, own.expect("the node is of its location"));
    let script = goes(profile, &place).map(|goes| if coming { comes(profile, &place) } else { goes });
    let Some(script) = script else {
        bail!("{profile:?} is a matter of the scenario: put it under `hosts` there");
    };
    in_namespace(store, node, &script).with_context(|| format!("{profile:?} on {node}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn ipv6_is_off_before_another_profile_makes_a_device() {
        let text = "{hosts: {a1: [docker, no-ipv6]}, locations: [{name: a, nodes: [{name: a1}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let location = &layout.locations[0];
        let script = script(&Store::named("x").unwrap(), location, &location.nodes[0]);
        assert!(script.find("disable_ipv6") < script.find("docker0"), "{script}");
    }
}
