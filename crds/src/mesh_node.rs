//! The MeshNode: what the operator tells one agent, and what that agent reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Role, schema};

/// What the operator tells the agent of one node. Not for users to edit: annotate the Node instead.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spanwire.dev",
    version = "v1alpha1",
    kind = "MeshNode",
    shortname = "swn",
    category = "spanwire",
    status = "MeshNodeStatus",
    derive = "PartialEq",
    doc = "What the operator tells the agent of one node, and what the agent reports. Not for users to edit.",
    printcolumn(name = "Location", type_ = "string", json_path = ".spec.location"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".spec.role"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Overlay", type_ = "string", json_path = ".spec.overlay[0]"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend"),
    printcolumn(name = "CNI", type_ = "string", json_path = ".status.cni"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct MeshNodeSpec {
    /// The location of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its part, where it leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Its overlay addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlay: Vec<String>,
    /// Its own addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The UDP port of its WireGuard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Where it is reached from outside, as its annotation or its location says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Seconds between keepalives of its tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
    /// The boot that the node is in, as its Node names it: after each boot the agent has this to follow, and until it
    /// does, the node may have no part of the mesh set up.
    #[serde(rename = "bootID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub boot_id: Option<String>,
    /// The agent is to remove every trace of Spanwire from the node and to report `retired`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retire: bool,
}

/// What the agent of one node reports: on change, never on a timer. Written by that agent, but for one condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshNodeStatus {
    /// `metadata.generation` of the spec that the agent follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Its WireGuard key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::public_key")]
    pub public_key: Option<String>,
    /// The UDP port that its WireGuard listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: Option<u16>,
    /// The WireGuard in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The addresses of the CNI's device, where followers send packets for this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::addresses")]
    pub hop_addresses: Vec<String>,
    /// The largest packet that its network takes on the ways to other locations, where the agent has found that out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub mtu: Option<u16>,
    /// How the CNI was found to carry traffic: `flannel-vxlan`, `calico-vxlan`, `calico-ipip`, or `calico-direct` where Calico has
    /// no device for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub cni: Option<String>,
    /// How it reaches a leader of its location, where another node leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<HopInUse>,
    /// Of a leader: whether its tunnels to other locations are up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::links")]
    pub links: Vec<Link>,
    /// Of a leader: the Peers attached to it that it does not talk to, for want of their preshared keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::unkeyed_peers")]
    pub unkeyed_peers: Vec<UnkeyedPeer>,
    /// Of a leader: the Peers attached to it with which it has had a handshake, and whether they are connected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::attached_peers")]
    pub attached_peers: Vec<AttachedPeer>,
    /// Of a leader: the nodes of its location that have not answered it for some seconds, and nodes of other locations of which only
    /// leaders have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::silent_members")]
    pub silent_members: Vec<SilentMember>,
    /// The leaders that this node has not used for some seconds because another does better: of its own location those that answer it
    /// and through which nothing arrives, and, where it leads itself, those of other locations that do not answer it, or hand
    /// nothing on there. Nothing is lost while another is used instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::avoided_leaders")]
    pub avoided_leaders: Vec<AvoidedLeader>,
    /// No trace of Spanwire is left on the node, as `spec.retire` asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// Ready: False says what the agent cannot do, and what would help. Accepted, by the operator: False says what of the
    /// node's claims was not granted, or cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// A Peer whose preshared key a leader does not know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct UnkeyedPeer {
    /// The Peer.
    #[schemars(length(max = 253))]
    pub peer: String,
    /// Why, and what would help.
    #[schemars(length(max = schema::LONGEST_CAUSE))]
    pub cause: String,
}

/// A Peer that a leader has a tunnel to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachedPeer {
    /// The Peer.
    #[schemars(length(max = 253))]
    pub peer: String,
    /// It is connected: from a handshake on, until there has been none for a quarter of an hour. WireGuard makes one every two minutes
    /// while packets go, those of a keepalive too. A Peer to which neither side sends keepalives looks like one that is gone
    /// while it has nothing to say; one that comes and goes is taken for connected longer each time, up to four hours.
    pub connected: bool,
    /// When its last handshake was, as it was when `connected` changed. It is not written again at each handshake.
    pub last_handshake: Time,
}

/// A node that a leader does not reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SilentMember {
    /// The node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Since when, what of it is not reached, and what would help.
    #[schemars(length(max = schema::LONGEST_CAUSE))]
    pub cause: String,
}

/// A leader that a node does not use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct AvoidedLeader {
    /// The location that it leads.
    #[schemars(length(max = 63))]
    pub location: String,
    /// The leader.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Of a leader of the node's own location: the other location at which nothing arrives through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub towards: Option<String>,
}

/// The implementation of WireGuard in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Backend {
    /// The kernel's own.
    Kernel,
    /// `spanwire-tunnel`.
    Userspace,
    /// What a newer version calls by a name that this one does not know. It is never written.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// The device by which a node sends to a leader of its location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HopInUse {
    /// The device.
    #[schemars(length(max = 15))]
    pub device: String,
    /// Why by that one.
    pub reason: HopReason,
}

/// Why a node sends to a leader of its location by the device that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HopReason {
    /// Calico's own route to the leader takes it.
    CalicoRoute,
    /// The CNI carries packets between nodes by it.
    CniDevice,
    /// The location's hop is a VXLAN of Spanwire's own, and it is that.
    OwnVxlan,
    /// The leader is in a network that is connected by it, and the CNI has no device of its own.
    ConnectedNetwork,
    /// What a newer version calls by a name that this one does not know. It is never written.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// The tunnel of a leader to a location.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// The other location.
    #[schemars(length(max = 63))]
    pub location: String,
    /// Whether a leader of it answers.
    pub up: bool,
}
