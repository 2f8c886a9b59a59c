//! The state of a node: everything observed, and what follows from it.

mod attached;
mod avoided;
mod counting;
mod planning;
mod preshared;
mod silent;
mod spells;
mod status;
mod troubles;
mod unreached;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::{MeshNode, publication::Assembler};
use spanwire_host::{
    ClosedPort, Conflict, Host, HostFacts, Inventory, Owned, PeerStats, Rule, RuleAction, WireGuard,
    closed_port, render,
};
use spanwire_topology::{
    DnsName, Family, LocationName, Mesh, NodeName, Party, Plan, Prefix, PublicKey, Reachability, Role,
    Tunnel, plan,
};

use crate::{
    api_server::ApiServer,
    endpoints::Endpoints,
    enforcement::Enforcement,
    fights::{Fights, Repaired, Subject, subjects},
    liveness::{Assignment, AttachedPeers, Connectivity, Missing, Sessions, Stimulus},
    preshared::PresharedKeys,
    snapshot::Snapshot,
    target::{DeviceReading, Outcome, Survey, Target},
    trouble::Trouble,
};

/// By how many seconds the clock may differ from that of the API server.
pub const CLOCK_TOLERANCE: i64 = 30;

/// Everything that the agent knows, and what follows from it.
///
/// What the plan and the facts are rendered to is kept until one of them changes: most of what is observed (counters, the
/// node's own status, other nodes' endpoints) changes neither.
pub struct NodeState {
    me: NodeName,
    node: Option<Arc<MeshNode>>,
    retire: bool,
    /// The cluster publishes nothing of this node any more.
    unpublished: bool,
    assembler: Assembler,
    mesh: Mesh,
    reachability: Reachability,
    unreached: unreached::Unreached,
    silent: silent::Silent,
    barren: silent::Barren,
    avoided: avoided::Avoidance,
    plan: Plan,
    facts: HostFacts,
    routable: BTreeSet<Family>,
    /// The counters of the device's peers.
    peers: BTreeMap<PublicKey, PeerStats>,
    sessions: Sessions,
    endpoints: Endpoints,
    preshared: PresharedKeys,
    connectivity: Connectivity,
    missing: Missing,
    attached: AttachedPeers,
    enforcement: Enforcement,
    fights: Fights,
    /// The priority of the rule that looks up Spanwire's table, as it was last given to the reconciler.
    place: Option<u32>,
    status: status::Known,
    /// There has been a snapshot, and an inventory.
    known: (bool, bool),
    /// Where the API server really runs.
    api_endpoints: BTreeSet<SocketAddr>,
    /// When the newest of the published objects was created.
    created: Option<Timestamp>,
    host: OnceCell<Arc<Host>>,
    assignment: OnceCell<Arc<Assignment>>,
    conflicts: OnceCell<Vec<Conflict>>,
    closed_port: OnceCell<Option<ClosedPort>>,
    in_mesh: OnceCell<Vec<InMesh>>,
}

/// An endpoint of the API server in a prefix of another location: whether it is reached past the mesh.
struct InMesh {
    endpoint: SocketAddr,
    prefix: Prefix,
    location: LocationName,
    exempt: bool,
}

impl NodeState {
    /// Returns the state of a node of which nothing is known but its name, and which locations were enforced before.
    #[must_use]
    pub fn new(me: NodeName, owned: Owned, enforced: BTreeSet<LocationName>) -> Self {
        let mesh = Mesh::default();
        Self {
            plan: plan(&mesh, &me, &Reachability::default()),
            me,
            node: None,
            retire: false,
            unpublished: false,
            assembler: Assembler::default(),
            mesh,
            reachability: Reachability::default(),
            unreached: unreached::Unreached::default(),
            silent: silent::Silent::default(),
            barren: silent::Barren::default(),
            avoided: avoided::Avoidance::default(),
            facts: HostFacts {
                owned,
                settled: enforced.clone(),
                ..HostFacts::default()
            },
            routable: BTreeSet::new(),
            peers: BTreeMap::new(),
            sessions: Sessions::default(),
            endpoints: Endpoints::default(),
            preshared: PresharedKeys::default(),
            connectivity: Connectivity::default(),
            missing: Missing::default(),
            attached: AttachedPeers::default(),
            enforcement: Enforcement::new(enforced),
            fights: Fights::default(),
            place: None,
            status: status::Known::default(),
            known: (false, false),
            api_endpoints: BTreeSet::new(),
            created: None,
            host: OnceCell::new(),
            assignment: OnceCell::new(),
            conflicts: OnceCell::new(),
            closed_port: OnceCell::new(),
            in_mesh: OnceCell::new(),
        }
    }

    /// Takes over which locations were to be enforced later, when the agent ended, and how long it still was until then.
    pub fn remember_pending(&mut self, left: BTreeMap<LocationName, Duration>, now: Instant) {
        self.enforcement.remember_pending(left, now);
    }

    /// Nothing is ever plaintext in this cluster: the tunnel is enforced for what is established from then on.
    pub fn wait_for_none(&mut self) {
        self.enforcement.wait_for_none();
    }

    /// Takes the mesh as published. Returns whether this node may have to change.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        let first = !std::mem::replace(&mut self.known.0, true);
        self.created = snapshot.newest();
        self.node.clone_from(&snapshot.node);
        let retire = snapshot.retire();
        self.status.retired &= retire;
        let mesh = self.assembler.assemble(&snapshot.slices, &snapshot.peers);
        let mut changed = std::mem::replace(&mut self.retire, retire) != retire;
        // Locations that did not change share their members, and so are compared and copied in no time.
        if first || *mesh != self.mesh {
            self.mesh = mesh.clone();
            changed |= self.renew_plan();
            self.handle_established(now);
        }
        changed |= self.handle_enforced();
        if changed {
            self.forget_rendered();
        }
        self.follow_plan();
        changed
    }

    /// Takes whether the snapshots lack this node, which keeps to the decision before. Returns whether that is news.
    pub fn handle_unpublished(&mut self, unpublished: bool) -> bool {
        std::mem::replace(&mut self.unpublished, unpublished) != unpublished
    }

    /// Takes where the API server is. Returns whether this node may have to change.
    pub fn handle_api_server(&mut self, server: ApiServer) -> bool {
        if self.api_endpoints != server.endpoints {
            self.api_endpoints = server.endpoints;
            self.in_mesh.take();
        }
        self.handle_facts(|facts| facts.api_server = server.exempt)
    }

    /// Returns where the API server is, as last taken.
    #[must_use]
    pub fn api_server(&self) -> ApiServer {
        ApiServer {
            exempt: self.facts.api_server.clone(),
            endpoints: self.api_endpoints.clone(),
        }
    }

    /// Takes what was found on the machine.
    pub fn handle_survey(&mut self, survey: Survey, now: Instant) {
        if let Some((public_key, backend)) = survey.identity {
            self.handle_facts(|facts| facts.public_key = Some(public_key));
            self.status.backend = Some(backend);
        }
        self.adopt_preshared(survey.device.device.as_ref());
        // First the device: the way to its endpoints is a part of the facts.
        self.handle_device(survey.device, now);
        if let Some(inventory) = survey.inventory {
            self.handle_inventory(inventory);
        }
    }

    fn handle_inventory(&mut self, inventory: Inventory) {
        self.known.1 = true;
        self.routable.clone_from(&inventory.default_routes);
        let in_use = || self.endpoints_in_use();
        let v4_only = if in_use().next().is_some() {
            in_use().all(|endpoint| endpoint.is_ipv4())
        } else {
            !self.routable.contains(&Family::V6)
        };
        self.handle_facts(|facts| {
            facts.handle_inventory(inventory);
            facts.underlay_v4_only = v4_only;
        });
    }

    /// Takes the configuration and the counters of the WireGuard device. Returns whether something has to be done about
    /// them.
    pub fn handle_device(&mut self, reading: DeviceReading, now: Instant) -> bool {
        let DeviceReading { device, peers } = reading;
        self.handle_counters(peers, now)
            || !self.is_as_wanted(device.as_ref())
            || !self.poll_endpoints(now).is_empty()
            || !self.sessions.poll_renewals(now).is_empty()
    }

    /// Returns whether this node has to change for them.
    fn handle_counters(&mut self, peers: BTreeMap<PublicKey, PeerStats>, now: Instant) -> bool {
        self.sessions.handle_stats(&peers, now);
        self.endpoints.handle_stats(&peers, now);
        self.connectivity.handle_sessions(&self.sessions, now);
        self.missing.handle_sessions(&self.sessions, now);
        self.attached.handle_sessions(&self.sessions, &peers, now);
        self.peers = peers;
        if self.unconnected() != self.assignment().unconnected {
            self.assignment.take();
        }
        self.listen_to_unreached(now)
    }

    /// Takes the addresses of a name.
    pub fn handle_resolved(&mut self, name: DnsName, addresses: BTreeSet<IpAddr>) {
        self.endpoints.handle_resolved(name, addresses);
    }

    /// Records that a stimulus has been sent.
    pub fn handle_stimulated(&mut self, key: &PublicKey, now: Instant) {
        self.sessions.handle_stimulated(key, now);
    }

    /// Takes what came of a target. Returns whether this node has to change for it.
    pub fn handle_outcome(&mut self, outcome: Outcome, now: Instant) -> bool {
        if let Some(updates) = outcome.peers {
            self.endpoints.handle_given(&updates.given, &updates.refused, now);
            let taken = updates.given.keys().filter(|key| !updates.refused.contains(key));
            self.sessions.handle_given(taken);
            self.sessions.handle_renewed(&updates.renewed, now);
        }
        let mut changed = false;
        if let Some(reading) = outcome.device {
            let wanted = self.host().wireguard(&self.facts.owned.link).is_some();
            let lacks_tunnel = wanted && reading.device.is_none();
            changed = self.handle_facts(|facts| facts.lacks_tunnel = lacks_tunnel);
            changed |= self.handle_counters(reading.peers, now);
        }
        self.handle_repaired(outcome.repaired, &outcome.troubles, now);
        changed |= self.handle_undone(outcome.troubles);
        self.status.retired = outcome.retired && self.retire;
        self.gather_troubles();
        changed
    }

    /// Takes what other programs had taken away, and whether they made the rules move ahead of theirs.
    fn handle_repaired(&mut self, mut repaired: Repaired, troubles: &[Trouble], now: Instant) {
        let host = self.host();
        let looks_up = |rule: &&Rule| rule.action == RuleAction::Lookup(self.facts.owned.table);
        let place = host.rules.iter().find(looks_up).map(|rule| rule.priority);
        let moved = self.place.zip(place).is_some_and(|(before, now)| now < before);
        self.place = place.or(self.place);
        if moved {
            repaired.insert(Subject::Place, String::new());
        }
        let undone = troubles.iter().filter_map(Trouble::not_in_effect);
        self.fights.handle_not_in_effect(subjects(undone.flatten()), now);
        self.fights.handle_repaired(repaired, now);
    }

    /// Takes the present time. Returns whether this node may have to change.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_news = [
            self.fights.handle_timeout(now),
            self.unreached.handle_timeout(now),
            self.silent.handle_timeout(now),
            self.barren.handle_timeout(now),
            self.avoided.handle_timeout(now),
        ];
        if is_news.contains(&true) {
            self.gather_troubles();
        }
        self.enforcement.handle_timeout(now);
        self.handle_enforced()
    }

    /// Returns when to read the device and to call [`Self::handle_timeout`] again.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.retire {
            return None;
        }
        let device = self.tunnel().map(|_| self.sessions.poll_timeout(now));
        let others = [
            device,
            self.endpoints.poll_timeout(now),
            self.enforcement.poll_timeout(),
            self.fights.poll_timeout(),
            self.unreached.poll_timeout(),
            self.silent.poll_timeout(),
            self.barren.poll_timeout(),
            self.avoided.poll_timeout(),
        ];
        others.into_iter().flatten().min()
    }

    /// Returns what the reconciler is to achieve; nothing before there has been a snapshot and a survey, or once the node
    /// is retired.
    #[must_use]
    pub fn poll_target(&self, now: Instant) -> Option<Target> {
        if !self.known.0 || self.status.retired || !(self.known.1 || self.retire) {
            return None;
        }
        let mut renewals = self.sessions.poll_renewals(now);
        let mut endpoints = self.endpoints.last(renewals.keys());
        renewals.retain(|key, _| endpoints.contains_key(key));
        endpoints.extend(self.poll_endpoints(now));
        Some(Target {
            host: self.host(),
            endpoints,
            renewals,
            listen_port: self.listen_port(),
            retire: self.retire,
            contested: self.fights.lasting().map(|fight| fight.subject).collect(),
        })
    }

    /// Returns the endpoints to give to the device now.
    fn poll_endpoints(&self, now: Instant) -> BTreeMap<PublicKey, SocketAddr> {
        let routable = |address| self.routable.contains(&Family::of(address));
        let endpoints = self
            .endpoints
            .poll_endpoints(&self.peers, &self.sessions, &routable, now);
        let admitted = |(key, _): &(PublicKey, SocketAddr)| self.preshared.admits(key);
        endpoints.into_iter().filter(admitted).collect()
    }

    /// Returns the stimuli to send now.
    #[must_use]
    pub fn poll_stimuli(&self, now: Instant) -> Vec<Stimulus> {
        let Some(tunnel) = self.tunnel() else {
            return Vec::new();
        };
        let stimulus = |key: PublicKey| {
            let overlay = tunnel.peers.get(&key)?.overlay.first()?;
            Some(Stimulus::new(key, &tunnel.addresses, *overlay))
        };
        let due = self.sessions.poll_stimuli(now);
        due.into_iter().filter_map(stimulus).collect()
    }

    /// Returns the names to resolve, and the parties that are reached by each.
    #[must_use]
    pub fn names(&self) -> BTreeMap<DnsName, BTreeSet<Party>> {
        self.endpoints.names()
    }

    /// Returns what is to be watched.
    #[must_use]
    pub fn assignment(&self) -> Arc<Assignment> {
        let assignment = || match self.retire {
            true => Assignment::default(),
            false => Assignment {
                unconnected: self.unconnected(),
                ..Assignment::new(&self.plan, &self.facts)
            },
        };
        Arc::clone(self.assignment.get_or_init(|| Arc::new(assignment())))
    }

    /// Returns what the machine should look like; its peers have no endpoints.
    #[must_use]
    pub fn host(&self) -> Arc<Host> {
        let host = || match self.retire {
            true => Host::default(),
            false => render(&self.plan, &self.facts),
        };
        Arc::clone(self.host.get_or_init(|| Arc::new(host())))
    }

    /// Returns what could not be done, as of the last outcome; `None` before the first.
    #[must_use]
    pub fn troubles(&self) -> Option<&[Trouble]> {
        self.status.troubles.as_deref()
    }

    /// Returns whether every trace of Spanwire has been removed, as was asked for.
    #[must_use]
    pub fn retired(&self) -> bool {
        self.status.retired
    }

    /// Returns what this node has to do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the UDP port on which this node listens, or will when it comes to lead.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        let location = self.mesh.locations.get(self.plan.location.as_ref()?)?;
        Some(location.members.get(&self.me)?.listen_port)
    }

    /// Returns the mesh as far as it is known.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Returns the locations for which the tunnel is enforced.
    #[must_use]
    pub fn enforced(&self) -> &BTreeSet<LocationName> {
        self.enforcement.enforced()
    }

    /// Returns the locations for which it will be, and when.
    #[must_use]
    pub fn pending(&self) -> &BTreeMap<LocationName, Instant> {
        self.enforcement.pending()
    }

    /// Returns whether every trace of Spanwire is to be removed from this node.
    #[must_use]
    pub fn retire(&self) -> bool {
        self.retire
    }

    /// Returns whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        !self.retire && matches!(self.plan.role, Role::Leader(_))
    }

    /// Returns the tunnels to other locations: up or not.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<LocationName, bool> {
        self.connectivity.links()
    }

    fn endpoints_in_use(&self) -> impl Iterator<Item = SocketAddr> {
        self.peers.values().filter_map(|peer| peer.endpoint)
    }

    fn handle_established(&mut self, now: Instant) {
        let location = self.plan.location.as_ref();
        let location = location.and_then(|location| self.mesh.locations.get(location));
        let nothing = BTreeSet::new();
        let established = location.map_or(&nothing, |location| &location.established);
        self.enforcement.handle_established(established, now);
    }

    fn handle_enforced(&mut self) -> bool {
        let enforced = self.enforcement.enforced().clone();
        self.handle_facts(|facts| facts.settled = enforced)
    }

    /// Changes the facts. Returns whether they are other ones now.
    fn handle_facts(&mut self, change: impl FnOnce(&mut HostFacts)) -> bool {
        let before = self.facts.clone();
        change(&mut self.facts);
        let changed = before != self.facts;
        if changed {
            self.forget_rendered();
        }
        changed
    }

    fn forget_rendered(&mut self) {
        self.host.take();
        self.assignment.take();
        self.conflicts.take();
        self.closed_port.take();
        self.in_mesh.take();
    }

    /// The endpoints of the API server that lie in prefixes of other locations.
    fn in_mesh(&self) -> &[InMesh] {
        self.in_mesh.get_or_init(|| {
            let endpoint = |endpoint: &SocketAddr| {
                let covers = |(prefix, _): &(&Prefix, _)| prefix.contains(endpoint.ip());
                let (prefix, route) = self.plan.routes.iter().rfind(covers)?;
                Some(InMesh {
                    endpoint: *endpoint,
                    prefix: *prefix,
                    location: route.location.clone(),
                    exempt: self.facts.api_server.contains(endpoint),
                })
            };
            self.api_endpoints.iter().filter_map(endpoint).collect()
        })
    }

    /// What lets no other leader begin a session here, where others are to.
    fn closed_port(&self) -> Option<&ClosedPort> {
        let location = self.mesh.locations.get(self.plan.location.as_ref()?)?;
        let is_looked_for = !location.members.get(&self.me)?.endpoints.is_empty() && !self.retire;
        let closed = self
            .closed_port
            .get_or_init(|| closed_port(&self.plan, &self.facts));
        closed.as_ref().filter(|_| is_looked_for)
    }

    fn is_as_wanted(&self, device: Option<&WireGuard>) -> bool {
        match (device, self.host().wireguard(&self.facts.owned.link)) {
            (Some(device), Some(wanted)) => same_but_for_endpoints(device, wanted),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn tunnel(&self) -> Option<&Tunnel> {
        self.plan.tunnel.as_ref().filter(|_| !self.retire)
    }
}

/// Returns whether a device is configured as wanted, wherever its peers are.
#[must_use]
pub fn same_but_for_endpoints(actual: &WireGuard, wanted: &WireGuard) -> bool {
    let device = |device: &WireGuard| (device.public_key, device.listen_port, device.mark);
    let mut pairs = actual.peers.iter().zip(&wanted.peers);
    device(actual) == device(wanted)
        && actual.peers.len() == wanted.peers.len()
        && pairs.all(|((key, peer), (wanted_key, wanted))| {
            key == wanted_key
                && peer.keepalive == wanted.keepalive
                && peer.group == wanted.group
                && peer.preshared == wanted.preshared
                && peer.allowed_ips == wanted.allowed_ips
        })
}

#[cfg(test)]
mod tests;
