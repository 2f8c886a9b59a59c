//! What is kept of each object: what is decided upon, and no more.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use spanwire_cluster::{observed::Observed, store::Record};
use spanwire_crds::{
    FieldProblem, Location, LocationSlice, LocationSliceSpec, LocationSpec, LocationStatus, MeshNode,
    MeshNodeSpec, Peer, PeerStatus,
    annotations::{INTERNAL_IP, LOCATION_CIDRS, key_found},
    conditions::{ConditionType, is_known},
    publication::MANAGED_LABEL,
    translate::{self, Node, NodeAddressOfCni, NodeOptions, Report},
};
use spanwire_topology::{LocationFact, LocationName, NodeFact, NodeName, PeerFact, PeerName, Prefix};

use crate::{
    batch::{ObjectVersion, Target},
    installation::Installation,
};

/// Of how many fields of an object problems are kept.
const FIELDS: usize = 16;
/// Of how many values of a field.
pub(super) const VALUES: usize = 4;

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
    /// The boot that its machine is in, where its kubelet names it.
    pub(crate) boot: Option<String>,
    /// What it says of its pod networks, which count unless a CNI says it elsewhere.
    pub(crate) pod_cidrs: BTreeSet<Prefix>,
    /// By which addresses CNIs know it, where it has none of them itself.
    pub(crate) addresses_of_cnis: Vec<NodeAddressOfCni>,
    /// The annotation that names its addresses, if one does.
    pub(crate) internal_key: &'static str,
    /// The annotation that names networks of its location, if one does.
    pub(crate) cidrs_key: &'static str,
    pub(crate) problems: Vec<FieldProblem>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MeshNodeRecord {
    pub(crate) revision: Revision,
    pub(crate) node_uid: Option<String>,
    /// `None`: it cannot be read, and is to be written again.
    pub(crate) spec: Option<MeshNodeSpec>,
    pub(crate) report: Report,
    /// Which generation of the spec the agent has seen.
    pub(crate) seen: Option<i64>,
    /// What the operator said of the claims of the node.
    pub(crate) accepted: Option<Condition>,
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
    pub(crate) fact: PeerFact,
    pub(crate) problems: Vec<FieldProblem>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SliceRecord {
    pub(crate) revision: Revision,
    /// The installation that published it, where it is a head.
    pub(crate) installation: Option<Installation>,
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

versioned!(MeshNodeRecord: node_uid, spec, report, seen, accepted, problems);
versioned!(LocationRecord: disposable, status, fact, problems);
versioned!(PeerRecord: status, fact, problems);
versioned!(SliceRecord: installation, spec);

impl MeshNodeRecord {
    /// Whether its agent has reported and has yet to follow what is written.
    pub(crate) fn is_behind(&self) -> bool {
        self.seen.is_some() && self.seen < self.revision.generation
    }

    /// Whether the agent is asked to remove every trace.
    pub(crate) fn retires(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.retire)
    }

    /// Whether its agent is given a part as a leader.
    pub(crate) fn leads(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.role.is_some())
    }
}

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

pub(crate) fn node(
    observed: Observed<Node>,
    options: &NodeOptions,
) -> Option<(NodeName, NodeRecord, NodeFact)> {
    let object = observed.object?;
    let mut translated = translate::node(&object, options);
    translated.problems.extend(observed.problems);
    let none = BTreeMap::new();
    let annotations = object.metadata.annotations.as_ref().unwrap_or(&none);
    let found = |key| key_found(annotations, key, options.kilo_annotations);
    let record = NodeRecord {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        ready: translated.fact.alive,
        boot: translate::boot(&object),
        pod_cidrs: translated.fact.prefixes.clone(),
        addresses_of_cnis: translate::addresses_of_cnis(&object),
        internal_key: found(INTERNAL_IP),
        cidrs_key: found(LOCATION_CIDRS),
        problems: bounded(translated.problems),
    };
    Some((name(&object.metadata)?, record, translated.fact))
}

/// Of one that cannot be read its revision is known, so that it can be written again.
pub(crate) fn mesh_node(observed: Observed<MeshNode>) -> Option<(NodeName, MeshNodeRecord)> {
    let owners = observed.metadata.owner_references.iter().flatten();
    let mut node_uid = owners
        .filter(|owner| owner.kind == "Node")
        .map(|owner| owner.uid.clone());
    let (spec, status) = observed.object.map(|object| (object.spec, object.status)).unzip();
    let status = status.flatten().unwrap_or_default();
    let mut translated = translate::report(&status);
    translated
        .problems
        .extend(observed.problems.into_iter().map(|problem| FieldProblem {
            field: format!("{} of its MeshNode", problem.field),
            ..problem
        }));
    let record = MeshNodeRecord {
        revision: Revision::of(&observed.metadata),
        node_uid: node_uid.next_back(),
        spec,
        report: translated.fact,
        seen: status.observed_generation,
        accepted: status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == ConditionType::Accepted.as_str()),
        problems: bounded(translated.problems),
    };
    Some((name(&observed.metadata)?, record))
}

pub(crate) fn location(observed: Observed<Location>) -> Option<(LocationName, LocationRecord)> {
    let object = observed.object?;
    let labels = object.metadata.labels.iter().flatten();
    let managed = labels
        .filter(|(key, _)| *key == MANAGED_LABEL)
        .any(|(_, value)| value == "true");
    let mut translated = translate::location(&object);
    translated.problems.extend(observed.problems);
    let record = LocationRecord {
        revision: Revision::of(&object.metadata),
        disposable: managed && object.spec == LocationSpec::default(),
        status: object.status.map(|mut status| {
            status.conditions.retain(is_known);
            status
        }),
        fact: translated.fact,
        problems: bounded(translated.problems),
    };
    Some((name(&object.metadata)?, record))
}

pub(crate) fn peer(observed: Observed<Peer>) -> Option<(PeerName, PeerRecord)> {
    let object = observed.object?;
    let mut translated = translate::peer(&object);
    translated.problems.extend(observed.problems);
    let record = PeerRecord {
        revision: Revision::of(&object.metadata),
        status: object.status.map(|mut status| {
            status.conditions.retain(is_known);
            status
        }),
        fact: translated.fact,
        problems: bounded(translated.problems),
    };
    Some((name(&object.metadata)?, record))
}

/// One that cannot be read counts as one without content, so that it is written again or removed.
pub(crate) fn slice(observed: Observed<LocationSlice>) -> Option<(String, SliceRecord)> {
    let labels = observed.metadata.labels.as_ref();
    let record = SliceRecord {
        revision: Revision::of(&observed.metadata),
        installation: labels.and_then(Installation::of_labels),
        spec: observed.object.map(|object| object.spec).unwrap_or_default(),
    };
    Some((observed.metadata.name?, record))
}

/// Returns of each field the first problems and the number of further ones, and of at most [`FIELDS`] fields: an object may
/// have tens of thousands of values that cannot be read.
fn bounded(problems: Vec<FieldProblem>) -> Vec<FieldProblem> {
    let mut fields: BTreeMap<String, (BTreeSet<String>, usize)> = BTreeMap::new();
    let mut others = 0;
    for FieldProblem { field, problem } in problems {
        if fields.len() >= FIELDS && !fields.contains_key(&field) {
            others += 1;
            continue;
        }
        let (texts, more) = fields.entry(field).or_default();
        texts.insert(problem);
        if texts.len() > VALUES {
            texts.pop_last();
            *more += 1;
        }
    }
    let mut bounded = Vec::new();
    for (field, (texts, more)) in fields {
        let problems = texts.into_iter().map(|problem| FieldProblem {
            field: field.clone(),
            problem,
        });
        bounded.extend(problems);
        if more > 0 {
            bounded.push(FieldProblem {
                field,
                problem: format!("and {more} more values"),
            });
        }
    }
    if others > 0 {
        bounded.push(FieldProblem {
            field: "other fields".to_owned(),
            problem: format!("{others} more values that cannot be used"),
        });
    }
    bounded
}

fn name<T: std::str::FromStr>(metadata: &ObjectMeta) -> Option<T> {
    metadata.name.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_field_some_values_are_kept_and_of_an_object_some_fields() {
        let problem = |field: usize, value: usize| FieldProblem {
            field: format!("field {field:05}"),
            problem: format!("value {value:05}"),
        };
        let of_one_field = bounded((0..50_000).map(|value| problem(1, value)).collect());
        let texts: Vec<String> = of_one_field.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), VALUES + 1);
        assert_eq!(texts[0], "field 00001: value 00000");
        assert_eq!(texts[VALUES], "field 00001: and 49996 more values");
        let of_many = bounded((0..50_000).map(|field| problem(field, 1)).collect());
        assert_eq!(of_many.len(), FIELDS + 1);
        assert!(of_many[FIELDS].to_string().contains("49984 more values"));
        let few: Vec<FieldProblem> = (0..3).map(|field| problem(field, 1)).collect();
        assert_eq!(bounded(few.clone()), few);
    }
}
