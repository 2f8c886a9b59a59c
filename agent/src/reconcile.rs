//! What this node should look like and what is to be reported of it, from everything the agent has heard; sans I/O.
//!
//! ```text
//! snapshot ──┐                                   ┌─▶ wanted Host ──diff──▶ steps   (applied by the shell)
//! machine ───┤                                   ├─▶ names to resolve
//! device ────┼─▶ Agent { plan, facts, contacts } ┼─▶ leaders to touch
//! names ─────┤                                   ├─▶ MeshNode status
//! time ──────┘                                   └─▶ when to be called again
//! ```

mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use spanwire_crds::MeshNode;
use spanwire_host::{DeviceKind, Host, HostFacts, Inventory, Owned, WireGuard, conflicts, render, wireguard};
use spanwire_topology::{
    DnsName, Family, LeaderRole, LocationName, Mesh, NodeName, Party, Plan, PublicKey, Reachability, Role,
    Tunnel, plan,
};

use crate::{
    contact::{Contacts, Seen},
    endpoints::Endpoints,
    links::Links,
    settled::Settled,
    snapshot::Snapshot,
};

/// What is wrong where the cluster has forgotten this node.
const UNPUBLISHED: &str = "no LocationSlice has this node any more; it goes on as it was decided before. Are the LocationSlices deleted, and \
                            does the operator run? To clear the node uninstall the chart, or run `spanwire-agent cleanup` on it";

/// Everything the agent knows, and what follows from it.
pub struct Agent {
    me: NodeName,
    node: Option<Arc<MeshNode>>,
    retire: bool,
    /// The cluster publishes nothing of this node any more.
    unpublished: bool,
    mesh: Mesh,
    plan: Plan,
    facts: HostFacts,
    routable: BTreeSet<Family>,
    seen: BTreeMap<PublicKey, Seen>,
    contacts: Contacts,
    endpoints: Endpoints,
    links: Links,
    settled: Settled,
    status: status::Known,
}

impl Agent {
    /// An agent that knows nothing but its name, and what its ledger says is settled.
    #[must_use]
    pub fn new(me: NodeName, owned: Owned, settled: BTreeSet<LocationName>) -> Self {
        let mesh = Mesh::default();
        Self {
            plan: plan(&mesh, &me, &Reachability::default()),
            me,
            node: None,
            retire: false,
            unpublished: false,
            mesh,
            facts: HostFacts {
                owned,
                ..HostFacts::default()
            },
            routable: BTreeSet::new(),
            seen: BTreeMap::new(),
            contacts: Contacts::default(),
            endpoints: Endpoints::default(),
            links: Links::default(),
            settled: Settled::new(settled),
            status: status::Known::default(),
        }
    }

    /// The mesh as published. Returns whether this node may have to change.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        self.node.clone_from(&snapshot.node);
        let mesh = snapshot.mesh();
        let plan = plan(&mesh, &self.me, &Reachability::default());
        let retire = snapshot.retire();
        let established = plan
            .location
            .as_ref()
            .and_then(|location| mesh.locations.get(location))
            .map(|location| location.established.clone())
            .unwrap_or_default();
        let settled = self.settled.settled().clone();
        self.settled.handle_established(&established, now);
        let changed = plan != self.plan || retire != self.retire || settled != *self.settled.settled();
        self.mesh = mesh;
        self.plan = plan;
        self.retire = retire;
        let nobody = BTreeMap::new();
        let tunnel = self.plan.tunnel.as_ref().filter(|_| !retire);
        let peers = tunnel.map_or(&nobody, |tunnel| &tunnel.peers);
        self.endpoints.handle_plan(peers);
        self.contacts
            .handle_leaders(self.leaders().into_values().flatten().collect());
        self.links
            .handle_plan(self.active_leaders(), self.plan.location.clone());
        changed
    }

    /// Whether the snapshots lack this node, and it goes by the decision before. Returns whether that is news.
    pub fn handle_unpublished(&mut self, unpublished: bool) -> bool {
        std::mem::replace(&mut self.unpublished, unpublished) != unpublished
    }

    /// The key of this node.
    pub fn handle_identity(&mut self, key: PublicKey) {
        self.facts.public_key = Some(key);
    }

    /// Where this node reaches the API server. Returns whether that is news.
    pub fn handle_api_server(&mut self, addresses: BTreeSet<SocketAddr>) -> bool {
        let news = self.facts.api_server != addresses;
        self.facts.api_server = addresses;
        news
    }

    /// What was found on the machine besides Spanwire.
    pub fn handle_look(&mut self, look: Inventory) {
        self.routable.clone_from(&look.default_routes);
        self.facts.handle_inventory(look);
        let in_use = || self.endpoints_in_use();
        self.facts.underlay_v4_only = if in_use().next().is_some() {
            in_use().all(|endpoint| endpoint.is_ipv4())
        } else {
            !self.routable.contains(&Family::V6)
        };
    }

    /// What the WireGuard device has and counts; nothing where there is none. Returns whether there is something to do
    /// about it.
    pub fn handle_device(
        &mut self,
        device: Option<&WireGuard>,
        seen: BTreeMap<PublicKey, Seen>,
        now: Instant,
    ) -> bool {
        self.contacts.handle_seen(&seen, now);
        self.endpoints.handle_seen(&seen, now);
        self.links.handle_contacts(&self.contacts, now);
        self.seen = seen;
        let wanted = wireguard(&self.plan, &self.facts).filter(|_| !self.retire);
        let wanted = wanted.map(|(_, device)| match device.kind {
            DeviceKind::WireGuard(wireguard) => wireguard,
        });
        device.map(without_endpoints) != wanted
            || !self.poll_endpoints(now).is_empty()
            || !self.poll_renewals(now).is_empty()
    }

    /// A name has been resolved.
    pub fn handle_resolved(&mut self, name: DnsName, addresses: BTreeSet<IpAddr>) {
        self.endpoints.handle_resolved(name, addresses);
    }

    /// A leader has been touched.
    pub fn handle_touched(&mut self, key: &PublicKey, now: Instant) {
        self.contacts.handle_touched(key, now);
    }

    /// The device has taken these endpoints, but those of the peers that it `refused`. Those are still to be given.
    pub fn handle_given(
        &mut self,
        given: &BTreeMap<PublicKey, SocketAddr>,
        refused: &BTreeSet<PublicKey>,
        now: Instant,
    ) {
        self.endpoints.handle_given(given, refused, now);
        self.contacts
            .handle_given(given.keys().filter(|key| !refused.contains(key)));
    }

    /// Time has passed. Returns whether this node may have to change.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.settled.settled().len();
        self.settled.handle_timeout(now);
        before != self.settled.settled().len()
    }

    /// When to look at the device and to call [`Self::handle_timeout`] again.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.retire {
            return None;
        }
        let device = self.tunnel().map(|_| self.contacts.poll_timeout(now));
        let others = [
            device,
            self.endpoints.poll_timeout(now),
            self.settled.poll_timeout(),
        ];
        others.into_iter().flatten().min()
    }

    /// The endpoints to give to the device now.
    #[must_use]
    pub fn poll_endpoints(&self, now: Instant) -> BTreeMap<PublicKey, SocketAddr> {
        let routable = |address| self.routable.contains(&Family::of(address));
        self.endpoints
            .poll_endpoints(&self.seen, &self.contacts, &routable, now)
    }

    /// The peers to make anew in the device, and where to look for them then.
    #[must_use]
    pub fn poll_renewals(&self, now: Instant) -> BTreeMap<PublicKey, SocketAddr> {
        self.endpoints.last(&self.contacts.poll_renewals(now))
    }

    /// These peers have been made anew.
    pub fn handle_renewed(&mut self, renewed: &BTreeSet<PublicKey>) {
        self.contacts.handle_renewed(renewed);
    }

    /// Whom to touch now, and where.
    #[must_use]
    pub fn poll_touch(&self, now: Instant) -> Vec<(PublicKey, IpAddr)> {
        let Some(tunnel) = self.tunnel() else {
            return Vec::new();
        };
        let overlay = |key: PublicKey| {
            let address = tunnel.peers.get(&key)?.overlay.first()?;
            Some((key, *address))
        };
        self.contacts
            .poll_touch(now)
            .into_iter()
            .filter_map(overlay)
            .collect()
    }

    /// The names to resolve, and who is reached by each.
    #[must_use]
    pub fn names(&self) -> BTreeMap<DnsName, BTreeSet<Party>> {
        self.endpoints.names()
    }

    /// What the machine should look like, with these endpoints given to the device.
    #[must_use]
    pub fn wanted(&self, endpoints: BTreeMap<PublicKey, SocketAddr>) -> Host {
        if self.retire {
            return Host::default();
        }
        let facts = HostFacts {
            endpoints,
            settled: self.settled.settled().clone(),
            ..self.facts.clone()
        };
        render(&self.plan, &facts)
    }

    /// What of the plan this machine cannot have.
    #[must_use]
    pub fn conflicts(&self) -> Vec<String> {
        if self.retire {
            return Vec::new();
        }
        let unpublished = self.unpublished.then(|| UNPUBLISHED.to_owned());
        let conflicts = conflicts(&self.plan, &self.facts);
        let conflicts = conflicts.iter().map(ToString::to_string);
        unpublished.into_iter().chain(conflicts).collect()
    }

    /// What this node has to do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The UDP port on which this node listens, or will when it comes to lead.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        let location = self.mesh.locations.get(self.plan.location.as_ref()?)?;
        Some(location.members.get(&self.me)?.listen_port)
    }

    /// The mesh as far as it is known.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The locations whose traffic may be nowhere but in the tunnel.
    #[must_use]
    pub fn settled(&self) -> &BTreeSet<LocationName> {
        self.settled.settled()
    }

    /// Whether every trace of Spanwire is to be removed from this node.
    #[must_use]
    pub fn retire(&self) -> bool {
        self.retire
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        !self.retire && matches!(self.plan.role, Role::Leader(_))
    }

    /// The tunnels to other locations: up or not.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<LocationName, bool> {
        self.links.links()
    }

    /// Where the device looks for its peers.
    pub fn endpoints_in_use(&self) -> impl Iterator<Item = SocketAddr> {
        self.seen.values().filter_map(|seen| seen.endpoint)
    }

    fn tunnel(&self) -> Option<&Tunnel> {
        self.plan.tunnel.as_ref().filter(|_| !self.retire)
    }

    fn leaders(&self) -> BTreeMap<LocationName, BTreeSet<PublicKey>> {
        self.leaders_where(|_, _| true)
    }

    fn active_leaders(&self) -> BTreeMap<LocationName, BTreeSet<PublicKey>> {
        let active = |location: &LocationName, node: &NodeName| {
            let location = self.mesh.locations.get(location);
            location.and_then(|location| location.role(node)) == Some(LeaderRole::Active)
        };
        self.leaders_where(active)
    }

    fn leaders_where(
        &self,
        wanted: impl Fn(&LocationName, &NodeName) -> bool,
    ) -> BTreeMap<LocationName, BTreeSet<PublicKey>> {
        let mut leaders: BTreeMap<LocationName, BTreeSet<PublicKey>> = BTreeMap::new();
        for (key, peer) in self.tunnel().into_iter().flat_map(|tunnel| &tunnel.peers) {
            if let Party::Leader(location, node) = &peer.party {
                let of_location = leaders.entry(location.clone()).or_default();
                if wanted(location, node) {
                    of_location.insert(*key);
                }
            }
        }
        leaders
    }
}

/// The device as it is wanted: wherever its peers are.
fn without_endpoints(device: &WireGuard) -> WireGuard {
    let mut device = device.clone();
    for peer in device.peers.values_mut() {
        peer.endpoint = None;
    }
    device
}

#[cfg(test)]
mod tests;
