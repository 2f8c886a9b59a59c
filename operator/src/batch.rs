//! What is to be written, as data. The state decides upon it, the publisher does it.

use spanwire_crds::{LocationSliceSpec, LocationStatus, MeshNodeSpec, PeerStatus};
use spanwire_topology::Mesh;

/// The object on which a write was decided; `None`: that there is no such object. A write fails where that is no longer
/// so.
pub type Version = Option<ObjectVersion>;

/// An object as it was seen. The uid counts too: the API server would create anew what was applied to a version of an
/// object that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub version: String,
}

/// What a decision leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The mesh as decided.
    pub mesh: Mesh,
    /// What is to be written: a phase only after the one before, its parts in any order.
    pub phases: Vec<Vec<Write>>,
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
    /// Tells an agent what concerns it.
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
    /// Removes the MeshNode of a Node that is gone.
    DeleteMeshNode(Target),
    /// Creates a Location that a node mentions.
    CreateLocation {
        /// Its name.
        name: String,
    },
    /// Removes a Location that was created for a mention that is gone.
    DeleteLocation(Target),
    /// Says what became of a Location.
    LocationStatus {
        /// Its name.
        name: String,
        /// What is there now.
        version: Version,
        /// What is to be there.
        status: LocationStatus,
    },
    /// Says what became of a Peer; agents follow it.
    PeerStatus {
        /// Its name.
        name: String,
        /// What is there now.
        version: Version,
        /// What is to be there.
        status: PeerStatus,
    },
    /// Tells people, once, what was not granted.
    Event(Notice),
}

/// An object that is to be removed, as it was when that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// How it was seen.
    pub seen: ObjectVersion,
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
            Self::DeleteMeshNode(_) => "delete_mesh_node",
            Self::CreateLocation { .. } => "create_location",
            Self::DeleteLocation(_) => "delete_location",
            Self::LocationStatus { .. } => "location_status",
            Self::PeerStatus { .. } => "peer_status",
            Self::Event(_) => "event",
        }
    }

    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Slice { name, .. }
            | Self::MeshNode { name, .. }
            | Self::CreateLocation { name }
            | Self::LocationStatus { name, .. }
            | Self::PeerStatus { name, .. } => name,
            Self::DeleteSlice(target) | Self::DeleteMeshNode(target) | Self::DeleteLocation(target) => {
                &target.name
            }
            Self::Event(notice) => &notice.name,
        }
    }
}
