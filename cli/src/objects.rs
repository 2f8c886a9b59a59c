//! Objects of a cluster, from files or from the API server, and the facts that they are.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
};

use serde::Deserialize as _;
use serde_json::{Value, json};
use spanwire_cluster::observed::{Observable, Observed};
use spanwire_crds::{
    Location, LocationSlice, MeshNode, Peer,
    conditions::Reason,
    names,
    publication::{accepted, assemble, slices},
    translate::{self, Node},
};
use spanwire_topology::{ClusterFacts, Facts, LocationFact, Mesh, NodeName, Prefix, PublicKey};

use crate::settings::Settings;

/// A kind of object that decisions are made from, or that they are published in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A Kubernetes Node.
    Node,
    /// A Location.
    Location,
    /// A Peer.
    Peer,
    /// A MeshNode.
    MeshNode,
    /// A LocationSlice.
    LocationSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Node,
        Self::Location,
        Self::Peer,
        Self::MeshNode,
        Self::LocationSlice,
    ];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Location => "Location",
            Self::Peer => "Peer",
            Self::MeshNode => "MeshNode",
            Self::LocationSlice => "LocationSlice",
        }
    }

    /// Returns the name as the API server's paths and RBAC rules have it.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Location => "locations",
            Self::Peer => "peers",
            Self::MeshNode => "meshnodes",
            Self::LocationSlice => "locationslices",
        }
    }

    /// Returns the path of its collection at the API server.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Node => "/api/v1/nodes".to_owned(),
            Self::Location | Self::Peer | Self::MeshNode | Self::LocationSlice => {
                format!("/apis/{}/{}", names::API_VERSION, self.plural())
            }
        }
    }

    /// Returns the kind of an object; `None`: it is of another.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let (kind, version) = (object["kind"].as_str()?, object["apiVersion"].as_str()?);
        let group = version.split_once('/').map_or("", |(group, _)| group);
        Self::ALL.into_iter().find(|known| {
            let expected = if *known == Self::Node { "" } else { names::GROUP };
            known.name() == kind && group == expected
        })
    }
}

/// Objects by kind and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects(BTreeMap<Kind, BTreeMap<String, Value>>);

/// A kind whose objects the user may not list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// The kind.
    pub kind: Kind,
    /// What the API server says.
    pub why: String,
}

impl std::fmt::Display for Unlisted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind.plural();
        write!(
            f,
            "{kind} are not listed, so what they say is not known: {}",
            self.why
        )
    }
}

/// Something in an object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unread {
    /// The kind of the object.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What cannot be read, and what to write instead.
    pub problem: String,
}

/// What objects say.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The facts.
    pub facts: Facts,
    /// What cannot be read and was set aside.
    pub unread: Vec<Unread>,
    /// Nodes without a MeshNode, of which a key is assumed.
    pub assumed: Vec<String>,
}

impl Objects {
    /// Enters an object that stands in a file or that a list has. Returns whether it is of a kind that counts.
    ///
    /// # Errors
    /// Where it has no name.
    pub fn add(&mut self, object: Value) -> Result<bool, String> {
        let Some(kind) = Kind::of(&object) else {
            return Ok(false);
        };
        let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
            return Err(format!("a {} has no metadata.name", kind.name()));
        };
        if self.get(kind, &name).is_some() {
            return Err(format!("{} {name} is there twice", kind.name()));
        }
        self.insert(kind, name, object);
        Ok(true)
    }

    /// Enters an object, instead of one that is there.
    pub fn insert(&mut self, kind: Kind, name: String, object: Value) {
        self.0.entry(kind).or_default().insert(name, object);
    }

    /// Removes an object.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        if let Some(objects) = self.0.get_mut(&kind) {
            objects.remove(name);
        }
    }

    /// Returns an object.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.0.get(&kind)?.get(name)
    }

    /// Returns the objects of a kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&String, &Value)> {
        self.0.get(&kind).into_iter().flatten()
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies objects to these, as `kubectl apply` would: what an object does not say stays. An object that was not there is
    /// younger than those that were.
    pub fn apply(&mut self, others: Self) {
        const YOUNGEST: &str = "9999-12-30T00:00:00Z";
        for (kind, others) in others.0 {
            let known = self.0.entry(kind).or_default();
            for (name, mut other) in others {
                let created = match known.get(&name) {
                    Some(before) => before["metadata"]["creationTimestamp"].clone(),
                    None => json!(YOUNGEST),
                };
                other["metadata"]["creationTimestamp"] = created;
                merge(known.entry(name).or_insert(Value::Null), other);
            }
        }
    }

    /// Returns the objects of a kind, decoded.
    #[must_use]
    pub fn observed<K: Observable>(&self, kind: Kind) -> Vec<Observed<K>> {
        let objects = self.of(kind).map(|(_, object)| object);
        // Decoding an object, which has metadata with a name, does not fail.
        objects
            .filter_map(|object| Observed::deserialize(object).ok())
            .collect()
    }

    /// Returns the mesh that is published in these objects.
    #[must_use]
    pub fn published(&self) -> Mesh {
        let slices: Vec<Observed<LocationSlice>> = self.observed(Kind::LocationSlice);
        let peers: Vec<Observed<Peer>> = self.observed(Kind::Peer);
        let slices = slices
            .iter()
            .filter_map(|slice| Some((slice.name(), &slice.object.as_ref()?.spec)));
        let accepted = peers.iter().filter_map(|peer| {
            let status = peer.object.as_ref()?.status.as_ref()?;
            Some((peer.name(), status.accepted.as_ref()?))
        });
        assemble(slices, accepted)
    }

    /// Returns the objects in which a mesh is published.
    #[must_use]
    pub fn of_mesh(mesh: &Mesh) -> Self {
        let mut objects = Self::default();
        let mut enter = |kind: Kind, name: &str, spec: Value, status: Value| {
            let object = json!({"kind": kind.name(), "apiVersion": names::API_VERSION, "metadata": {"name": name},
                "spec": spec, "status": status});
            objects.insert(kind, name.to_owned(), object);
        };
        for (name, spec) in slices(mesh, &BTreeMap::new()) {
            enter(Kind::LocationSlice, &name, json!(spec), json!({}));
        }
        for (name, location) in &mesh.locations {
            enter(Kind::Location, name.as_str(), json!({}), json!({}));
            for node in location.members.keys() {
                enter(
                    Kind::MeshNode,
                    node.as_str(),
                    json!({"location": name.as_str()}),
                    json!({}),
                );
            }
        }
        for (name, peer) in &mesh.peers {
            let accepted = json!(accepted(peer));
            let spec = json!({"publicKey": accepted["publicKey"], "allowedIPs": accepted["allowedIPs"]});
            enter(Kind::Peer, name.as_str(), spec, json!({"accepted": accepted}));
        }
        objects
    }

    /// Returns what the objects say. Of a node that `cluster` does not have, and that has no MeshNode, it is assumed that an
    /// agent runs on it and has a key; of one that says nothing of being ready, that it is.
    #[must_use]
    pub fn read(&self, settings: &Settings, cluster: ClusterFacts, known: &Objects) -> Reading {
        let mut reading = Reading {
            facts: Facts {
                cluster,
                ..Facts::default()
            },
            ..Reading::default()
        };
        self.read_nodes(settings, known, &mut reading);
        for observed in self.observed::<Location>(Kind::Location) {
            let name = reading.note(Kind::Location, &observed);
            let fact = observed
                .object
                .as_ref()
                .map_or_else(LocationFact::unreadable, |object| {
                    let read = translate::location(object);
                    reading.problems(Kind::Location, observed.name(), read.problems);
                    read.fact
                });
            if let Ok(name) = name.parse() {
                reading.facts.locations.insert(name, fact);
            }
        }
        for observed in self.observed::<Peer>(Kind::Peer) {
            let name = reading.note(Kind::Peer, &observed);
            if let (Ok(name), Some(object)) = (name.parse(), &observed.object) {
                let read = translate::peer(object);
                reading.problems(Kind::Peer, observed.name(), read.problems);
                reading.facts.peers.insert(name, read.fact);
            }
        }
        reading
    }

    /// Returns from where the pod networks of nodes are, as the condition of a Location says, where that is not from the Nodes. They are
    /// taken from what is published then: `spec.podCIDRs` are not what pods have.
    fn of_cni(&self) -> Option<Reason> {
        let reasons = [Reason::CalicoBlocks, Reason::CiliumNodes, Reason::PodAddresses];
        let locations = self
            .of(Kind::Location)
            .map(|(_, object)| &object["status"]["conditions"]);
        let mut conditions = locations.filter_map(Value::as_array).flatten();
        conditions.find_map(|condition| {
            let said = condition["reason"].as_str()?;
            reasons.into_iter().find(|reason| reason.as_str() == said)
        })
    }

    fn read_nodes(&self, settings: &Settings, known: &Objects, reading: &mut Reading) {
        let options = settings.node_options();
        let known_mesh = known.published();
        let published = self.published();
        let of_cni = self.of_cni();
        let mesh_nodes = self.observed::<MeshNode>(Kind::MeshNode);
        let reports: BTreeMap<&str, _> = mesh_nodes
            .iter()
            .filter_map(|node| {
                Some((
                    node.name(),
                    translate::report(node.object.as_ref()?.status.as_ref()?),
                ))
            })
            .collect();
        for observed in self.observed::<Node>(Kind::Node) {
            let name = reading.note(Kind::Node, &observed);
            let (Ok(name), Some(object)) = (name.parse::<NodeName>(), &observed.object) else {
                continue;
            };
            let read = translate::node(object, &options);
            reading.problems(Kind::Node, name.as_str(), read.problems);
            let mut fact = read.fact;
            if !object
                .status
                .conditions
                .iter()
                .any(|condition| condition.kind == "Ready")
            {
                fact.alive = true;
                fact.down_since = None;
            }
            let mut locations = published.locations.values();
            if let Some(source) = of_cni
                && let Some(member) = locations.find_map(|location| location.members.get(&name))
            {
                // With Calico a single address is one that the node has out of a block of another.
                let is_borrowed = |prefix: &&Prefix| source == Reason::CalicoBlocks && prefix.is_host();
                let (borrowed, own): (BTreeSet<&Prefix>, BTreeSet<&Prefix>) =
                    member.prefixes.iter().partition(is_borrowed);
                fact.prefixes = own.into_iter().copied().collect();
                fact.borrowed = borrowed.into_iter().map(Prefix::address).collect();
            }
            match reports.get(name.as_str()) {
                Some(report) => report.fact.complete(&mut fact),
                None if known.get(Kind::Node, name.as_str()).is_some() => {
                    let mut locations = known_mesh.locations.values();
                    fact.public_key = locations.find_map(|location| location.members.get(&name)?.public_key);
                }
                None => {
                    fact.public_key = Some(assumed_key(name.as_str()));
                    reading.assumed.push(name.to_string());
                }
            }
            reading.facts.nodes.insert(name, fact);
        }
    }
}

impl Reading {
    /// Notes what of an object could not be decoded, and returns its name.
    fn note<K: Observable>(&mut self, kind: Kind, observed: &Observed<K>) -> String {
        self.problems(kind, observed.name(), observed.problems.clone());
        observed.name().to_owned()
    }

    fn problems(&mut self, kind: Kind, name: &str, problems: Vec<spanwire_crds::FieldProblem>) {
        let unread = problems.into_iter().map(|problem| Unread {
            kind,
            name: name.to_owned(),
            problem: problem.to_string(),
        });
        self.unread.extend(unread);
    }
}

/// Returns a key that no other node has, for a node whose agent has not made one yet.
fn assumed_key(name: &str) -> PublicKey {
    let mut bytes = [0; 32];
    for (salt, part) in bytes.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (salt, name).hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    PublicKey::new(bytes)
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(&key));
        } else {
            merge(&mut target[&key], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, version: &str, name: &str) -> Value {
        json!({"kind": kind, "apiVersion": version, "metadata": {"name": name}})
    }

    #[test]
    fn kinds_of_other_groups_are_passed_over() {
        let mut objects = Objects::default();
        assert_eq!(objects.add(object("Node", "v1", "a")), Ok(true));
        assert_eq!(
            objects.add(object("Peer", "spanwire.dev/v1alpha1", "p")),
            Ok(true)
        );
        assert_eq!(
            objects.add(object("Peer", "kilo.squat.ai/v1alpha1", "p")),
            Ok(false)
        );
        assert_eq!(objects.add(json!(["x"])), Ok(false));
        assert_eq!(objects.len(), 2);
        assert!(
            objects
                .add(object("Node", "v1", "a"))
                .unwrap_err()
                .contains("twice")
        );
        assert!(objects.add(json!({"kind": "Node", "apiVersion": "v1"})).is_err());
    }

    #[test]
    fn what_is_applied_leaves_what_it_does_not_name_and_is_younger_than_what_is_there() {
        let mut objects = Objects::default();
        let mut before = object("Node", "v1", "a");
        before["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        before["spec"] = json!({"podCIDRs": ["10.244.1.0/24"], "unschedulable": true});
        objects.add(before).unwrap();
        let mut others = Objects::default();
        let mut change = object("Node", "v1", "a");
        change["spec"] = json!({"unschedulable": null});
        others.add(change).unwrap();
        others.add(object("Node", "v1", "b")).unwrap();
        objects.apply(others);
        let a = objects.get(Kind::Node, "a").unwrap();
        assert_eq!(a["spec"], json!({"podCIDRs": ["10.244.1.0/24"]}));
        assert_eq!(a["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
        let reading = objects.read(&Settings::default(), ClusterFacts::default(), &Objects::default());
        let created = |name: &str| reading.facts.nodes[&name.parse().unwrap()].created;
        assert!(created("b") > created("a"));
    }

    #[test]
    fn nodes_of_a_file_are_taken_for_alive_and_have_keys_of_their_own() {
        let mut objects = Objects::default();
        objects.add(object("Node", "v1", "a")).unwrap();
        objects.add(object("Node", "v1", "b")).unwrap();
        let reading = objects.read(&Settings::default(), ClusterFacts::default(), &Objects::default());
        let [a, b] = ["a", "b"].map(|name| reading.facts.nodes[&name.parse().unwrap()].clone());
        assert!(a.alive && a.public_key.is_some() && a.public_key != b.public_key);
        assert_eq!(reading.assumed, ["a", "b"]);
        // One that the cluster has, and of which nothing was heard, has none.
        let known = objects.clone();
        let reading = objects.read(&Settings::default(), ClusterFacts::default(), &known);
        assert_eq!(reading.facts.nodes[&"a".parse().unwrap()].public_key, None);
    }
}
