//! What `render` must know of the machine besides the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use spanwire_topology::{Family, LocationName, Prefix, PublicKey};

use crate::{
    Elsewhere, Filter, IpsecPolicy, LinkName, OtherRule, Owned, PresharedKey, TableId, Unread,
    inventory::{Cni, Inventory, OtherLink},
};

/// What is found on the machine, and what the agent remembers; everything `render` needs besides the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The identifiers that are Spanwire's.
    pub owned: Owned,
    /// This node's key.
    pub public_key: Option<PublicKey>,
    /// Devices that are not Spanwire's, by name: with addresses and MTU.
    pub links: BTreeMap<LinkName, OtherLink>,
    /// Networks of which every address is this machine's, by routes of the type `local` that others have made ("AnyIP"), each with its
    /// device.
    pub local_routes: BTreeMap<Prefix, LinkName>,
    /// How the CNI carries traffic inside the location.
    pub cni: Cni,
    /// The families that a device of flannel has carried since the agent started: without it they are not carried in another
    /// way. (A CNI that changes its way is believed after a restart of the agent. Calico changes its way while it runs, and
    /// its routes with it.)
    pub carried: BTreeSet<Family>,
    /// Largest packet towards each remote endpoint's network, as the smallest MTU of the devices with a default route
    /// or towards endpoints; `None` where there is no route yet.
    pub underlay_mtu: Option<u32>,
    /// Every endpoint is reached by IPv4, whose header is 20 bytes shorter; `false` where that is not known.
    pub underlay_v4_only: bool,
    /// IPv6 is off on new devices and, where there is one, on Spanwire's.
    pub ipv6_disabled: bool,
    /// IPv6 was forwarded before Spanwire came.
    pub ipv6_forwarded: bool,
    /// Endpoints to give to peers now (new peers, changed configuration, stale handshakes); other peers keep theirs.
    pub endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// The preshared keys of peers that are to have one, as far as they are known; without its key a peer is left out.
    pub preshared: BTreeMap<PublicKey, PresharedKey>,
    /// Locations whose traffic has been in the tunnel long enough that nothing of it may be anywhere else: for these
    /// plaintext is dropped and a foreign arrival is taken for spoofed.
    pub settled: BTreeSet<LocationName>,
    /// The WireGuard in use lets peers of one group send each other's sources.
    pub groups: bool,
    /// The WireGuard device that this node is to have cannot be made now.
    pub lacks_tunnel: bool,
    /// The process of the tunnels is about to end: what goes by this node is to go by others first.
    pub draining: bool,
    /// What others filter forwarded packets by.
    pub filters: Arc<Vec<Filter>>,
    /// What others filter packets for this machine by; only of a leader.
    pub inputs: Arc<Vec<Filter>>,
    /// What others filter packets by where they are neither forwarded nor for this machine.
    pub elsewhere: BTreeMap<Elsewhere, Arc<Vec<Filter>>>,
    /// What others filter packets by and cannot be read.
    pub unread: BTreeSet<Unread>,
    /// The devices by which endpoints are reached, or, with none of them known, what is anywhere.
    pub uplinks: BTreeSet<LinkName>,
    /// Rules of other programs.
    pub rules: BTreeSet<OtherRule>,
    /// Those of their tables that have a route for everything, or for half of it, or forbid that.
    pub wide_tables: BTreeSet<(Family, TableId)>,
    /// Those of them that only forbid.
    pub closed_tables: BTreeSet<(Family, TableId)>,
    /// What the tables of their rules for marks have a route to, or forbid.
    pub marked_routes: BTreeMap<(Family, TableId), BTreeSet<Prefix>>,
    /// Policies of IPsec for what leaves.
    pub ipsec: BTreeSet<IpsecPolicy>,
    /// The routers of the default routes.
    pub routers: BTreeSet<IpAddr>,
    /// Whom this machine asks for names.
    pub resolvers: BTreeSet<IpAddr>,
    /// Where this node reaches the API server.
    pub api_server: BTreeSet<SocketAddr>,
}

impl HostFacts {
    /// Takes over what was found on the machine.
    pub fn handle_inventory(&mut self, inventory: Inventory) {
        self.links = inventory.links;
        self.local_routes = inventory.local_routes;
        self.cni = inventory.cni;
        let is_flannel = matches!(self.cni, Cni::Overlay { .. });
        let carried = |family: &Family| is_flannel && self.carrier(*family).is_some();
        let carried: Vec<_> = [Family::V4, Family::V6].into_iter().filter(carried).collect();
        self.carried.extend(carried);
        self.underlay_mtu = inventory.underlay_mtu;
        self.ipv6_disabled = inventory.ipv6_disabled;
        self.ipv6_forwarded = inventory.ipv6_forwarded;
        self.groups = inventory.groups;
        self.filters = inventory.filters;
        self.inputs = inventory.inputs;
        self.elsewhere = inventory.elsewhere;
        self.unread = inventory.unread;
        self.uplinks = inventory.uplinks;
        self.rules = inventory.rules;
        self.wide_tables = inventory.wide_tables;
        self.closed_tables = inventory.closed_tables;
        self.marked_routes = inventory.marked_routes;
        self.ipsec = inventory.ipsec;
        self.routers = inventory.routers;
        self.resolvers = inventory.resolvers;
    }

    /// Returns the device of the CNI that carries a family.
    pub(crate) fn carrier(&self, family: Family) -> Option<&LinkName> {
        let carries = |name: &&LinkName| self.links.get(name).is_some_and(|link| speaks(link, family));
        self.cni.links().find(carries)
    }

    /// Returns whether a device of others has an address of the family with which it is reached beyond its link.
    pub(crate) fn speaks(&self, family: Family) -> bool {
        self.links.values().any(|link| speaks(link, family))
    }

    /// Returns whether packets of the family can be in the tunnel of this machine.
    pub(crate) fn tunnels(&self, family: Family) -> bool {
        family == Family::V4 || !self.ipv6_disabled
    }

    /// Returns whether any device can have packets of the family.
    pub(crate) fn has(&self, family: Family) -> bool {
        let enabled = |(name, link): (&LinkName, &OtherLink)| !link.ipv6_disabled && name.as_str() != "lo";
        self.tunnels(family) || self.links.iter().any(enabled)
    }
}

fn speaks(link: &OtherLink, family: Family) -> bool {
    let mut addresses = link.addresses.iter().map(|(address, _)| *address);
    addresses.any(|address| Family::of(address) == family && !address.is_loopback() && !link_local(address))
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
