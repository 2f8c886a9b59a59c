//! With whom advice is exchanged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use spanwire_host::{HostFacts, LinkName};
use spanwire_topology::{Family, LocationName, NodeName, Party, Plan, PublicKey};

/// The leaders with which a leader exchanges advice, and what it has to say. A node that leads nothing has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partners {
    /// The device of its tunnels, through which all of it goes.
    pub link: Option<LinkName>,
    /// Its own WireGuard knows groups of peers.
    pub groups: bool,
    /// Its own tunnels are about to end.
    pub draining: bool,
    /// The leaders of its location, itself included.
    pub own: BTreeSet<NodeName>,
    /// The leaders of other locations by their keys.
    pub leaders: BTreeMap<PublicKey, Partner>,
    /// Which leaders of each of these locations it uses.
    pub uses: BTreeMap<LocationName, BTreeSet<NodeName>>,
}

/// A leader of another location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partner {
    /// Its location.
    pub location: LocationName,
    /// Its name.
    pub node: NodeName,
    /// Its overlay address, of the first family that both have.
    pub overlay: IpAddr,
}

impl Partners {
    /// Returns those of a node with this plan. Where every node leads itself there is no choice, and nothing to say.
    #[must_use]
    pub fn new(plan: &Plan, facts: &HostFacts) -> Self {
        let Some(tunnel) = plan.tunnel.as_ref().filter(|_| !plan.probes.far.is_empty()) else {
            return Self::default();
        };
        let has = |address: &&IpAddr| {
            let mut own = tunnel.addresses.iter();
            own.any(|own| Family::of(*own) == Family::of(**address))
        };
        let leaders = tunnel.peers.iter().filter_map(|(key, peer)| match &peer.party {
            Party::Leader(location, node) if peer.group.is_some() => {
                let overlay = *peer.overlay.iter().find(has)?;
                let (location, node) = (location.clone(), node.clone());
                Some((
                    *key,
                    Partner {
                        location,
                        node,
                        overlay,
                    },
                ))
            }
            Party::Leader(..) | Party::Peer(_) => None,
        });
        let siblings = plan.probes.hops.iter().map(|near| near.node.clone());
        Self {
            link: Some(facts.owned.link.clone()),
            groups: facts.groups,
            draining: facts.draining,
            own: siblings.chain([plan.me.clone()]).collect(),
            leaders: leaders.collect(),
            uses: plan.in_use(),
        }
    }
}
