//! The LocationSlice: the published decision, from which agents derive everything.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spanwire_topology::LeaderRole;

use crate::{
    location::{Hop, Mode},
    schema,
};

/// A part of the published decision: the head of a location, or up to a hundred of its members. Written by the
/// operator alone.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spanwire.dev",
    version = "v1alpha1",
    kind = "LocationSlice",
    shortname = "locslice",
    category = "spanwire",
    derive = "PartialEq",
    doc = "A part of the published decision. Written by the operator alone.",
    printcolumn(name = "Location", type_ = "string", json_path = ".spec.location"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".spec.head.leaders[0].node"),
    printcolumn(
        name = "Generation",
        type_ = "integer",
        json_path = ".spec.head.meshGeneration"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LocationSliceSpec {
    /// The location that this is a part of.
    pub location: String,
    /// What holds for the whole location. Exactly one slice of a location has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// Nodes of the location. The slice with the head has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub members: Vec<SliceMember>,
}

/// What holds for a whole location.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The decision that last changed this head.
    #[schemars(schema_with = "schema::generation")]
    pub mesh_generation: u64,
    /// The leaders in order of preference, active ones first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaders: Vec<SliceLeader>,
    /// The settings as decided.
    #[serde(default)]
    pub settings: SliceSettings,
    /// The other locations with which traffic is in the tunnel or nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub established: Vec<String>,
    /// The slices with the members of the location. One that is named here and is not there was deleted by mistake: what it
    /// said holds until it is published again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_slices: Vec<String>,
}

/// A leader and its part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SliceLeader {
    /// The node that leads.
    pub node: String,
    /// Whether it carries traffic.
    pub role: Role,
}

/// The part of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// Carries traffic.
    Active,
    /// Is connected, and takes over when it becomes active.
    Standby,
    /// What a newer version calls by a name that this one does not know. It is never written.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl From<LeaderRole> for Role {
    fn from(role: LeaderRole) -> Self {
        match role {
            LeaderRole::Active => Self::Active,
            LeaderRole::Standby => Self::Standby,
        }
    }
}

impl From<Role> for LeaderRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Active => Self::Active,
            // Connected is what a leader of every kind is; that it carries traffic is not known.
            Role::Standby | Role::Unknown => Self::Standby,
        }
    }
}

/// The settings of a location as decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceSettings {
    /// Who leads whom.
    #[serde(default)]
    pub mesh: Mode,
    /// Where the first active leader is reached from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Accepted networks, other than those of pods and nodes, reachable here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// What comes from elsewhere to `cidrs` gets the leader's own address there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub masquerade: bool,
    /// How followers and leaders hand packets to each other. Absent: as the CNI carries them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<Hop>,
    /// Seconds between keepalives, where a member does not say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
}

/// A node with the prefixes that live behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceMember {
    /// The node.
    pub node: String,
    /// The decision that last changed this member. Where a node or a prefix is seen twice, the higher one counts.
    #[schemars(schema_with = "schema::generation")]
    pub generation: u64,
    /// Its own addresses that the mesh routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The networks of its pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Its overlay addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlay: Vec<String>,
    /// Where followers send packets for this node when it leads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hop_addresses: Vec<String>,
    /// The largest packet that its network takes on the ways to other locations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub mtu: Option<u16>,
    /// Its WireGuard key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Where others reach its WireGuard, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// The UDP port of its WireGuard.
    pub listen_port: u16,
    /// Seconds between keepalives of its tunnels, where it has a setting of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
}
