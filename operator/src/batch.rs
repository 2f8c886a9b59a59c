//! What is to be written, as data. The state decides upon it, the queue orders it, the writer carries it out.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use spanwire_crds::{LocationSliceSpec, LocationStatus, MeshNodeSpec, PeerStatus};
use spanwire_topology::Generation;

/// The object on which a write was decided; `None`: that there is no such object. A write fails where that is no longer
/// so.
pub type Version = Option<ObjectVersion>;

/// A version of an object. The uid counts too: the API server would recreate what was applied to a version of an object
/// that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub version: String,
}

/// What a decision leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Which decision this is.
    pub generation: Generation,
    /// What agents derive the mesh from: a phase only after the one before, its parts in any order.
    pub phases: Vec<Vec<Write>>,
    /// Everything else, in any order, each on its own. All writes of Locations and Peers, and of what MeshNodes say of claims,
    /// that are due are here; of MeshNodes themselves those that were decided upon.
    pub rest: Vec<Write>,
    /// MeshNodes that were decided upon and need no write: one that waits is no longer wanted.
    pub settled: BTreeSet<ObjectKey>,
    /// Everything that is wrong now, for Events; at most one for each field of an object. Nothing waits for these.
    pub notices: Vec<Notice>,
}

/// Which object a write is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
}

/// The kinds of the objects that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A LocationSlice.
    Slice,
    /// A MeshNode.
    MeshNode,
    /// What a MeshNode says of its node's claims: its agent's part and the spec are written apart from that.
    MeshNodeStatus,
    /// A Location.
    Location,
    /// A Peer.
    Peer,
}

impl Batch {
    /// All writes, those that have to be done first first.
    pub fn into_writes(self) -> impl Iterator<Item = Write> {
        self.phases.into_iter().flatten().chain(self.rest)
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.phases.is_empty() && self.rest.is_empty()
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Publishes a LocationSlice.
    Slice {
        /// Its name.
        name: String,
        /// What is there now.
        version: Version,
        /// What is to be there.
        spec: LocationSliceSpec,
    },
    /// Removes a LocationSlice.
    DeleteSlice(Target),
    /// Gives an agent what concerns it.
    MeshNode {
        /// Its name, which is the node's.
        name: String,
        /// What is there now.
        version: Version,
        /// The uid of the Node, with which it goes.
        node_uid: String,
        /// What is to be there.
        spec: MeshNodeSpec,
    },
    /// Reports on the MeshNode what became of its node's claims.
    MeshNodeStatus {
        /// Its name, which is the node's.
        name: String,
        /// What is there now.
        version: Version,
        /// The condition that is to be there.
        condition: Box<Condition>,
    },
    /// Removes the MeshNode of a Node that is gone.
    DeleteMeshNode(Target),
    /// Creates a Location that a node mentions.
    CreateLocation {
        /// Its name.
        name: String,
    },
    /// Removes a Location that was created for a mention that is gone.
    DeleteLocation(Target),
    /// Reports what became of a Location.
    LocationStatus {
        /// Its name.
        name: String,
        /// What is there now.
        version: Version,
        /// What is to be there.
        status: LocationStatus,
    },
    /// Reports what became of a Peer; agents follow it.
    PeerStatus {
        /// Its name.
        name: String,
        /// What is there now.
        version: Version,
        /// What is to be there.
        status: PeerStatus,
    },
}

/// An object that is to be removed, as it was when that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: ObjectVersion,
}

/// An Event on an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// The group and version of the object.
    pub api_version: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Why.
    pub reason: &'static str,
    /// The field that it is about.
    pub field: String,
    /// What is wrong, and what to do.
    pub note: String,
}

impl Write {
    /// Which kind of write it is, for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Slice { .. } => "slice",
            Self::DeleteSlice(_) => "delete_slice",
            Self::MeshNode { .. } => "mesh_node",
            Self::MeshNodeStatus { .. } => "mesh_node_status",
            Self::DeleteMeshNode(_) => "delete_mesh_node",
            Self::CreateLocation { .. } => "create_location",
            Self::DeleteLocation(_) => "delete_location",
            Self::LocationStatus { .. } => "location_status",
            Self::PeerStatus { .. } => "peer_status",
        }
    }

    /// The object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let kind = match self {
            Self::Slice { .. } | Self::DeleteSlice(_) => ObjectKind::Slice,
            Self::MeshNode { .. } | Self::DeleteMeshNode(_) => ObjectKind::MeshNode,
            Self::MeshNodeStatus { .. } => ObjectKind::MeshNodeStatus,
            Self::CreateLocation { .. } | Self::DeleteLocation(_) | Self::LocationStatus { .. } => {
                ObjectKind::Location
            }
            Self::PeerStatus { .. } => ObjectKind::Peer,
        };
        ObjectKey {
            kind,
            name: self.name().to_owned(),
        }
    }

    /// Whether the other write would leave the same object behind, whatever version each was decided on.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Slice { spec: one, .. }, Self::Slice { spec: other, .. }) => one == other,
            (
                Self::MeshNode {
                    spec: one, node_uid, ..
                },
                Self::MeshNode {
                    spec: other,
                    node_uid: other_uid,
                    ..
                },
            ) => (one, node_uid) == (other, other_uid),
            (Self::MeshNodeStatus { condition: one, .. }, Self::MeshNodeStatus { condition: other, .. }) => {
                one == other
            }
            (Self::LocationStatus { status: one, .. }, Self::LocationStatus { status: other, .. }) => {
                one == other
            }
            (Self::PeerStatus { status: one, .. }, Self::PeerStatus { status: other, .. }) => one == other,
            _ => self == other,
        }
    }

    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Slice { name, .. }
            | Self::MeshNode { name, .. }
            | Self::MeshNodeStatus { name, .. }
            | Self::CreateLocation { name }
            | Self::LocationStatus { name, .. }
            | Self::PeerStatus { name, .. } => name,
            Self::DeleteSlice(target) | Self::DeleteMeshNode(target) | Self::DeleteLocation(target) => {
                &target.name
            }
        }
    }
}
