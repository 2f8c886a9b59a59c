//! The network between the nodes: LANs behind routers, and an internet on which the routers meet.
//!
//! Every node, every router (with the LAN's bridge in it), the internet (a bridge) and one host on it are
//! network namespaces named LAB.THING. Nothing is made in the machine's own namespace.

mod neighbours;
mod rules;

use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cloud,
    command::Cmd,
    layout::{Layout, LocationLayout, NodeLayout},
    profile::Profile,
    scenario::{Cni, Family, Routers, Scenario},
    store::Store,
};

pub(crate) use neighbours::{change as change_neighbour, guest};

/// The namespace of the segment on which the routers meet.
pub(crate) const INTERNET: &str = "internet";
/// The namespace of a host on that segment.
pub(crate) const OUTSIDE: &str = "outside";

/// Makes every namespace and segment of a lab.
pub(crate) fn create(store: &Store, scenario: &Scenario, layout: &Layout) -> Result<()> {
    let places = layout.locations.iter().map(|l| l.name.as_str());
    for name in [INTERNET, OUTSIDE].into_iter().chain(places) {
        Cmd::new("ip")
            .args(["netns", "add", &store.namespace(name)])
            .run()?;
    }
    in_namespace(store, INTERNET, &internet_script(store, scenario, layout))?;
    in_namespace(store, OUTSIDE, &outside_script(layout))?;
    let result = each(&layout.locations, |location| {
        in_namespace(store, &location.name, &router_script(location, layout))?;
        location
            .nodes
            .iter()
            .try_for_each(|node| plug_in(store, scenario, location, node))
    });
    result?;
    set_routers(store, scenario, layout, scenario.network.routers)
}

/// Makes the namespace of a node and connects it to its LAN.
fn plug_in(store: &Store, scenario: &Scenario, location: &LocationLayout, node: &NodeLayout) -> Result<()> {
    let (name, namespace, mtu) = (&node.name, store.namespace(&node.name), location.mtu);
    Cmd::new("ip").args(["netns", "add", &namespace]).run()?;
    in_namespace(store, name, &sysctl_script(scenario, node))?;
    let cable = |port: &str, device: &str| {
        format!(
            "ip link add name {port} mtu {mtu} type veth peer name {device} mtu {mtu} netns {namespace}\n\
             ip link set dev {port} master lan up\n"
        )
    };
    let cables = if location.cni == Cni::Cloud {
        let of_card = |card: &cloud::Card| {
            let device = format!("{} address {}", card.device, card.hardware);
            cable(&card.port, &device) + &card.alone()
        };
        cloud::cards(node).iter().map(of_card).collect()
    } else {
        cable(name, "eth0")
    };
    in_namespace(store, &location.name, &cables)?;
    let neighbours = neighbours::script(store, location, node);
    in_namespace(store, name, &(node_script(location, node) + &neighbours))
}

/// Pulls the cable of a node, at once and for good.
pub(crate) fn unplug(store: &Store, layout: &Layout, node: &str) -> Result<()> {
    let location = location_of(layout, node)?;
    let net = format!("--net=/run/netns/{}", store.namespace(&location.name));
    for port in [node, &cloud::second_port(node)] {
        // It is gone already if the node has been down, and few have a second one.
        Cmd::of(["nsenter", &net, "ip", "link", "del", "dev", port]).finish()?;
    }
    Ok(())
}

/// Gives a node that is down a new network, as a machine has after a reboot.
pub(crate) fn renew(store: &Store, scenario: &Scenario, layout: &Layout, node: &str) -> Result<()> {
    let location = location_of(layout, node)?;
    let namespace = store.namespace(node);
    if fs::exists(format!("/run/netns/{namespace}"))? {
        Cmd::new("ip").args(["netns", "del", &namespace]).run()?;
    }
    let found = location
        .nodes
        .iter()
        .find(|n| n.name == node)
        .expect("the node is of its location");
    plug_in(store, scenario, location, found)
}

fn location_of<'a>(layout: &'a Layout, node: &str) -> Result<&'a LocationLayout> {
    let has = |location: &&LocationLayout| location.nodes.iter().any(|n| n.name == node);
    layout
        .locations
        .iter()
        .find(has)
        .with_context(|| format!("there is no node {node}"))
}

/// Opens or closes the routers between locations.
pub(crate) fn set_routers(
    store: &Store,
    scenario: &Scenario,
    layout: &Layout,
    routers: Routers,
) -> Result<()> {
    nft(store, INTERNET, &rules::internet(layout, routers))?;
    each(&layout.locations, |location| {
        nft(store, &location.name, &rules::router(layout, location, routers))?;
        nft(
            store,
            &location.name,
            &rules::lan(
                layout,
                location,
                scenario.network.strict_lans && !location.cni.is_bare(),
                routers,
            ),
        )
    })
}

/// Cuts the path between two locations, or between two nodes of one location.
pub(crate) fn cut(store: &Store, layout: &Layout, one: &str, other: &str) -> Result<()> {
    if [one, other]
        .iter()
        .all(|name| layout.locations.iter().any(|l| l.name == **name))
    {
        return nft(store, INTERNET, &rules::cut(one, other));
    }
    let (a, b) = location_of(layout, one)
        .and_then(|a| Ok((a, location_of(layout, other)?)))
        .with_context(|| format!("{one} and {other} are neither two locations nor two nodes"))?;
    ensure!(
        a.name == b.name,
        "{one} and {other} are in two locations: cut those instead"
    );
    ensure!(
        a.cni != Cni::Cloud,
        "no frame passes from {one} to {other}, which are in a cloud: its router carries their packets"
    );
    nft(store, &a.name, &rules::cut(one, other))
}

/// Drops one UDP port on the internet segment.
pub(crate) fn block_udp(store: &Store, port: u16) -> Result<()> {
    nft(store, INTERNET, &rules::block_udp(port))
}

/// Mends every cut and block.
pub(crate) fn heal(store: &Store, layout: &Layout) -> Result<()> {
    for name in [INTERNET]
        .into_iter()
        .chain(layout.locations.iter().map(|l| l.name.as_str()))
    {
        nft(store, name, rules::HEAL)?;
    }
    Ok(())
}

/// Removes every namespace of a lab and ends what still runs in one.
pub(crate) fn remove(store: &Store) -> Result<()> {
    let prefix = store.namespace("");
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    let names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    for name in &names {
        let pids = Cmd::new("ip").args(["netns", "pids", name]).run()?;
        for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Cmd::new("ip").args(["netns", "del", name]).run()?;
    }
    Ok(())
}

/// Runs a shell script in one of the lab's namespaces.
fn in_namespace(store: &Store, name: &str, script: &str) -> Result<()> {
    let net = format!("--net=/run/netns/{}", store.namespace(name));
    Cmd::of(["nsenter", &net, "sh", "-e"])
        .input(script)
        .run()
        .with_context(|| format!("cannot set up the network of {name}"))?;
    Ok(())
}

fn nft(store: &Store, name: &str, rules: &str) -> Result<()> {
    let net = format!("--net=/run/netns/{}", store.namespace(name));
    Cmd::of(["nsenter", &net, "nft", "-f", "-"]).input(rules).run()?;
    Ok(())
}

fn each<T: Sync>(all: &[T], one: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let one = &one;
    thread::scope(|scope| {
        let running: Vec<_> = all.iter().map(|item| scope.spawn(move || one(item))).collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic in a network script"))
    })
}

fn internet_script(store: &Store, scenario: &Scenario, layout: &Layout) -> String {
    let mtu = scenario.network.mtu;
    let mut script = format!(
        "ip link set lo up\nip link add name internet mtu {mtu} type bridge\n\
         echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables\n\
         echo 0 >/proc/sys/net/bridge/bridge-nf-call-ip6tables\nip link set internet up\n"
    );
    let places = layout.locations.iter().map(|l| (l.name.as_str(), "wan"));
    for (name, inside) in places.chain([(OUTSIDE, "eth0")]) {
        let namespace = store.namespace(name);
        script += &format!(
            "ip link add name {name} mtu {mtu} type veth peer name {inside} mtu {mtu} netns {namespace}\n\
             ip link set dev {name} master internet up\n"
        );
    }
    script
}

fn outside_script(layout: &Layout) -> String {
    let mut script = "ip link set lo up\nip link set eth0 up\n".to_owned();
    for address in &layout.outside {
        let length = if address.is_ipv4() { "/24" } else { "/64 nodad" };
        script += &format!("ip addr add {address}{length} dev eth0\n");
    }
    script
}

fn router_script(location: &LocationLayout, layout: &Layout) -> String {
    let mtu = location.mtu;
    let mut script = format!(
        "ip link set lo up\necho 1 >/proc/sys/net/ipv4/ip_forward\n\
         for of in all default; do echo 0 >/proc/sys/net/ipv4/conf/$of/send_redirects; done\n\
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding\nip link add name lan mtu {mtu} type bridge\n\
         echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables\n\
         echo 0 >/proc/sys/net/bridge/bridge-nf-call-ip6tables\nip link set lan up\nip link set wan up\n"
    );
    for (address, (_, length)) in location.gateways.iter().zip(&location.lans) {
        script += &format!(
            "ip addr add {address}/{length} dev lan{}\n",
            nodad(address.is_ipv6())
        );
    }
    for address in &location.internet {
        let length = if address.is_ipv4() { 24 } else { 64 };
        script += &format!(
            "ip addr add {address}/{length} dev wan{}\n",
            nodad(address.is_ipv6())
        );
    }
    // Known always; the filter decides whether they are used.
    for other in layout
        .locations
        .iter()
        .filter(|other| other.name != location.name)
    {
        for ((net, length), via) in other.lans.iter().zip(&other.internet) {
            script += &format!("ip route add {net}/{length} via {via} dev wan\n");
        }
    }
    if location.cni == Cni::Cloud {
        script += &cloud::router_script(location);
    }
    script
}

fn sysctl_script(scenario: &Scenario, node: &NodeLayout) -> String {
    let rp_filter = u8::from(scenario.network.strict_reverse_path);
    let mut script = "echo 1 >/proc/sys/net/ipv4/ip_forward\n".to_owned();
    for of in ["all", "default"] {
        script += &format!("echo {rp_filter} >/proc/sys/net/ipv4/conf/{of}/rp_filter\n");
        // A cluster without IPv6 leaves it as the kernel has it.
        if scenario.has(Family::V6) {
            script += &format!("echo 1 >/proc/sys/net/ipv6/conf/{of}/forwarding\n");
        }
    }
    for (name, value) in &node.sysctls {
        script += &format!("echo {value} >/proc/sys/{}\n", name.replace('.', "/"));
    }
    // The bridge module's settings appear with the first bridge of a namespace; flannel wants them on, as they are.
    script + "ip link set lo up\n"
}

fn node_script(location: &LocationLayout, node: &NodeLayout) -> String {
    let mut script = "ip link set eth0 up\n".to_owned();
    if location
        .nodes
        .iter()
        .any(|n| n.profiles.contains(&Profile::ExternalVtep))
    {
        // The router translates packets of flannel's tunnel here, and Linux spoils checksums inside that are still to be
        // computed, as no packet has them that was on a wire.
        script += "ethtool -K eth0 tx off >/dev/null\n";
    }
    for ((address, (_, length)), via) in node.addresses.iter().zip(&location.lans).zip(&location.gateways) {
        let length = if address.is_ipv4() {
            location.subnet
        } else {
            *length
        };
        // The router has one address for both subnets.
        let onlink = if address.is_ipv4() && length != 24 {
            " onlink"
        } else {
            ""
        };
        script += &format!(
            "ip addr add {address}/{length} dev eth0{}\nip route add default via {via} dev eth0{onlink}\n",
            nodad(address.is_ipv6())
        );
    }
    script
}

fn nodad(v6: bool) -> &'static str {
    if v6 { " nodad" } else { "" }
}
