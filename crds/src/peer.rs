//! The Peer: a WireGuard party outside the cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A WireGuard party outside the cluster: a laptop, a router, another cluster.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spanwire.dev",
    version = "v1alpha1",
    kind = "Peer",
    shortname = "swp",
    category = "spanwire",
    status = "PeerStatus",
    derive = "PartialEq",
    doc = "A WireGuard party outside the cluster: a laptop, a router, another cluster.",
    printcolumn(name = "Home", type_ = "string", json_path = ".status.accepted.home"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.endpoint"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Connected", type_ = "string", json_path = ".status.connectedTo"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PeerSpec {
    /// Its WireGuard key, as `wg pubkey` prints it.
    #[schemars(schema_with = "schema::public_key")]
    pub public_key: String,
    /// The networks behind it: what it may send from, and what is sent to it.
    #[serde(rename = "allowedIPs")]
    #[schemars(schema_with = "schema::allowed_ips")]
    pub allowed_ips: Vec<String>,
    /// Where it is reached, as host:port, where it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::endpoint")]
    pub endpoint: Option<String>,
    /// Seconds between the keepalives that leaders send to it. 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::keepalive")]
    pub persistent_keepalive: Option<u16>,
    /// The location that it attaches to. Without it: every location whose leaders anyone can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::location_name")]
    pub location: Option<String>,
    /// Where the preshared key is that it has to have too: a Secret in Spanwire's namespace, one of those that the chart's value
    /// agent.presharedKeySecrets names. Leaders do not talk to the peer before they have read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key_secret_ref: Option<PresharedKeySecretRef>,
}

/// A key of a Secret in Spanwire's namespace whose value is what `wg genpsk` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct PresharedKeySecretRef {
    /// The name of the Secret.
    #[schemars(schema_with = "schema::secret_name")]
    pub name: String,
    /// The key in it.
    #[serde(default = "preshared_key")]
    #[schemars(schema_with = "schema::secret_key")]
    pub key: String,
}

fn preshared_key() -> String {
    schema::PRESHARED_KEY.to_owned()
}

/// What the operator made of a Peer. Agents follow this, never the spec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// What of the spec stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<AcceptedPeer>,
    /// The locations whose first active leader is connected with it, as that leader reports: from a handshake on, until there has been none
    /// for a quarter of an hour. A Peer to which neither side sends keepalives looks like one that is gone while it has nothing to
    /// say; one that comes and goes is taken for connected longer each time, up to four hours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(max = 63)))]
    pub connected_to: Vec<String>,
    /// When the last handshake was, as it was when that changed. It is not written again at each handshake; `kubectl spanwire peer list`
    /// asks the leaders for the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Time>,
    /// Accepted, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What of a Peer stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct AcceptedPeer {
    /// Its WireGuard key.
    #[schemars(length(max = 64))]
    pub public_key: String,
    /// The networks behind it.
    #[serde(rename = "allowedIPs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(max = 64)))]
    pub allowed_ips: Vec<String>,
    /// Where it is reached, where it can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub endpoint: Option<String>,
    /// Seconds between the keepalives that leaders send to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
    /// Where its preshared key is. An agent that cannot read this leaves the peer out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key_secret_ref: Option<PresharedKeySecretRef>,
    /// Through this location the locations without an attachment reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub home: Option<String>,
    /// The locations whose first active leader has a tunnel to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(max = 63)))]
    pub attachments: Vec<String>,
}
