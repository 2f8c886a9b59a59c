//! nftables rules of the routers, the LANs and the internet, as text.

use std::net::IpAddr;

use crate::{
    cloud,
    layout::{API_PORT, Layout, LocationLayout, PRIVATE_V4, PRIVATE_V6, VXLAN_PORT, WIREGUARD_PORT},
    profile::Profile,
    scenario::{Cni, Routers},
};

/// Mends every cut and block of one namespace.
pub(super) const HEAL: &str = "table bridge cuts {}\ndelete table bridge cuts\n";

const CUTS: &str =
    "table bridge cuts { chain forward { type filter hook forward priority 10; policy accept; }; }\n";

/// Returns what crosses the internet segment: nothing private, unless the routers are open to each other.
pub(super) fn internet(layout: &Layout, routers: Routers) -> String {
    let mut rules = String::new();
    if routers == Routers::Open {
        rules += &between_lans(layout);
    }
    for (family, private) in [("ip", PRIVATE_V4), ("ip6", PRIVATE_V6)] {
        rules += &format!("{family} saddr {private} drop\n{family} daddr {private} drop\n");
    }
    format!(
        "table bridge lab {{}}\ndelete table bridge lab\ntable bridge lab {{\nchain forward {{\n\
         type filter hook forward priority 0; policy accept;\n{rules}}}\n}}\n"
    )
}

/// Returns what a router forwards and translates.
pub(super) fn router(layout: &Layout, location: &LocationLayout, routers: Routers) -> String {
    let open = if routers == Routers::Open {
        between_lans(layout)
    } else {
        String::new()
    };
    let (mut forward, mut dnat, mut snat) = (String::new(), String::new(), String::new());
    for (index, (net, length)) in location.lans.iter().enumerate() {
        let v4 = net.is_ipv4();
        let (family, private) = if v4 {
            ("ip", PRIVATE_V4)
        } else {
            ("ip6", PRIVATE_V6)
        };
        let public = location.internet[index];
        forward += &format!(
            "iifname lan oifname wan {family} saddr {net}/{length} {family} daddr != {private} accept\n"
        );
        if v4 && (location.subnet != *length || location.cni == Cni::Cloud) {
            forward +=
                &format!("iifname lan oifname lan ip saddr {net}/{length} ip daddr {net}/{length} accept\n");
        }
        let mut to = |protocol: &str, from: u16, node: IpAddr, port: u16| {
            let target = std::net::SocketAddr::new(node, port);
            dnat += &format!("{family} daddr {public} {protocol} dport {from} dnat {family} to {target}\n");
        };
        if location.name == layout.locations[0].name {
            to("tcp", API_PORT, layout.control_plane().addresses[index], API_PORT);
        }
        for node in &location.nodes {
            if let Some(port) = node.forward {
                to("udp", port, node.addresses[index], WIREGUARD_PORT);
            }
            if node.profiles.contains(&Profile::ExternalVtep) {
                to("udp", VXLAN_PORT, node.addresses[index], VXLAN_PORT);
            }
        }
        // A node that asks for its own router's internet address must get its answer from there.
        snat += &format!("oifname lan ct status dnat {family} saddr {net}/{length} masquerade\n");
    }
    format!(
        "table inet lab {{}}\ndelete table inet lab\ntable inet lab {{\n\
         chain forward {{\ntype filter hook forward priority 0; policy drop;\n\
         ct state established,related accept\nct status dnat accept\n{open}{forward}}}\n\
         chain dstnat {{\ntype nat hook prerouting priority dstnat;\n{dnat}}}\n\
         chain srcnat {{\ntype nat hook postrouting priority srcnat;\n{snat}{open}oifname wan masquerade\n}}\n}}\n"
    )
}

/// Returns what a LAN carries.
pub(super) fn lan(layout: &Layout, location: &LocationLayout, strict: bool, routers: Routers) -> String {
    let mut rules = String::new();
    if strict {
        if routers == Routers::Open {
            rules += &between_lans(layout);
        }
        for (net, length) in &location.lans {
            let (family, private) = if net.is_ipv4() {
                ("ip", PRIVATE_V4)
            } else {
                ("ip6", PRIVATE_V6)
            };
            for side in ["saddr", "daddr"] {
                rules += &format!("{family} {side} != {net}/{length} {family} {side} {private} drop\n");
            }
        }
    }
    if location.cni == Cni::Cloud {
        rules += &owners(location);
    }
    let chain = |hook: &str| {
        format!("chain {hook} {{\ntype filter hook {hook} priority 0; policy accept;\n{rules}}}\n")
    };
    format!(
        "table bridge lab {{}}\ndelete table bridge lab\ntable bridge lab {{\n{}{}}}\n",
        chain("forward"),
        chain("input")
    )
}

/// Drops what a port of a cloud's LAN sends from addresses that are not its own.
fn owners(location: &LocationLayout) -> String {
    let rule = |card: cloud::Card| {
        let cloud::Card {
            port, address, pods, ..
        } = card;
        format!("iifname \"{port}\" ip saddr != {{ {address}, {pods} }} drop\n")
    };
    location.nodes.iter().flat_map(cloud::cards).map(rule).collect()
}

/// Drops everything between two ports of a bridge, which have the names of what is plugged in there.
pub(super) fn cut(one: &str, other: &str) -> String {
    let mut rules = CUTS.to_owned();
    for (from, to) in [(one, other), (other, one)] {
        rules += &format!("add rule bridge cuts forward iifname \"{from}\" oifname \"{to}\" drop\n");
    }
    rules
}

/// Drops one UDP port.
pub(super) fn block_udp(port: u16) -> String {
    format!("{CUTS}add rule bridge cuts forward udp dport {port} drop\n")
}

fn between_lans(layout: &Layout) -> String {
    let families = layout.locations[0].lans.len();
    let one = |index: usize| {
        let nets: Vec<String> = layout
            .locations
            .iter()
            .map(|l| l.lans[index])
            .map(|(net, length)| format!("{net}/{length}"))
            .collect();
        let (family, set) = (if index == 0 { "ip" } else { "ip6" }, nets.join(", "));
        format!("{family} saddr {{ {set} }} {family} daddr {{ {set} }} accept\n")
    };
    (0..families).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn layout() -> Layout {
        let text =
            "locations: [{name: a, nodes: [{name: a1, forward: 51821}]}, {name: b, nodes: [{name: b1}]}]";
        Layout::of(&Scenario::parse(text).unwrap())
    }

    #[test]
    fn a_closed_router_forwards_the_api_server_and_the_wireguard_port_and_no_other_lan() {
        let layout = layout();
        let text = router(&layout, &layout.locations[0], Routers::Closed);
        assert!(
            text.contains("ip daddr 203.0.113.11 tcp dport 6443 dnat ip to 192.168.1.11:6443"),
            "{text}"
        );
        assert!(
            text.contains("ip daddr 203.0.113.11 udp dport 51821 dnat ip to 192.168.1.11:51820"),
            "{text}"
        );
        assert!(!text.contains("192.168.2.0"), "{text}");
        assert!(!router(&layout, &layout.locations[1], Routers::Closed).contains("dnat ip to"));
    }

    #[test]
    fn what_is_for_an_external_vtep_is_forwarded_to_it() {
        let text = "{hosts: {a1: [external-vtep]}, locations: [{name: a, nodes: [{name: a1}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let text = router(&layout, &layout.locations[0], Routers::Closed);
        let forward = "ip daddr 203.0.113.11 udp dport 8472 dnat ip to 192.168.1.11:8472";
        assert!(text.contains(forward), "{text}");
    }

    #[test]
    fn open_routers_let_lans_through_everywhere_before_anything_drops_them() {
        let layout = layout();
        let pass =
            "ip saddr { 192.168.1.0/24, 192.168.2.0/24 } ip daddr { 192.168.1.0/24, 192.168.2.0/24 } accept";
        for text in [
            internet(&layout, Routers::Open),
            lan(&layout, &layout.locations[0], true, Routers::Open),
            router(&layout, &layout.locations[0], Routers::Open),
        ] {
            let drop = text.find(" drop\n").or_else(|| text.find("masquerade"));
            assert!(text.find(pass) < drop && text.contains(pass), "{text}");
        }
    }

    #[test]
    fn a_node_reaches_its_own_routers_internet_address_also_with_open_routers() {
        let layout = layout();
        let text = router(&layout, &layout.locations[0], Routers::Open);
        let chain = &text[text.find("chain srcnat").unwrap()..];
        let hairpin = chain.find("oifname lan ct status dnat ip saddr 192.168.1.0/24 masquerade");
        assert!(hairpin.is_some() && hairpin < chain.find("accept\n"), "{chain}");
    }

    #[test]
    fn a_port_of_a_cloud_carries_its_own_addresses_alone() {
        let text = "{network: {cni: cloud}, locations: [{name: a, nodes: [{name: a1}, {name: a2, secondCard: true}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let text = lan(&layout, &layout.locations[0], false, Routers::Open);
        for rule in [
            "iifname \"a1\" ip saddr != { 192.168.1.11, 192.168.1.128/28 } drop\n",
            "iifname \"a2\" ip saddr != { 192.168.1.12, 192.168.1.144/28 } drop\n",
            "iifname \"a2.2\" ip saddr != { 192.168.1.22, 192.168.1.40/29 } drop\n",
        ] {
            assert!(text.contains(rule), "{rule}{text}");
        }
        let text = router(&layout, &layout.locations[0], Routers::Closed);
        let between = "iifname lan oifname lan ip saddr 192.168.1.0/24 ip daddr 192.168.1.0/24 accept";
        assert!(text.contains(between), "{text}");
    }

    #[test]
    fn a_lan_that_is_not_strict_drops_nothing() {
        let layout = layout();
        assert!(!lan(&layout, &layout.locations[0], false, Routers::Closed).contains("drop"));
        assert!(lan(&layout, &layout.locations[0], true, Routers::Closed).contains("drop"));
    }
}
