//! What the agent of each node is to be given in its MeshNode's spec: rendered where its member or its object changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use spanwire_crds::{MeshNodeSpec, Role};
use spanwire_topology::{Location, LocationName, Member, Mesh, NodeName};

use super::{OperatorState, records::MeshNodeRecord};
use crate::batch::{Batch, ObjectKey, ObjectKind, Write};

/// Which node is a member of which location, and whose MeshNode may differ from that.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    locations: BTreeMap<LocationName, Location>,
    homes: BTreeMap<NodeName, LocationName>,
    /// Nodes whose MeshNode has to be compared with what it is to be.
    unsettled: BTreeSet<NodeName>,
}

impl Assignments {
    /// The MeshNode of this node has to be compared with what it is to be.
    pub(super) fn unsettle(&mut self, node: NodeName) {
        self.unsettled.insert(node);
    }

    /// The location of a node in the last decision.
    pub(super) fn home(&self, node: &NodeName) -> Option<&LocationName> {
        self.homes.get(node)
    }

    fn member(&self, node: &NodeName) -> Option<(&LocationName, &Location, &Member)> {
        let (name, location) = self.locations.get_key_value(self.homes.get(node)?)?;
        Some((name, location, location.members.get(node)?))
    }

    /// Follows a decision. Only locations whose members, leaders or keepalive changed are looked into.
    fn follow(&mut self, mesh: &Mesh) {
        let before = std::mem::replace(&mut self.locations, mesh.locations.clone());
        let nothing = Location::default();
        for (name, location) in &before {
            let now = mesh.locations.get(name).unwrap_or(&nothing);
            if Arc::ptr_eq(&location.members, &now.members) {
                continue;
            }
            for node in location
                .members
                .keys()
                .filter(|node| !now.members.contains_key(*node))
            {
                if self.homes.get(node) == Some(name) {
                    self.homes.remove(node);
                }
                self.unsettled.insert(node.clone());
            }
        }
        for (name, location) in &mesh.locations {
            let was = before.get(name).unwrap_or(&nothing);
            if was.leaders != location.leaders {
                let leaders = was.leaders.iter().chain(&location.leaders);
                self.unsettled.extend(leaders.map(|leader| leader.node.clone()));
            }
            let keepalive = was.settings.keepalive != location.settings.keepalive;
            if Arc::ptr_eq(&was.members, &location.members) && !keepalive {
                continue;
            }
            for (node, member) in location.members.iter() {
                let known = was.members.get(node);
                if known.is_none() {
                    self.homes.insert(node.clone(), name.clone());
                }
                if keepalive || known != Some(member) {
                    self.unsettled.insert(node.clone());
                }
            }
        }
    }
}

impl OperatorState {
    /// Adds the writes of MeshNodes to a batch.
    pub(super) fn mesh_node_writes(&mut self, mesh: &Mesh, batch: &mut Batch) {
        self.assignments.follow(mesh);
        for name in std::mem::take(&mut self.assignments.unsettled) {
            match self.mesh_node_write(&name) {
                Some(write) => batch.rest.push(write),
                None => {
                    batch.settled.insert(ObjectKey {
                        kind: ObjectKind::MeshNode,
                        name: name.to_string(),
                    });
                }
            }
        }
    }

    /// What is to be written of a MeshNode, where it is not as it is to be.
    pub(super) fn mesh_node_write(&self, name: &NodeName) -> Option<Write> {
        let known = self.mesh_nodes.get(name);
        let Some(node) = self.nodes.get(name) else {
            if self.unreadable.contains("Node", name.as_str()) {
                return None;
            }
            return known.map(|record| Write::DeleteMeshNode(record.revision.target(name.as_str())));
        };
        let member = self.assignments.member(name);
        let mut spec = member
            .map(|(location, settings, member)| mesh_node(location, settings, name, member))
            .unwrap_or_default();
        spec.boot_id.clone_from(&node.boot);
        spec.retire = known.is_some_and(MeshNodeRecord::retires) && !self.unretires(name);
        if known.is_some_and(|known| {
            known.spec.as_ref() == Some(&spec) && known.node_uid.as_ref() == Some(&node.uid)
        }) {
            return None;
        }
        Some(Write::MeshNode {
            name: name.to_string(),
            version: known.map(|known| known.revision.version()),
            node_uid: node.uid.clone(),
            spec,
        })
    }

    fn unretires(&self, node: &NodeName) -> bool {
        self.unretire.as_ref().is_some_and(|nodes| nodes.contains(node))
    }
}

/// What the agent of a member is given.
fn mesh_node(name: &LocationName, location: &Location, node: &NodeName, member: &Member) -> MeshNodeSpec {
    let texts = |items: &BTreeSet<IpAddr>| items.iter().map(ToString::to_string).collect();
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
        ..MeshNodeSpec::default()
    }
}
