//! What of a plan a machine cannot have.

use std::{fmt, net::IpAddr};

use spanwire_topology::{Family, LocationName, NodeName, Prefix};
use thiserror::Error;

use crate::{ChainName, Dropper, Elsewhere, LinkName, TableFamily, Unread};

/// A part of the plan that is left out on this machine, and why. The rest of the plan stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Conflict {
    /// A prefix of the mesh is a network that is connected here.
    #[error(
        "{prefix} of location {location} is connected here, too, by {link}: it stays on that device and is not routed \
         into the mesh; give one of the two sites other addresses"
    )]
    Connected {
        /// The prefix that is not routed.
        prefix: Prefix,
        /// Where it lives.
        location: LocationName,
        /// The device of the connected network.
        link: LinkName,
    },
    /// A network that is connected here lies in a prefix of the mesh.
    #[error(
        "{network}, which is connected here by {link}, lies in {prefix} of location {location}: its addresses are \
         looked for here, the others of {prefix} in the mesh; give one of the two sites other addresses, or narrow {prefix}"
    )]
    Inside {
        /// The connected network.
        network: Prefix,
        /// Its device.
        link: LinkName,
        /// The prefix of the mesh.
        prefix: Prefix,
        /// Where that lives.
        location: LocationName,
    },
    /// A route of the type `local` makes addresses of the mesh addresses of this machine.
    #[error(
        "{network} is a local route of this node (`ip route show table local`), so it takes for itself what goes from here or through \
         here to {prefix} of location {location}{more}: remove that route (`ip route del local {network} dev {link} table local`), or \
         narrow it to what is this node's own",
        more = if *count > 1 {
            format!(" and to {} more of the mesh's prefixes", count - 1)
        } else {
            String::new()
        }
    )]
    Swallowed {
        /// What the route is for.
        network: Prefix,
        /// Its device.
        link: LinkName,
        /// The first prefix of the mesh of which it takes something.
        prefix: Prefix,
        /// Where that lives.
        location: LocationName,
        /// How many there are.
        count: usize,
    },
    /// Addresses of nodes of another location lie in a network that is connected here.
    #[error(
        "{first}, {what} of location {location}, lies in {network}, which is connected here by {link}: from here it is \
         unreachable; give one of the two sites other addresses, correct the mask of {link}, keep node addresses out of the mesh \
         with spanwire.dev/internal-ip: \"-\", or, where it is no node there that should have it, name {network} in spec.nodeCIDRs of \
         the Location of this node",
        what = if *count > 1 {
            format!("one of {count} node addresses")
        } else {
            "the address of a node".to_owned()
        }
    )]
    Nodes {
        /// The connected network.
        network: Prefix,
        /// Its device.
        link: LinkName,
        /// Where the nodes are.
        location: LocationName,
        /// The first of their addresses.
        first: IpAddr,
        /// How many there are.
        count: usize,
    },
    /// A node of another location has the address of this node's router.
    #[error(
        "{}, the address of a node of location {location}, is that of this node's router in {network}: it stays the router's, and \
         is not routed into the mesh; give one of the two another address, or, where it is no node there that should have it, name \
         {network} in spec.nodeCIDRs of the Location of this node",
        prefix.address()
    )]
    Router {
        /// The address.
        prefix: Prefix,
        /// Where the node is.
        location: LocationName,
        /// The connected network that the router is in.
        network: Prefix,
    },
    /// A node of another location has the address of a resolver of this node.
    #[error(
        "{}, the address of a node of location {location}, is that of a resolver of this node (resolv.conf): it is asked past the \
         mesh as before, and is not routed into the mesh; give that node another address, or, where it is no node there that should \
         have it, name the address in spec.nodeCIDRs of the Location of this node; where that node is to be asked, name another \
         address of it in resolv.conf",
        prefix.address()
    )]
    Resolver {
        /// The address.
        prefix: Prefix,
        /// Where the node is.
        location: LocationName,
    },
    /// A rule of another program takes packets of the mesh before Spanwire's rules do.
    #[error(
        "an {family} rule of another program (protocol {protocol}) has the priority {priority} and takes packets of the mesh \
         before Spanwire's rules do, for which no earlier priorities are left: give it a priority from 17 on, or remove it"
    )]
    Overtaken {
        /// The family.
        family: Family,
        /// Its priority.
        priority: u32,
        /// Its `rtm_protocol`, which names the program that made it.
        protocol: u8,
    },
    /// A rule of another program forbids what the tunnel sends, and nothing before it leads to an endpoint.
    #[error(
        "an {family} rule of another program (protocol {protocol}, priority {priority}) forbids what the tunnel sends, as a VPN's kill \
         switch does, and the routing table main, which the tunnel uses in spite of it, has no route to any other leader: no other \
         location is reached from here; give main a default route, or end that VPN"
    )]
    Barred {
        /// The family.
        family: Family,
        /// Its priority.
        priority: u32,
        /// Its `rtm_protocol`, which names the program that made it.
        protocol: u8,
    },
    /// A policy of IPsec takes what this node sends into the mesh.
    #[error(
        "an IPsec policy of this node, from {from} to {to}, takes what is sent from here to location {location} before it reaches \
         {where_to}: leave the networks of the mesh out of it (`ip xfrm policy` shows it), or let them pass before it (strongSwan: \
         mode = pass){or_so}",
        where_to = if from.address().is_ipv6() { "the mesh" } else { "the leader" },
        or_so = if from.address().is_ipv6() { "" } else { ", or give the Location of this node hop: VXLAN" }
    )]
    Ipsec {
        /// From this network.
        from: Prefix,
        /// To this network.
        to: Prefix,
        /// The first location for which it takes anything.
        location: LocationName,
    },
    /// A leader cannot be reached in a family over the CNI's device, nor is it in a connected network.
    #[error(
        "no {family} way to {node}, which leads here: it has reported no {family} address on the CNI's device or, \
         where the CNI has no such device, has none in a network connected here"
    )]
    NoHop {
        /// The leader.
        node: NodeName,
        /// The family that has to go through it.
        family: Family,
    },
    /// A leader and this node do not both take part in the VXLAN of their location.
    #[error(
        "no {family} way to {node}, which leads here, over the VXLAN of the location: both nodes need an address of one family in the \
         mesh (the InternalIP of the Node or spanwire.dev/internal-ip) that is on a device of theirs, and an overlay address of {family}; \
         else give the Location hop: CNI"
    )]
    OutsideVxlan {
        /// The leader.
        node: NodeName,
        /// The family that has to go through it.
        family: Family,
    },
    /// This node lacks the device by which it was reached, or the other nodes of its location have reported to be.
    #[error(
        "the CNI's device for {family} is missing on this node (flannel.1, flannel-v6.1; vxlan.calico, vxlan-v6.calico, tunl0), \
         which had one or whose location has them: other locations are not reached from pods here, nor pods behind this node from there; see to it that the CNI \
         runs here or, if it works without one now, restart the agent"
    )]
    NoCniDevice {
        /// The family.
        family: Family,
    },
    /// The CNI has taken the overlay address for the node's own.
    #[error(
        "the CNI's tunnel {link} of this node begins at {address}, Spanwire's own address here, where no other node of the \
         location reaches it: the CNI has taken that for the node's address; give Calico \
         IP_AUTODETECTION_METHOD=kubernetes-internal-ip, flannel --iface, k3s --flannel-iface, and restart it on this node"
    )]
    OverlayForNode {
        /// The CNI's device.
        link: LinkName,
        /// The overlay address.
        address: IpAddr,
    },
    /// The CNI takes nothing from other locations.
    #[error(
        "the CNI carries pods by {link}, which takes no packets from other locations; give flannel the back-end vxlan or \
         host-gw (k3s: --flannel-backend)"
    )]
    CniUnsupported {
        /// Its device.
        link: LinkName,
    },
    /// The plan has IPv6 for this node, which has IPv6 switched off.
    #[error(
        "IPv6 is switched off {what}, but the mesh has IPv6 prefixes here and elsewhere: these are not routed; switch \
         it on, or take the IPv6 prefixes from the location",
        what = if *everywhere {
            "on this node (net.ipv6.conf.all.disable_ipv6, or ipv6.disable on the kernel's command line)"
        } else {
            "on new devices of this node (net.ipv6.conf.default.disable_ipv6)"
        }
    )]
    Ipv6Disabled {
        /// No device of the node has IPv6; else some have, but none that Spanwire makes.
        everywhere: bool,
    },
    /// A firewall drops packets of the mesh, and Spanwire does not change it.
    #[error("the chain {chain}{legacy} of this node's firewall drops what is {what} by {link}; {remedy}{by}{ends}",
        legacy = if *is_legacy { " of iptables-legacy" } else { "" },
        what = why.what(),
        remedy = why.remedy(chain, link, *is_legacy),
        ends = ends.map(|(from, to)| format!("; one of them is from {from} to {to}")).unwrap_or_default(),
        by = by.as_ref().map(|by| named(by, chain)).unwrap_or_default())]
    Filtered {
        /// The base chain.
        chain: ChainName,
        /// It is one of iptables-legacy.
        is_legacy: bool,
        /// The device.
        link: LinkName,
        /// Why it is not changed.
        why: Unopened,
        /// The rule that drops it; `None`: the policy, or not known.
        by: Option<Dropper>,
        /// Where a packet is from and to that is dropped, where that matters.
        ends: Option<(IpAddr, IpAddr)>,
    },
    /// A firewall drops what the tunnel sends.
    #[error(
        "the chain {chain}{legacy} of this node's firewall drops what the tunnel sends (UDP from port {port}, with the mark \
         {mark:#x}), so no other location is reached from here; let that out, as by `{command}`{by}",
        legacy = if *is_legacy { " of iptables-legacy" } else { "" },
        command = let_out(chain, *is_legacy, *port),
        by = by.as_ref().map(|by| named(by, chain)).unwrap_or_default()
    )]
    Silenced {
        /// The UDP port.
        port: u16,
        /// The mark of the datagrams.
        mark: u32,
        /// The base chain.
        chain: ChainName,
        /// It is one of iptables-legacy.
        is_legacy: bool,
        /// The rule that drops it; `None`: the policy, or not known.
        by: Option<Dropper>,
    },
    /// What others filter packets by cannot be read.
    #[error(
        "{} of this node's firewall cannot be read, so it is not known whether they drop packets of the mesh: {}; see to \
         it that the agent may (CAP_NET_ADMIN in the host's network), and that the nft of its image knows what is there",
        .0.what, .0.cause
    )]
    Unread(Unread),
    /// This node is to lead, but has no key.
    #[error("this node is to lead, but has no key")]
    NoKey,
}

impl Conflict {
    /// Whether packets of the mesh are lost for that, or may not be protected.
    #[must_use]
    pub fn stops_traffic(&self) -> bool {
        !matches!(self, Self::Unread(_))
    }

    /// Returns the prefix that is not routed, where that is what the conflict is about.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        match self {
            Self::Connected { prefix, .. } | Self::Router { prefix, .. } | Self::Resolver { prefix, .. } => {
                Some(*prefix)
            }
            Self::Inside { .. }
            | Self::Swallowed { .. }
            | Self::Overtaken { .. }
            | Self::Barred { .. }
            | Self::Ipsec { .. }
            | Self::Nodes { .. }
            | Self::NoHop { .. }
            | Self::OutsideVxlan { .. }
            | Self::NoCniDevice { .. }
            | Self::OverlayForNode { .. }
            | Self::CniUnsupported { .. }
            | Self::Ipv6Disabled { .. }
            | Self::Filtered { .. }
            | Self::Silenced { .. }
            | Self::Unread(_)
            | Self::NoKey => None,
        }
    }
}

/// Why a chain of another program is left as it is although it drops packets of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unopened {
    /// The device has others' packets, too.
    Shared,
    /// Spanwire changes no tables of iptables-legacy.
    Legacy,
    /// The table can be changed by the program that made it alone.
    Locked,
    /// Some packets are dropped, by a rule about their connections, addresses or marks.
    Some,
    /// It is at a hook where an accept ends nothing that others drop.
    Elsewhere(Elsewhere),
}

impl Unopened {
    fn what(self) -> &'static str {
        match self {
            Self::Shared => "forwarded between pods here and other locations",
            Self::Legacy | Self::Locked | Self::Some => "forwarded between this and other locations",
            Self::Elsewhere(Elsewhere::Ingress | Elsewhere::Prerouting) => "coming in from other locations",
            Self::Elsewhere(Elsewhere::Output) => "sent by this node to other locations",
            Self::Elsewhere(Elsewhere::Postrouting | Elsewhere::Egress) => "leaving for other locations",
            Self::Elsewhere(Elsewhere::FromPods) => "sent by pods here to other locations",
            Self::Elsewhere(Elsewhere::ToPods) => "for pods here from other locations",
        }
    }

    fn remedy(self, chain: &ChainName, link: &LinkName, is_legacy: bool) -> String {
        match self {
            Self::Elsewhere(_) if !is_legacy => {
                "let it accept what passes this device before that; packets of the mesh bear no mark of their own".to_owned()
            }
            Self::Elsewhere(at) => {
                let (command, table, chain) = (legacy_command(chain), &chain.table, &chain.chain);
                let way = if at == Elsewhere::Prerouting { "-i" } else { "-o" };
                format!("let it accept them: `{command} -t {table} -I {chain} {way} {link} -j ACCEPT`")
            }
            Self::Shared => "let it accept what comes from and goes to the addresses of the mesh".to_owned(),
            Self::Legacy => {
                let (command, table, chain) = (legacy_command(chain), &chain.table, &chain.chain);
                format!(
                    "let it accept them: `{command} -t {table} -I {chain} -i {link} -j ACCEPT`, and the same with `-o {link}`"
                )
            }
            Self::Locked => format!(
                "its table can be changed by the program that made it alone (firewalld has it so with \
                 NftablesTableOwner=yes): have that accept them, like `firewall-cmd --permanent --zone=trusted \
                 --add-interface={link}` and `firewall-cmd --reload`"
            ),
            Self::Some => {
                "transit of the mesh is not tracked (`ct state untracked`), and what begins for pods here is new: let it \
                 accept both on this device before that"
                    .to_owned()
            }
        }
    }
}

fn named(by: &Dropper, chain: &ChainName) -> String {
    let Dropper {
        chain: within,
        handle,
        comment,
    } = by;
    let comment = comment.as_ref().map(|comment| format!(" ({comment:?})"));
    let within = (*within != chain.chain).then(|| format!(" of its chain {within}"));
    format!(
        "; it drops them by the rule with the handle {handle}{}{}",
        within.unwrap_or_default(),
        comment.unwrap_or_default()
    )
}

fn let_out(chain: &ChainName, is_legacy: bool, port: u16) -> String {
    if !is_legacy {
        return format!("nft insert rule {chain} udp sport {port} accept");
    }
    let (command, table, chain) = (legacy_command(chain), &chain.table, &chain.chain);
    format!("{command} -t {table} -I {chain} -p udp --sport {port} -j ACCEPT")
}

fn legacy_command(chain: &ChainName) -> &'static str {
    match chain.family {
        TableFamily::Ip6 => "ip6tables-legacy",
        TableFamily::Ip | TableFamily::Inet | TableFamily::Netdev | TableFamily::Bridge => "iptables-legacy",
    }
}

/// A firewall of this machine that lets no other leader begin a session here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedPort {
    /// The UDP port.
    pub port: u16,
    /// The base chain.
    pub chain: ChainName,
    /// It is one of iptables-legacy.
    pub is_legacy: bool,
    /// The number of the rule of the base chain that drops it, or leads to one that does; `None`: its policy, or not known.
    pub rule: Option<u64>,
}

impl fmt::Display for ClosedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            port,
            chain,
            is_legacy,
            rule,
        } = self;
        write!(f, "the chain {chain}")?;
        f.write_str(if *is_legacy { " of iptables-legacy" } else { "" })?;
        write!(
            f,
            " of this node's firewall drops UDP to WireGuard's port {port} ("
        )?;
        match rule {
            Some(handle) => write!(f, "rule {handle}")?,
            None if *is_legacy => f.write_str("its last rule or policy")?,
            None => f.write_str("policy drop")?,
        }
        f.write_str("), so other locations cannot begin a session here; open it: `")?;
        if *is_legacy {
            let (command, chain) = (legacy_command(chain), &chain.chain);
            write!(f, "{command} -I {chain} -p udp --dport {port} -j ACCEPT`")?;
        } else {
            write!(f, "nft insert rule {chain} udp dport {port} accept`")?;
        }
        f.write_str(", or with what manages that firewall")
    }
}
