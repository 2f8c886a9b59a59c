//! What is kept of each object: what is decided upon, and no more.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use spanwire_cluster::store::Record;
use spanwire_crds::{
    FieldProblem, Location, LocationSlice, LocationSliceSpec, LocationSpec, LocationStatus, MeshNode,
    MeshNodeSpec, Peer, PeerStatus,
    publication::MANAGED_LABEL,
    translate::{self, Node, NodeOptions, Report},
};
use spanwire_topology::{LocationFact, LocationName, NodeFact, NodeName, PeerFact, PeerName};

use crate::batch::{ObjectVersion, Target};

/// Which object, and which version of it: what a write or a deletion must name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revision {
    pub(crate) uid: String,
    pub(crate) version: String,
    pub(crate) generation: Option<i64>,
}

impl Revision {
    fn of(metadata: &ObjectMeta) -> Self {
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata.resource_version.clone().unwrap_or_default(),
            generation: metadata.generation,
        }
    }

    /// Whether nothing that matters differs: the version changes with every write, also of what does not matter.
    fn same(&self, other: &Self) -> bool {
        (&self.uid, self.generation) == (&other.uid, other.generation)
    }

    pub(crate) fn version(&self) -> ObjectVersion {
        ObjectVersion {
            uid: self.uid.clone(),
            version: self.version.clone(),
        }
    }

    pub(crate) fn target(&self, name: &str) -> Target {
        Target {
            name: name.to_owned(),
            version: self.version(),
        }
    }
}

/// A Node, but for its fact, which is kept where it is decided upon.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeRecord {
    pub(crate) uid: String,
    /// Its Ready condition.
    pub(crate) ready: bool,
    pub(crate) problems: Vec<FieldProblem>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MeshNodeRecord {
    pub(crate) revision: Revision,
    pub(crate) node_uid: Option<String>,
    pub(crate) spec: MeshNodeSpec,
    pub(crate) report: Report,
    pub(crate) problems: Vec<FieldProblem>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LocationRecord {
    pub(crate) revision: Revision,
    /// The operator created it, and no user said more about it.
    pub(crate) disposable: bool,
    pub(crate) status: Option<LocationStatus>,
    pub(crate) fact: LocationFact,
    pub(crate) problems: Vec<FieldProblem>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PeerRecord {
    pub(crate) revision: Revision,
    pub(crate) status: Option<PeerStatus>,
    pub(crate) fact: Option<PeerFact>,
    pub(crate) problems: Vec<FieldProblem>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SliceRecord {
    pub(crate) revision: Revision,
    pub(crate) spec: LocationSliceSpec,
}

impl Record for NodeRecord {
    fn version(&self) -> Option<&str> {
        None
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn renew(&mut self, newer: Self) {
        *self = newer;
    }
}

macro_rules! versioned {
    ($record:ident: $($field:ident),+) => {
        impl Record for $record {
            fn version(&self) -> Option<&str> {
                Some(&self.revision.version)
            }

            fn same(&self, other: &Self) -> bool {
                self.revision.same(&other.revision) $(&& self.$field == other.$field)+
            }

            fn renew(&mut self, newer: Self) {
                *self = newer;
            }
        }
    };
}

versioned!(MeshNodeRecord: node_uid, spec, report, problems);
versioned!(LocationRecord: disposable, status, fact, problems);
versioned!(PeerRecord: status, fact, problems);
versioned!(SliceRecord: spec);

impl LocationRecord {
    /// Whether nothing but the status differs.
    pub(crate) fn same_but_status(&self, other: &Self) -> bool {
        self.revision.same(&other.revision)
            && self.disposable == other.disposable
            && self.fact == other.fact
            && self.problems == other.problems
    }
}

impl PeerRecord {
    /// Whether nothing but the status differs.
    pub(crate) fn same_but_status(&self, other: &Self) -> bool {
        self.revision.same(&other.revision) && self.fact == other.fact && self.problems == other.problems
    }
}

pub(crate) fn node(object: &Node, options: &NodeOptions) -> Option<(NodeName, NodeRecord, NodeFact)> {
    let translated = translate::node(object, options);
    let record = NodeRecord {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        ready: translated.fact.alive,
        problems: translated.problems,
    };
    Some((name(&object.metadata)?, record, translated.fact))
}

pub(crate) fn mesh_node(object: MeshNode) -> Option<(NodeName, MeshNodeRecord)> {
    let owners = object.metadata.owner_references.iter().flatten();
    let mut node_uid = owners
        .filter(|owner| owner.kind == "Node")
        .map(|owner| owner.uid.clone());
    let translated = translate::report(&object.status.unwrap_or_default());
    let record = MeshNodeRecord {
        revision: Revision::of(&object.metadata),
        node_uid: node_uid.next_back(),
        spec: object.spec,
        report: translated.fact,
        problems: translated.problems,
    };
    Some((name(&object.metadata)?, record))
}

pub(crate) fn location(object: Location) -> Option<(LocationName, LocationRecord)> {
    let labels = object.metadata.labels.iter().flatten();
    let managed = labels
        .filter(|(key, _)| *key == MANAGED_LABEL)
        .any(|(_, value)| value == "true");
    let translated = translate::location(&object);
    let record = LocationRecord {
        revision: Revision::of(&object.metadata),
        disposable: managed && object.spec == LocationSpec::default(),
        status: object.status,
        fact: translated.fact,
        problems: translated.problems,
    };
    Some((name(&object.metadata)?, record))
}

pub(crate) fn peer(object: Peer) -> Option<(PeerName, PeerRecord)> {
    let translated = translate::peer(&object);
    let record = PeerRecord {
        revision: Revision::of(&object.metadata),
        status: object.status,
        fact: translated.fact,
        problems: translated.problems,
    };
    Some((name(&object.metadata)?, record))
}

pub(crate) fn slice(object: LocationSlice) -> Option<(String, SliceRecord)> {
    let record = SliceRecord {
        revision: Revision::of(&object.metadata),
        spec: object.spec,
    };
    Some((object.metadata.name?, record))
}

fn name<T: std::str::FromStr>(metadata: &ObjectMeta) -> Option<T> {
    metadata.name.as_deref()?.parse().ok()
}
