//! A likeness of the API server, small enough to be seen whole.

mod leases;
mod lists;
mod peers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::Lease,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use kube::{ResourceExt as _, runtime::watcher::Event};
use serde_json::json;
use spanwire_cluster::observed::Observed;
use spanwire_crds::{
    Link, Location, LocationSlice, LocationSpec, MeshNode, MeshNodeSpec, MeshNodeStatus, Peer,
    publication::{MANAGED_LABEL, assemble},
    translate::Node,
};
use spanwire_operator::{
    batch::{Notice, ObjectVersion, Target, Write},
    notifier::Notifier,
    queue::Outcome,
    state::{Gone, Now, OperatorState, Options},
};
use spanwire_topology::{Mesh, PublicKey};

/// Something that happens to the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A Node is created as the number and the location say, or goes.
    Node(String, Option<(u8, &'static str)>),
    Annotate(String, &'static str, &'static str),
    Cordon(String, bool),
    Ready(String, bool),
    /// A kubelet names the boot that its machine is in.
    Boot(String, &'static str),
    /// An agent reports.
    Report(String, Box<MeshNodeStatus>),
    Link(String, &'static str, bool),
    /// A user writes a Location.
    Location(Box<Location>),
}

/// Two locations of three nodes, whose agents have reported.
pub(crate) fn cluster() -> Vec<Change> {
    let mut changes = Vec::new();
    for number in 1..=6u8 {
        let (name, location) = (format!("n{number}"), if number <= 3 { "left" } else { "right" });
        changes.push(Change::Node(name.clone(), Some((number, location))));
        let status = MeshNodeStatus {
            public_key: Some(PublicKey::new([number; 32]).to_string()),
            ..MeshNodeStatus::default()
        };
        changes.push(Change::Report(name, Box::new(status)));
    }
    changes
}

/// The changes in another order; changes of one object keep theirs.
pub(crate) fn permuted(changes: &[Change], seed: u64) -> Vec<Change> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = || {
        // xorshift64 (Marsaglia, 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut keyed: Vec<(u64, Change)> = changes.iter().map(|change| (random(), change.clone())).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, change)| change).collect()
}

/// Each node first elsewhere or without its report, then as it is to be.
pub(crate) fn split(changes: &[Change], seed: u64) -> Vec<Change> {
    let mut steps = Vec::new();
    for change in permuted(changes, seed) {
        match &change {
            Change::Node(name, Some((number, _))) => {
                steps.push(Change::Node(name.clone(), Some((*number, "elsewhere"))));
                steps.push(Change::Node(name.clone(), None));
            }
            Change::Report(name, _) => steps.push(Change::Report(name.clone(), Box::default())),
            Change::Node(..)
            | Change::Annotate(..)
            | Change::Cordon(..)
            | Change::Ready(..)
            | Change::Boot(..)
            | Change::Link(..)
            | Change::Location(_) => {}
        }
        steps.push(change);
    }
    steps
}

pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.cluster.overlay = ["10.4.0.0/16", "fd00:4::/64"]
        .map(|pool| pool.parse().unwrap())
        .into();
    options
}

/// All times are counted from one start, so that equal events give equal decisions.
pub(crate) fn now(second: u64) -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    Now {
        monotonic: *START.get_or_init(Instant::now) + Duration::from_secs(second),
        wall: Timestamp::from_second(1_000_000).unwrap(),
    }
}

/// Complete and empty lists of the chosen kinds.
pub(crate) fn list_all(state: &mut OperatorState, chosen: impl Fn(usize) -> bool) {
    let lists: [fn(&mut OperatorState, bool); 6] = [
        |state, done| state.handle_node(if done { Event::InitDone } else { Event::Init }),
        |state, done| state.handle_mesh_node(if done { Event::InitDone } else { Event::Init }),
        |state, done| state.handle_location(if done { Event::InitDone } else { Event::Init }),
        |state, done| state.handle_peer(if done { Event::InitDone } else { Event::Init }),
        |state, done| state.handle_slice(if done { Event::InitDone } else { Event::Init }),
        |state, done| {
            let event = if done { Event::InitDone } else { Event::Init };
            state.handle_lease(event, now(0).monotonic);
        },
    ];
    for (kind, list) in lists.into_iter().enumerate() {
        if chosen(kind) {
            list(state, false);
            list(state, true);
        }
    }
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) state: OperatorState,
    pub(crate) conflicts: usize,
    pub(crate) decisions: usize,
    version: u64,
    second: u64,
    nodes: BTreeMap<String, serde_json::Value>,
    reports: BTreeMap<String, MeshNodeStatus>,
    mesh_nodes: BTreeMap<String, MeshNode>,
    locations: BTreeMap<String, Location>,
    slices: BTreeMap<String, LocationSlice>,
    peers: BTreeMap<String, Peer>,
    answers: BTreeMap<String, Condition>,
    leases: BTreeMap<String, Lease>,
    spoilt: BTreeSet<String>,
    notifier: Notifier,
    notices: Vec<Notice>,
    pending: Vec<Write>,
    /// How many batches were interrupted.
    pub(crate) interruptions: usize,
    interrupted: bool,
    /// The batch before was written whole.
    yields: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(options())
    }

    pub(crate) fn with(options: Options) -> Self {
        let mut state = OperatorState::new(options);
        list_all(&mut state, |_| true);
        Self {
            state,
            ..Self::default()
        }
    }

    pub(crate) fn of(changes: &[Change]) -> Self {
        let mut world = Self::new();
        for change in changes {
            world.apply(change.clone());
        }
        world.settle();
        world.notices.clear();
        for node in world.leaders().into_values().flatten() {
            world.lease(&node, 0);
        }
        world.settle();
        world
    }

    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Node(name, Some((number, location))) => {
                let node = json!({
                    "metadata": {
                        "name": name, "uid": format!("uid of {name}"),
                        "annotations": {"spanwire.dev/location": location},
                    },
                    "spec": {"podCIDRs": [format!("10.244.{number}.0/24")]},
                    "status": {
                        "addresses": [{"type": "InternalIP", "address": format!("192.168.7.{number}")}],
                        "conditions": [{"type": "Ready", "status": "True"}],
                    },
                });
                self.nodes.insert(name.clone(), node);
                self.send_node(&name);
            }
            Change::Node(name, None) => {
                if let Some(node) = self.nodes.remove(&name) {
                    self.state.handle_node(Event::Delete(read(node)));
                }
            }
            Change::Annotate(name, key, value) => {
                self.nodes.get_mut(&name).unwrap()["metadata"]["annotations"][key] = json!(value);
                self.send_node(&name);
            }
            Change::Cordon(name, cordoned) => {
                self.nodes.get_mut(&name).unwrap()["spec"]["unschedulable"] = json!(cordoned);
                self.send_node(&name);
            }
            Change::Boot(name, boot) => {
                self.nodes.get_mut(&name).unwrap()["status"]["nodeInfo"] = json!({"bootID": boot});
                self.send_node(&name);
            }
            Change::Ready(name, ready) => {
                let status = if ready { "True" } else { "Unknown" };
                self.nodes.get_mut(&name).unwrap()["status"]["conditions"][0]["status"] = json!(status);
                self.send_node(&name);
            }
            Change::Report(name, status) => {
                self.reports.insert(name.clone(), *status);
                self.send_report(&name);
            }
            Change::Link(name, location, up) => {
                let report = self.reports.get_mut(&name).unwrap();
                report.links = vec![Link {
                    location: location.to_owned(),
                    up,
                }];
                self.send_report(&name);
            }
            Change::Location(mut location) => {
                let name = location.name_any();
                let known = self.locations.get(&name).map(|known| known.metadata.clone());
                location.metadata = known.unwrap_or(location.metadata);
                self.stamp(&mut location.metadata);
                self.locations.insert(name, (*location).clone());
                self.state.handle_location(Event::Apply((*location).into()));
            }
        }
    }

    fn send_node(&mut self, name: &str) {
        let node = read(self.nodes[name].clone());
        self.state.handle_node(Event::Apply(node));
    }

    /// What an agent reports lies in its MeshNode; before the operator has made one, as if the agent had.
    fn send_report(&mut self, name: &str) {
        let mut object = self
            .mesh_nodes
            .get(name)
            .cloned()
            .unwrap_or_else(|| MeshNode::new(name, MeshNodeSpec::default()));
        object.status = self.status(name);
        self.put_mesh_node(object);
    }

    fn put_mesh_node(&mut self, mut object: MeshNode) {
        // As the API server counts what its spec was.
        let before = self.mesh_nodes.get(&object.name_any());
        let generation = before.and_then(|before| before.metadata.generation);
        let is_new = before.is_none_or(|before| before.spec != object.spec);
        object.metadata.generation = Some(generation.unwrap_or_default() + i64::from(is_new));
        self.stamp(&mut object.metadata);
        self.mesh_nodes.insert(object.name_any(), object.clone());
        self.state.handle_mesh_node(Event::Apply(object.into()));
    }

    fn stamp(&mut self, metadata: &mut ObjectMeta) {
        self.version += 1;
        metadata.uid = metadata
            .uid
            .take()
            .or_else(|| metadata.name.as_ref().map(|name| format!("uid of {name}")));
        metadata.resource_version = Some(self.version.to_string());
    }

    /// Returns whether the addresses of the API server lead to a decision.
    pub(crate) fn handle_api_server(&mut self, addresses: &BTreeSet<std::net::SocketAddr>) -> bool {
        self.state.handle_api_server(addresses);
        let decides = self.state.poll_decide();
        self.settle();
        decides
    }

    /// Returns whether the endpoints of the API server lead to a decision.
    pub(crate) fn handle_api_endpoints(&mut self, endpoints: &BTreeSet<std::net::SocketAddr>) -> bool {
        self.state.handle_api_endpoints(endpoints);
        let decides = self.state.poll_decide();
        self.settle();
        decides
    }

    /// The watch delivers what a deserializer made of this text.
    pub(crate) fn send_mesh_node_as(&mut self, object: &serde_json::Value) {
        let observed = serde_json::from_value(object.clone()).unwrap();
        self.state.handle_mesh_node(Event::Apply(observed));
    }

    pub(crate) fn send_location_as(&mut self, object: &serde_json::Value) {
        let observed = serde_json::from_value(object.clone()).unwrap();
        self.state.handle_location(Event::Apply(observed));
    }

    /// A MeshNode as the API server has it.
    pub(crate) fn mesh_node(&self, name: &str) -> serde_json::Value {
        serde_json::to_value(&self.mesh_nodes[name]).unwrap()
    }

    pub(crate) fn retire(&mut self, node: &str) {
        let mut object = self.mesh_nodes[node].clone();
        object.spec.retire = true;
        self.put_mesh_node(object);
    }

    /// Another writer changes a slice, and the watch is slow to deliver it.
    pub(crate) fn write_behind_the_back(&mut self, name: &str) {
        let mut slice = self.slices[name].clone();
        slice.spec.head.as_mut().unwrap().leaders.clear();
        self.stamp(&mut slice.metadata);
        self.slices.insert(name.to_owned(), slice);
    }

    /// Decides and writes until there is nothing left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.step() {
                return;
            }
        }
        panic!("the operator does not come to rest");
    }

    /// Decides, if nothing is left to write, and writes one thing; returns whether there was anything to do.
    pub(crate) fn step(&mut self) -> bool {
        if self.state.poll_urgent() {
            self.interrupt();
        }
        if self.pending.is_empty() {
            if !self.state.poll_decide() {
                return false;
            }
            self.decisions += 1;
            self.yields = !std::mem::take(&mut self.interrupted);
            let mut batch = self.state.decide(now(self.second)).unwrap();
            self.notify(std::mem::take(&mut batch.notices));
            self.pending = batch.into_writes().collect();
            self.pending.reverse();
            if self.pending.is_empty() {
                self.state.handle_published(false);
            }
            return true;
        }
        if let Some(write) = self.pending.pop()
            && !self.write(write)
        {
            self.conflicts += 1;
            self.state.handle_unpublished();
        }
        if self.pending.is_empty() {
            self.state.handle_published(true);
        }
        true
    }

    /// What is left of the mesh is not written, as the queue does it.
    fn interrupt(&mut self) {
        let of_mesh = |write: &Write| ["slice", "delete_slice", "peer_status"].contains(&write.kind());
        if !self.yields || !self.pending.iter().any(of_mesh) {
            return;
        }
        self.pending.retain(|write| !of_mesh(write));
        self.interrupted = true;
        self.interruptions += 1;
        if self.pending.is_empty() {
            self.state.handle_published(true);
        }
    }

    fn notify(&mut self, notices: Vec<Notice>) {
        self.notifier.handle_notices(notices);
        let now = now(self.second).monotonic;
        while let Some(notice) = self.notifier.poll_notice(now) {
            self.notifier.handle_outcome(&notice, Outcome::Done, now);
            self.notices.push(notice);
        }
    }

    /// What would be written if something had changed.
    pub(crate) fn decide_again(&mut self) -> Vec<Write> {
        let batch = self.state.decide(now(self.second)).unwrap();
        batch.into_writes().collect()
    }

    /// Another operator finds what there is; returns what it is about to write at first.
    pub(crate) fn restart(&mut self) -> Vec<Write> {
        self.replace_operator();
        let writes = self.decide_again();
        self.pending = writes.clone();
        self.pending.reverse();
        writes
    }

    fn replace_operator(&mut self) {
        let mut state = OperatorState::new(options());
        list_all(&mut state, |_| true);
        self.state = state;
        self.list_leases();
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            self.send_node(&name);
        }
        for object in self.mesh_nodes.clone().into_values() {
            self.state.handle_mesh_node(Event::Apply(object.into()));
        }
        for (name, object) in self.locations.clone() {
            if !self.spoilt.contains(&name) {
                self.state.handle_location(Event::Apply(object.into()));
            }
        }
        for name in self.spoilt.clone() {
            self.spoil_location(&name);
        }
        for object in self.slices.clone().into_values() {
            self.state.handle_slice(Event::Apply(object.into()));
        }
        for object in self.peers.clone().into_values() {
            self.state.handle_peer(Event::Apply(object.into()));
        }
    }

    fn write(&mut self, write: Write) -> bool {
        match write {
            Write::Slice { name, version, spec } => {
                let mut object = LocationSlice::new(&name, spec);
                let known = self.slices.get(&name).cloned();
                if seen(known.as_ref().map(|known| &known.metadata)) != version {
                    self.send_slice(known, name);
                    return false;
                }
                self.stamp(&mut object.metadata);
                self.slices.insert(name, object.clone());
                self.state.handle_slice(Event::Apply(object.into()));
            }
            Write::DeleteSlice(Target { name, .. }) => {
                self.slices.remove(&name);
                self.state.handle_gone(Gone::Slice(name));
            }
            Write::MeshNode {
                name, node_uid, spec, ..
            } => {
                let mut object = MeshNode::new(&name, spec);
                object.metadata.owner_references = Some(vec![OwnerReference {
                    kind: "Node".to_owned(),
                    uid: node_uid,
                    ..OwnerReference::default()
                }]);
                object.status = self.status(&name);
                self.put_mesh_node(object);
            }
            Write::MeshNodeStatus { name, condition, .. } => self.put_answer(&name, *condition),
            Write::DeleteMeshNode(Target { name, .. }) => {
                self.mesh_nodes.remove(&name);
                self.state.handle_gone(Gone::MeshNode(name.parse().unwrap()));
            }
            Write::CreateLocation { name } => {
                let mut object = Location::new(&name, LocationSpec::default());
                object.metadata.labels = Some([(MANAGED_LABEL.to_owned(), "true".to_owned())].into());
                self.apply(Change::Location(Box::new(object)));
            }
            Write::DeleteLocation(Target { name, .. }) => {
                self.locations.remove(&name);
                self.state.handle_gone(Gone::Location(name.parse().unwrap()));
            }
            Write::LocationStatus { name, status, .. } => {
                let mut object = self.locations[&name].clone();
                object.status = Some(status);
                self.apply(Change::Location(Box::new(object)));
            }
            Write::PeerStatus { name, status, .. } => self.put_peer_status(&name, status),
        }
        true
    }

    fn send_slice(&mut self, found: Option<LocationSlice>, name: String) {
        match found {
            Some(found) => self.state.handle_slice(Event::Apply(found.into())),
            None => self.state.handle_gone(Gone::Slice(name)),
        }
    }

    pub(crate) fn members(&self) -> BTreeMap<String, Vec<String>> {
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for slice in self.slices.values() {
            let nodes = slice.spec.members.iter().map(|member| member.node.clone());
            members
                .entry(slice.spec.location.clone())
                .or_default()
                .extend(nodes);
        }
        members.retain(|_, nodes| !nodes.is_empty());
        members
    }

    /// The mesh as agents put it together.
    pub(crate) fn mesh(&self) -> Mesh {
        let slices = self.slices.iter();
        assemble(slices.map(|(name, slice)| (name.as_str(), &slice.spec)), [])
    }

    pub(crate) fn leaders(&self) -> BTreeMap<String, Vec<String>> {
        let led = |slice: &LocationSlice| {
            let head = slice.spec.head.as_ref()?;
            let leaders = head.leaders.iter().map(|leader| leader.node.clone()).collect();
            Some((slice.spec.location.clone(), leaders))
        };
        self.slices.values().filter_map(led).collect()
    }

    pub(crate) fn established(&self, location: &str) -> Vec<String> {
        self.slices[&format!("{location}-head")]
            .spec
            .head
            .clone()
            .unwrap()
            .established
    }

    pub(crate) fn condition(&self, location: &str, about: &str) -> (String, String) {
        self.find_condition(location, about).unwrap()
    }

    pub(crate) fn find_condition(&self, location: &str, about: &str) -> Option<(String, String)> {
        let status = self.locations[location].status.as_ref()?;
        let found = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == about)?;
        Some((found.status.clone(), found.message.clone()))
    }

    pub(crate) fn endpoint(&self, location: &str) -> Option<String> {
        self.locations[location].status.clone()?.endpoint
    }

    pub(crate) fn locations(&self) -> BTreeSet<&str> {
        self.locations.keys().map(String::as_str).collect()
    }

    pub(crate) fn mesh_nodes(&self) -> BTreeMap<String, MeshNodeSpec> {
        let spec = |(name, object): (&String, &MeshNode)| (name.clone(), object.spec.clone());
        self.mesh_nodes.iter().map(spec).collect()
    }

    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}

/// As the watch delivers it.
fn read(node: serde_json::Value) -> Observed<Node> {
    serde_json::from_value(node).unwrap()
}

fn seen(metadata: Option<&ObjectMeta>) -> Option<ObjectVersion> {
    metadata.map(|metadata| ObjectVersion {
        uid: metadata.uid.clone().unwrap(),
        version: metadata.resource_version.clone().unwrap(),
    })
}
