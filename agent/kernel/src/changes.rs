//! A subscription to changes: of what is Spanwire's, and of what it builds on.
//!
//! The kernel notifies of every change of the machine; a pod that starts makes dozens. So what cannot matter is dropped
//! here: our own changes (they carry the port of our socket), devices and addresses of pods, link-local addresses, devices
//! of which only statistics changed, neighbours but for those on our own VXLAN device, routes outside of our tables except
//! default ones, those to a LAN, Calico's to other nodes and those that make networks local, rules for single addresses, nft
//! tables of others but for the chains by which they filter.

use std::collections::BTreeMap;

use netlink_packet_route::{AddressFamily, address::AddressMessage, rule::RuleMessage};
use nix::libc::{
    NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM, NFNL_SUBSYS_NFTABLES, RTM_DELADDR, RTM_DELLINK,
    RTM_DELNEIGH, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE,
    RTM_NEWRULE,
};
use nix::net::if_::if_nametoindex;
use spanwire_host::Owned;

use crate::{
    address, link,
    netlink::{Ears, Message, NetlinkError, attributes},
    nft::{self, OwnGenerations},
    route, vxlan,
    watched::Watched,
};

/// Multicast groups of `NETLINK_ROUTE` (include/uapi/linux/rtnetlink.h): links, neighbours and forwarding entries, then addresses,
/// routes and rules of IPv4 and of IPv6.
const ROUTE_GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];

/// The multicast group of nf_tables (include/uapi/linux/netfilter/nfnetlink.h, NFNLGRP_NFTABLES).
const NFT_GROUPS: [u32; 1] = [7];

/// The multicast group of IPsec's policies (include/uapi/linux/xfrm.h, XFRMNLGRP_POLICY).
const IPSEC_GROUPS: [u32; 1] = [4];

/// The routing table `main`.
const MAIN: u32 = 254;

/// So many notifications are one change at most, lest an endless stream of them keeps every change from being reported.
const COALESCED: usize = 100_000;

/// Hears that something changed.
pub struct Changes {
    route: Ears,
    nft: Ears,
    /// Of a kernel that has IPsec.
    ipsec: Option<Ears>,
    owned: Owned,
    own_port: u32,
    filters: Watched,
    /// The generations that our own transactions make when they load the table.
    own_generation: OwnGenerations,
    /// Spanwire's nft table was changed by the transaction of which the notifications are being heard.
    table_changed: bool,
    devices: BTreeMap<u32, link::Device>,
    /// A change was heard and not yet reported: the future that waited for it was dropped.
    heard: bool,
}

impl Changes {
    pub(crate) fn open(
        owned: &Owned,
        own_port: u32,
        filters: Watched,
        own_generation: OwnGenerations,
    ) -> Result<Self, NetlinkError> {
        Ok(Self {
            route: Ears::open(NETLINK_ROUTE, &ROUTE_GROUPS)?,
            nft: Ears::open(NETLINK_NETFILTER, &NFT_GROUPS)?,
            ipsec: Ears::open(NETLINK_XFRM, &IPSEC_GROUPS).ok(),
            owned: owned.clone(),
            own_port,
            filters,
            own_generation,
            table_changed: false,
            devices: BTreeMap::new(),
            heard: false,
        })
    }

    /// Returns once something changed. Many changes at once are one. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel can no longer be heard.
    pub async fn changed(&mut self) -> Result<(), NetlinkError> {
        while !self.heard {
            self.heard = self.hear().await?;
        }
        // What else has arrived already belongs to the same change.
        for _ in 0..COALESCED {
            tokio::select! {
                biased;
                relevant = self.hear() => relevant?,
                () = std::future::ready(()) => break,
            };
        }
        self.heard = false;
        Ok(())
    }

    /// Whether the next notifications matter.
    async fn hear(&mut self) -> Result<bool, NetlinkError> {
        let ipsec = async {
            match &self.ipsec {
                Some(ears) => ears.hear().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Policies are few, and all matter.
            heard = ipsec => heard.map(|_| true),
            heard = self.route.hear() => Ok(match heard? {
                None => true,
                // Every message is looked at, for what it says of devices.
                Some(messages) => messages.iter().filter(|message| self.matters(message)).count() > 0,
            }),
            heard = self.nft.hear() => Ok(match heard? {
                None => true,
                // Every message is looked at: a transaction's can come in several parts.
                Some(messages) => messages.iter().filter(|message| self.nft_matters(message)).count() > 0,
            }),
        }
    }

    /// Whether another program changed Spanwire's table, which is known at the end of its transaction, or what it filters by.
    ///
    /// One that comes just before our own has the generation that ours was to have, and is taken for ours; ours replaces what
    /// it did.
    fn nft_matters(&mut self, message: &Message) -> bool {
        if let Some(generation) = nft::new_generation(message) {
            return std::mem::take(&mut self.table_changed) && !self.own_generation.contains(generation);
        }
        if is_nft_table(message, &self.owned.nft_table) {
            self.table_changed = true;
            return false;
        }
        self.filters.concerns(message)
    }

    fn matters(&mut self, message: &Message) -> bool {
        if matches!(message.kind, RTM_NEWLINK | RTM_DELLINK) {
            return self.link_matters(message);
        }
        if message.port == self.own_port {
            return false;
        }
        match message.kind {
            RTM_NEWADDR | RTM_DELADDR => message.parse::<AddressMessage>().is_some_and(|address| {
                let device = self.devices.get(&address.header.index);
                device.is_none_or(|device| !is_of_a_pod(device)) && address::assigned(message).is_some()
            }),
            RTM_NEWROUTE | RTM_DELROUTE => route::observe(message).is_some_and(|route| {
                let tables = [self.owned.table.0, self.owned.return_table.0];
                tables.contains(&route.table)
                    || route.prefix.is_some_and(|prefix| prefix.is_default())
                    || self.is_to_a_lan(&route)
                    || self.is_calicos(&route)
                    || route::is_made_local(&route)
            }),
            RTM_NEWRULE | RTM_DELRULE => message
                .parse::<RuleMessage>()
                .is_some_and(|rule| Self::concerns(&rule)),
            RTM_NEWNEIGH | RTM_DELNEIGH => self.is_by_hop(message),
            _ => false,
        }
    }

    /// Whether a message is about a neighbour on Spanwire's VXLAN device, or about where it sends. Which device that is, the kernel is
    /// asked: it may have been there before the subscription.
    fn is_by_hop(&self, message: &Message) -> bool {
        let hop = if_nametoindex(self.owned.hop_link.as_str()).ok();
        hop.is_some() && vxlan::device_of(message) == hop
    }

    /// Whether a device came, went, or changed in what we look at. Of ours also what we did ourselves: the message that it
    /// went may have had another cause.
    fn link_matters(&mut self, message: &Message) -> bool {
        let Some(device) = link::device(message) else {
            return false;
        };
        let index = device.index;
        let known = self.devices.get(&index);
        let matters = !is_of_a_pod(&device) && (message.kind == RTM_DELLINK || known != Some(&device));
        if message.kind == RTM_DELLINK {
            self.devices.remove(&index);
        } else {
            self.devices.insert(index, device);
        }
        matters
    }

    /// Whether a route is one to the neighbours in a network, whose metric tells which of two devices Linux prefers.
    fn is_to_a_lan(&self, route: &route::ObservedRoute) -> bool {
        let device = route.device.and_then(|index| self.devices.get(&index));
        let direct = route.table == MAIN && route.via.is_none() && route.src.is_some();
        direct && !device.is_some_and(is_of_a_pod)
    }

    /// Whether a route is Calico's to the pods of another node: the way to a leader is that to its pods.
    fn is_calicos(&self, route: &route::ObservedRoute) -> bool {
        let device = route.device.and_then(|index| self.devices.get(&index));
        // One that was there before the subscription may be any.
        let name = device.map_or("vxlan.calico", |device| device.name.as_str());
        route.table == MAIN && route::is_calicos(route, name)
    }

    /// Whether a rule may concern the mesh. The AWS VPC CNI adds one for what is bound for each pod of the node: of those
    /// we learn when everything is read.
    fn concerns(rule: &RuleMessage) -> bool {
        #[expect(clippy::wildcard_enum_match_arm, reason = "multicast has rules, too")]
        let one = match rule.header.family {
            AddressFamily::Inet => 32,
            AddressFamily::Inet6 => 128,
            _ => return false,
        };
        rule.header.dst_len != one
    }
}

/// Whether a device is the host's end of a pod's device, by the names that CNI plugins give it.
fn is_of_a_pod(device: &link::Device) -> bool {
    let name = device.name.as_str();
    device.kind == "veth"
        && ["veth", "cali", "lxc", "eni", "azv"]
            .iter()
            .any(|start| name.starts_with(start))
}

/// Whether a message of nf_tables is about the table of that name. In every kind of message the first attribute names the
/// table, but for the one that ends a transaction, which names none.
fn is_nft_table(message: &Message, table: &str) -> bool {
    const NFTA_TABLE_NAME: u16 = 1;
    const HEADER: usize = 4;
    if i32::from(message.kind >> 8) != NFNL_SUBSYS_NFTABLES {
        return false;
    }
    let body = message.body.get(HEADER..).unwrap_or_default();
    attributes(body).any(|(kind, value)| {
        kind == NFTA_TABLE_NAME && value.strip_suffix(&[0]).unwrap_or(value) == table.as_bytes()
    })
}
