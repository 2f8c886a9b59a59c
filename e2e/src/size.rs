//! How large packets between pods may be: what the mesh promises, what is found without anyone's help, and that both pass.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    expect::pod_ip,
    lab::Lab,
    layout::{Layout, LocationLayout},
    machine::Machine,
    reach,
    scenario::Cni,
};

/// Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348, section 5).
const VXLAN: u32 = 50;
/// IPv4 20, UDP 8, WireGuard's header and tag 32.
const WIREGUARD: u32 = 60;
/// IPv4 20, ICMP 8.
const HEADERS: u32 = 28;
/// How often a sender may hear of a smaller packet on one way.
const HEARS: usize = 4;

/// How large a packet may be between the pods of two nodes, in IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// What the mesh promises.
    pub promised: u32,
    /// The largest that passes unfragmented, as the sender's kernel has found it.
    pub found: u32,
}

/// Returns the largest packet between the pods of two nodes that the mesh promises: what WireGuard leaves of the smaller one of two LANs;
/// in one location what the CNI gives its pods.
pub fn promised(layout: &Layout, from: &str, to: &str) -> Result<u32> {
    let [here, there] = [location_of(layout, from)?, location_of(layout, to)?];
    if here.name == there.name {
        return Ok(pods_have(here));
    }
    Ok(u32::from(here.mtu.min(there.mtu)) - WIREGUARD)
}

/// Returns the MTU of pods' devices. Calico's are the same in all modes: a pool may be switched to another one.
fn pods_have(location: &LocationLayout) -> u32 {
    let wrapped = match location.cni {
        Cni::Vxlan | Cni::CalicoVxlan | Cni::CalicoCrossSubnet | Cni::CalicoBgp => VXLAN,
        Cni::HostGw | Cni::Cloud => 0,
    };
    u32::from(location.mtu) - wrapped
}

fn location_of<'a>(layout: &'a Layout, node: &str) -> Result<&'a LocationLayout> {
    let has = |location: &&LocationLayout| location.nodes.iter().any(|one| one.name == node);
    layout
        .locations
        .iter()
        .find(has)
        .with_context(|| format!("there is no node {node}"))
}

/// Measures between the pods of two nodes.
pub fn between(lab: &Lab, from: &str, to: &str) -> Result<Size> {
    let (pod, address) = (lab.pod_on(from)?, pod_ip(lab, to)?);
    Ok(Size {
        promised: promised(lab.layout(), from, to)?,
        found: found(&pod, address).with_context(|| format!("{from} to {to}"))?,
    })
}

/// Returns the largest packet that passes unfragmented, as the sender's kernel finds it: it begins with what its device takes, and
/// goes on with what it hears from routers.
fn found(from: &Machine<'_>, to: IpAddr) -> Result<u32> {
    let link = from.run(["ip", "-o", "link", "show", "eth0"])?;
    let mut size = number_after(&link, "mtu").context("a device without an MTU")?;
    for _ in 0..HEARS {
        if passes(from, to, size)? {
            return Ok(size);
        }
        let route = from.run(["ip", "-o", "route", "get", &to.to_string()])?;
        match number_after(&route, "mtu") {
            Some(heard) if heard < size => size = heard,
            _ => bail!("packets of {size} bytes are lost, and the sender hears of no smaller size: {route}"),
        }
    }
    bail!("the sender hears of smaller and smaller sizes, now of {size}")
}

/// Sends packets of a size that no router may fragment, until one is answered or the sender has heard why not.
fn passes(from: &Machine<'_>, to: IpAddr, size: u32) -> Result<bool> {
    let payload = (size - HEADERS).to_string();
    let ping = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-M", "do", "-s"];
    let found = from.finish(ping.into_iter().chain([payload.as_str(), &to.to_string()]))?;
    Ok(found.code == 0)
}

fn number_after(text: &str, word: &str) -> Option<u32> {
    let mut words = text.split_whitespace().skip_while(|one| *one != word);
    words.nth(1)?.parse().ok()
}

/// Returns all pairs of nodes.
pub fn all_pairs(lab: &Lab) -> Vec<(&str, &str)> {
    let nodes = || lab.layout().nodes().map(|node| node.name.as_str());
    let pairs = nodes().flat_map(|from| nodes().map(move |to| (from, to)));
    pairs.filter(|(from, to)| from != to).collect()
}

/// Between the pods of these pairs of nodes a packet of the promised size and so many bytes of TCP pass. The sender finds that very size: a
/// smaller one breaks the promise, and of a larger one WireGuard's datagrams would be fragments on their way.
pub fn promises_are_kept(lab: &Lab, pairs: &[(&str, &str)], bytes: u64) -> Result<()> {
    for (from, to) in pairs {
        let Size { promised, found } = between(lab, from, to)?;
        ensure!(
            found == promised,
            "{from} to {to}: {promised} bytes are promised, and the sender finds {found}"
        );
        reach::bulk(lab, from, to, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn what_is_promised_follows_from_the_smaller_one_of_two_lans() {
        let text = "{network: {cni: calico-vxlan, mtu: 9000}, locations: [{name: a, nodes: [{name: a1}, {name: a2}]}, \
                    {name: b, mtu: 1400, nodes: [{name: b1}]}]}";
        let layout = Layout::of(&Scenario::parse(text).unwrap());
        let of = |from, to| promised(&layout, from, to).unwrap();
        assert_eq!(
            [of("a1", "a2"), of("a1", "b1"), of("b1", "a2")],
            [8950, 1340, 1340]
        );
        assert!(promised(&layout, "a1", "c1").is_err());
    }

    #[test]
    fn sizes_are_read_where_ip_writes_them() {
        let link =
            "2: eth0@if9: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP mode DEFAULT";
        assert_eq!(number_after(link, "mtu"), Some(1450));
        let route =
            "10.244.3.2 via 10.244.1.1 dev eth0 src 10.244.1.2 uid 0 \\    cache expires 595sec mtu 1440";
        assert_eq!(number_after(route, "mtu"), Some(1440));
        assert_eq!(number_after("10.244.3.2 dev eth0", "mtu"), None);
    }
}
