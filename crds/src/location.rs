//! The Location: what the user wants of a location, and a status for people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spanwire_topology::{HopMode, MeshMode};

use crate::schema;

/// What the user wants of a location: a set of nodes that reach each other without help. The operator creates one
/// for every location that a node mentions; create it first to say more.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spanwire.dev",
    version = "v1alpha1",
    kind = "Location",
    shortname = "loc",
    category = "spanwire",
    status = "LocationStatus",
    derive = "PartialEq",
    doc = "A set of nodes that reach each other without help, and what is wanted of it.",
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leaders[0]"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct LocationSpec {
    /// Nodes that belong here, unless a node's annotation `spanwire.dev/location` says otherwise. Without it, no node
    /// is selected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Leaders: a few leaders carry the traffic of all. Nodes: every node leads itself, and traffic inside the
    /// location is encrypted too.
    #[serde(default)]
    pub mesh: Mode,
    /// How many leaders there are, and which nodes may lead.
    #[serde(default)]
    pub leaders: Leaders,
    /// Where the first active leader is reached from outside, as host:port. The other leaders can only initiate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::endpoint")]
    pub endpoint: Option<String>,
    /// Networks, other than those of pods and nodes, that are reachable here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::prefixes")]
    pub cidrs: Vec<String>,
    /// What comes to `cidrs` from pods, nodes and Peers elsewhere gets the address that the leader has there: for machines that have
    /// no route back. Without it they see who sends, and need routes to the mesh by way of the location's leaders.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub masquerade: bool,
    /// How its followers and leaders hand packets of the mesh to each other. Auto: by a VXLAN of Spanwire's own where pod networks
    /// are the addresses of Pods or Cilium's, or where its nodes are a cloud's and no agent has found a device of the CNI between them when
    /// it gets its first leaders; else as CNI. CNI: as the CNI carries packets between nodes, or by the LAN as it is where the CNI has
    /// no device for that. VXLAN: by that VXLAN, UDP port 51830.
    #[serde(default, skip_serializing_if = "Hop::is_auto")]
    pub hop: Hop,
    /// The networks in which its nodes have their addresses. A node that claims another address gets all but that one.
    /// Without it they have private addresses of any network; public ones have to be named here.
    #[serde(default, rename = "nodeCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::prefixes")]
    pub node_cidrs: Vec<String>,
    /// Seconds between keepalives of the tunnels from here, where a node does not say otherwise. 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::keepalive")]
    pub persistent_keepalive: Option<u16>,
}

/// Who leads whom in a location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// A few leaders carry the traffic of all.
    #[default]
    Leaders,
    /// Every node leads itself; traffic inside the location is encrypted too.
    Nodes,
    /// What a newer version calls by a name that this one does not know. It is never written.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl From<MeshMode> for Mode {
    fn from(mode: MeshMode) -> Self {
        match mode {
            MeshMode::Leaders => Self::Leaders,
            MeshMode::Nodes => Self::Nodes,
        }
    }
}

impl From<Mode> for MeshMode {
    fn from(mode: Mode) -> Self {
        match mode {
            // A mode of a newer version is taken for the one that every version has.
            Mode::Leaders | Mode::Unknown => Self::Leaders,
            Mode::Nodes => Self::Nodes,
        }
    }
}

/// How followers and leaders of a location hand packets of the mesh to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Hop {
    /// As suits where pod networks come from.
    #[default]
    Auto,
    /// As the CNI carries packets between nodes.
    #[serde(rename = "CNI")]
    Cni,
    /// By a VXLAN of Spanwire's own.
    #[serde(rename = "VXLAN")]
    Vxlan,
    /// What a newer version calls by a name that this one does not know. It is never written.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl Hop {
    /// Whether it is what an object without it means.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl From<HopMode> for Hop {
    fn from(hop: HopMode) -> Self {
        match hop {
            HopMode::Cni => Self::Cni,
            HopMode::Vxlan => Self::Vxlan,
        }
    }
}

/// How many leaders there are, and which nodes may lead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Leaders {
    /// How many leaders carry traffic at a time; with more than one the members are spread over them.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32))]
    pub active: u16,
    /// How many more leaders stand by.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 32))]
    pub standby: u16,
    /// Which nodes of the location may lead. Without it, all may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

const fn one() -> u16 {
    1
}

impl Default for Leaders {
    fn default() -> Self {
        Self {
            active: one(),
            standby: one(),
            node_selector: None,
        }
    }
}

/// For people; the decision itself is published in LocationSlices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocationStatus {
    /// The leaders in order of preference, active ones first. Where every node leads, the first few of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub leaders: Vec<String>,
    /// Where the first active leader is reached from outside: as named, or at a public address. Empty: at neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub endpoint: Option<String>,
    /// How many nodes are here.
    #[serde(default)]
    pub nodes: u32,
    /// The other locations with which traffic is in the tunnel or nowhere, as published in the LocationSlice. Kept here too,
    /// for the operator to find where the LocationSlices were deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(max = 63)))]
    pub established: Vec<String>,
    /// Ready, LeaderElected, Connected, Accepted, PodNetworks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
