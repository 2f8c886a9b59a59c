//! From a decision to what is to be written: only what differs from what is there, added before removed.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_crds::{LocationSliceSpec, MeshNodeSpec, Role, SliceLeader, publication};
use spanwire_topology::{Decision, Location, LocationName, Member, Mesh, NodeName};

use super::{Now, OperatorState, records::SliceRecord};
use crate::batch::Write;

/// Writes of slices, in the order in which they have to be done.
#[derive(Debug, Default)]
struct SliceWrites {
    /// Heads that name a leader that is on its way from one location to another.
    announced: Vec<Write>,
    members: Vec<Write>,
    heads: Vec<Write>,
    removed: Vec<Write>,
}

impl OperatorState {
    /// Members first, then who leads them, then what goes; agents can use a member without a leader and not the other
    /// way round. A leader that moves is different: where it is going it is announced as a leader before it arrives, and
    /// where it comes from it stays one until it has left, so that in no mixture its tunnels are gone for a moment and
    /// their sessions with them. What only people read comes last.
    pub(super) fn writes(&mut self, decision: &Decision, now: Now) -> Vec<Vec<Write>> {
        let SliceWrites {
            announced,
            members,
            heads,
            mut removed,
        } = self.slice_writes(&decision.mesh);
        let told = self.told(decision);
        let mut people = self.location_statuses(decision, &told, now);
        let (followed, rest) = self.peer_statuses(decision, &told, now);
        people.extend(rest);
        people.extend(self.notices(told));
        let mut leading = heads;
        leading.extend(followed);
        removed.extend(self.mesh_node_writes(&decision.mesh));
        removed.extend(self.location_writes(&decision.mesh));
        let phases = [announced, members, leading, removed, people];
        phases.into_iter().filter(|phase| !phase.is_empty()).collect()
    }

    fn slice_writes(&self, mesh: &Mesh) -> SliceWrites {
        let published: BTreeMap<&str, &LocationSliceSpec> = self
            .slices
            .objects()
            .iter()
            .map(|(name, record)| (name.as_str(), &record.spec))
            .collect();
        let wanted = publication::slices(mesh, &published);
        let moving = moving(&wanted, &published);
        let mut writes = SliceWrites::default();
        let still = |record: &SliceRecord| {
            record
                .spec
                .members
                .iter()
                .any(|member| moving.contains(&member.node))
        };
        for (name, record) in self.slices.objects() {
            if !wanted.contains_key(name) && !still(record) {
                let target = record.revision.target(name);
                writes.removed.push(Write::DeleteSlice(target));
            }
        }
        for (name, mut spec) in wanted {
            let record = self.slices.get(&name);
            if let Some(record) = record {
                keep(&mut spec, record, &moving);
            }
            if record.is_some_and(|record| record.spec == spec) {
                continue;
            }
            let phase = match &spec.head {
                Some(head) if head.leaders.iter().any(|leader| moving.contains(&leader.node)) => {
                    &mut writes.announced
                }
                Some(_) => &mut writes.heads,
                None => &mut writes.members,
            };
            phase.push(Write::Slice {
                version: record.map(|record| record.revision.version()),
                name,
                spec,
            });
        }
        writes
    }

    fn mesh_node_writes(&self, mesh: &Mesh) -> Vec<Write> {
        let mut writes = Vec::new();
        let members: BTreeMap<&NodeName, (&LocationName, &Location, &Member)> = mesh
            .locations
            .iter()
            .flat_map(|(name, location)| {
                let entry = move |(node, member)| (node, (name, location, member));
                location.members.iter().map(entry)
            })
            .collect();
        for (name, node) in self.nodes.objects() {
            let mut spec = members
                .get(name)
                .map(|(location, settings, member)| mesh_node(location, settings, name, member))
                .unwrap_or_default();
            let known = self.mesh_nodes.get(name);
            spec.retire = known.is_some_and(|known| known.spec.retire) && !self.unretires(name);
            if known.is_some_and(|known| known.spec == spec && known.node_uid.as_ref() == Some(&node.uid)) {
                continue;
            }
            writes.push(Write::MeshNode {
                name: name.to_string(),
                version: known.map(|known| known.revision.version()),
                node_uid: node.uid.clone(),
                spec,
            });
        }
        for (name, record) in self.mesh_nodes.objects() {
            if self.nodes.get(name).is_none() {
                writes.push(Write::DeleteMeshNode(record.revision.target(name.as_str())));
            }
        }
        writes
    }

    fn unretires(&self, node: &NodeName) -> bool {
        self.unretire.as_ref().is_some_and(|nodes| nodes.contains(node))
    }

    fn location_writes(&self, mesh: &Mesh) -> Vec<Write> {
        let mut writes = Vec::new();
        for (name, location) in &mesh.locations {
            match self.locations.get(name) {
                None if !location.members.is_empty() => {
                    writes.push(Write::CreateLocation {
                        name: name.to_string(),
                    });
                }
                Some(record) if record.disposable && location.members.is_empty() => {
                    writes.push(Write::DeleteLocation(record.revision.target(name.as_str())));
                }
                None | Some(_) => {}
            }
        }
        writes
    }
}

/// What the agent of a member is told.
fn mesh_node(name: &LocationName, location: &Location, node: &NodeName, member: &Member) -> MeshNodeSpec {
    let texts = |items: &BTreeSet<std::net::IpAddr>| items.iter().map(ToString::to_string).collect();
    MeshNodeSpec {
        location: Some(name.to_string()),
        role: location.role(node).map(Role::from),
        overlay: texts(&member.overlay),
        addresses: texts(&member.addresses),
        listen_port: Some(member.listen_port),
        endpoints: member.endpoints.iter().map(ToString::to_string).collect(),
        persistent_keepalive: member
            .keepalive
            .or(location.settings.keepalive)
            .map(|seconds| seconds.0),
        retire: false,
    }
}

/// The members that are to sit in a slice that does not have them yet, and sit in another one.
fn moving(
    wanted: &BTreeMap<String, LocationSliceSpec>,
    published: &BTreeMap<&str, &LocationSliceSpec>,
) -> BTreeSet<String> {
    let mut sits: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, spec) in published {
        for member in &spec.members {
            sits.entry(member.node.as_str()).or_default().insert(name);
        }
    }
    let mut moving = BTreeSet::new();
    for (name, spec) in wanted {
        for member in &spec.members {
            if sits
                .get(member.node.as_str())
                .is_some_and(|slices| !slices.contains(name.as_str()))
            {
                moving.insert(member.node.clone());
            }
        }
    }
    moving
}

/// Keeps members that have not arrived in their new slice, as members and, if they are, as leaders.
fn keep(spec: &mut LocationSliceSpec, record: &SliceRecord, moving: &BTreeSet<String>) {
    if let (Some(head), Some(published)) = (&mut spec.head, &record.spec.head) {
        for leader in &published.leaders {
            let here = head.leaders.iter().any(|wanted| wanted.node == leader.node);
            if moving.contains(&leader.node) && !here {
                head.leaders.push(SliceLeader {
                    node: leader.node.clone(),
                    role: Role::Standby,
                });
            }
        }
    }
    for member in &record.spec.members {
        let here = spec.members.iter().any(|wanted| wanted.node == member.node);
        if moving.contains(&member.node) && !here {
            spec.members.push(member.clone());
        }
    }
    spec.members.sort_by(|a, b| a.node.cmp(&b.node));
}
