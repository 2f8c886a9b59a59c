//! The OpenAPI schemas of the fields that people fill in, with CEL rules whose messages say what to write instead, and
//! the CustomResourceDefinitions as they are published.
//!
//! Every string and list has a largest size, because the API server estimates the cost of a rule from these and refuses
//! a definition that could be too expensive. `isCIDR`, `cidr` and `isIP` exist since Kubernetes 1.31.

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::CustomResourceExt;
use schemars::{JsonSchema as _, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use spanwire_topology::PublicKey;

use crate::{Location, LocationSlice, MeshNode, Peer, conditions::LONGEST_MESSAGE};

/// How many Peers without their preshared key a MeshNode names at most.
pub const MOST_UNKEYED_PEERS: usize = 256;

/// How many Peers that are attached to a leader its MeshNode names at most.
pub const MOST_ATTACHED_PEERS: usize = 512;

/// How many nodes that a leader does not reach its MeshNode names at most.
pub const MOST_SILENT_MEMBERS: usize = 64;

/// How many leaders that a node does not use its MeshNode names at most.
pub const MOST_AVOIDED_LEADERS: usize = 64;

/// The longest cause of these, in bytes; the schema counts characters.
pub const LONGEST_CAUSE: usize = 1024;

/// The largest number of networks that one Location or Peer may name.
const MAX_PREFIXES: usize = 256;

/// Returns the definitions of all resources, as the API server gets them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [
        Location::crd(),
        LocationSlice::crd(),
        MeshNode::crd(),
        Peer::crd(),
    ]
    .into_iter()
    .map(finish)
    .collect()
}

fn finish(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    let is_location = definition.spec.names.kind == "Location";
    let mut value = serde_json::to_value(&definition).expect("a definition is plain data");
    let root = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    plain(root);
    let fields = root
        .as_object_mut()
        .expect("the schema of a resource is an object");
    fields.remove("title");
    if is_location {
        // A Location without a spec is one with the defaults.
        fields.remove("required");
        fields["properties"]["spec"]["default"] = json!({});
        fields.insert(
            "x-kubernetes-validations".to_owned(),
            // Of the whole object, which every write of its status changes: one that is older than the rule would get no
            // status any more. Rules about fields are asked of changed fields alone.
            json!([{
                "rule": "oldSelf.hasValue() || self.metadata.name.size() <= 63",
                "message": "the name of a location has at most 63 characters; choose a shorter one",
                "optionalOldSelf": true,
            }]),
        );
    }
    serde_json::from_value(value).expect("a definition is still one after its schema was trimmed")
}

/// Removes what schemars adds for other readers than the API server: `nullable` (an explicit null is dropped by the
/// API server instead, so that rules need not know of it), number formats that Kubernetes does not know, and defaults
/// that only restate that a field is absent.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("nullable");
            if map.get("format").is_some_and(foreign) {
                map.remove("format");
            }
            if map.get("default").is_some_and(empty) {
                map.remove("default");
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn foreign(format: &Value) -> bool {
    format.as_str().is_some_and(|format| format.starts_with("uint"))
}

fn empty(default: &Value) -> bool {
    match default {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) | Value::String(_) => false,
    }
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

fn prefix_item() -> Value {
    json!({
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [
            rule(
                "isCIDR(self) || isIP(self)",
                "is no IP network; write it like 192.168.10.0/24 or fd00:10::/64",
            ),
            rule(
                "!self.startsWith('::ffff:')",
                "is an IPv4 network written as IPv6; write the IPv4 network that is meant",
            ),
            // Without naming the network: the API server takes that for a text of any length, too costly to build.
            rule(
                "!isCIDR(self) || cidr(self).masked() == cidr(self)",
                "has bits set behind its length; write the network's first address, like 10.1.2.0/24 for 10.1.2.7/24",
            ),
            rule(
                "!isCIDR(self) || cidr(self).prefixLength() > 0",
                "a default route cannot go through the mesh; name the networks that are meant",
            ),
            rule(
                "!isCIDR(self) || cidr(self).prefixLength() == 0 || cidr('fc00::/7').containsCIDR(cidr(self)) \
                 || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 8 : 16)",
                "is a large part of all addresses, like half a default route; name the networks that are meant",
            ),
        ],
    })
}

/// Returns the schema of `cidrs`.
pub(crate) fn prefixes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": MAX_PREFIXES, "items": prefix_item()})
}

/// Returns the schema of `allowedIPs`.
pub(crate) fn allowed_ips(_: &mut SchemaGenerator) -> Schema {
    let mut item = prefix_item();
    if let Some(rules) = item["x-kubernetes-validations"].as_array_mut() {
        rules.push(rule(
            "!self.startsWith('64:ff9b:')",
            "is of a NAT64 gateway, in which IPv4 addresses are written as IPv6; write the IPv4 network that is meant",
        ));
    }
    json_schema!({
        "type": "array",
        "maxItems": MAX_PREFIXES,
        "items": item,
        "x-kubernetes-validations": [rule(
            "self.size() > 0",
            "is empty; write the addresses that the peer sends from, like 10.199.0.7/32",
        )],
    })
}

/// The rules of [`Endpoint`](spanwire_topology::Endpoint), which reads the annotations of nodes: a value that passes here
/// is read there. Each rule but the first ones holds where the shape is not right, so that people read one message.
fn endpoint_value() -> Value {
    const TEXT: &str = "self.trim()";
    const SHAPE: &str = r"self.trim().matches('^(\\[[0-9a-fA-F:.]+\\]|[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?[.]?):[0-9]{1,9}$')";
    let host = format!(
        "({TEXT}.startsWith('[') ? {TEXT}.substring(1, {TEXT}.indexOf(']')) : {TEXT}.substring(0, {TEXT}.lastIndexOf(':')))"
    );
    let shaped = |then: &str| format!("!{SHAPE} || {then}");
    json!({
        "type": "string",
        "maxLength": 320,
        "x-kubernetes-validations": [
            rule(
                "!self.contains('://')",
                "has a scheme; write host:port alone, like vpn.example.com:51820",
            ),
            rule(
                "self.contains('://') || !self.matches('[/?#@]')",
                "has more than host and port; write these two alone, like vpn.example.com:51820",
            ),
            rule(
                r"self.contains('://') || !self.matches('^[^\\[\\]]*:[^\\[\\]]*:')",
                "has an IPv6 address without brackets; write it like [2001:db8::1]:51820",
            ),
            rule(
                SHAPE,
                "is no host:port; write it like 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.com:51820; host names \
                 have letters, digits, '-' and '.', others are written in ASCII, like xn--bcher-kva.example",
            ),
            rule(
                &shaped(&format!(
                    "({TEXT}.matches(':[1-9][0-9]{{0,4}}$') && int({TEXT}.substring({TEXT}.lastIndexOf(':') + 1)) <= 65535)"
                )),
                "has no valid port; write a number from 1 to 65535 behind the last ':', without leading zeros",
            ),
            rule(
                &shaped(&format!("!{TEXT}.startsWith('[') || (isIP({host}) && ip({host}).family() == 6)")),
                "has no IPv6 address in its brackets; write an IPv4 address or a name without them, like 192.0.2.1:51820",
            ),
            rule(
                &shaped(&format!("isIP({host}) || !{host}.matches('^[0-9.]+$')")),
                "has no IPv4 address in front of its port; write four numbers from 0 to 255, without leading zeros",
            ),
            rule(
                &shaped(&format!(
                    "(isIP({host}) ? ip({host}).isGlobalUnicast() : !{host}.lowerAscii().matches('^localhost[.]?$'))"
                )),
                "has a host at which no other host can be reached; write an address or a name that others can reach",
            ),
        ],
    })
}

fn schema_of(value: Value) -> Schema {
    value.try_into().expect("an object is a schema")
}

/// Returns the schema of an endpoint, as host:port.
pub(crate) fn endpoint(_: &mut SchemaGenerator) -> Schema {
    schema_of(endpoint_value())
}

/// Returns the schema of seconds between keepalives.
pub(crate) fn keepalive(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0, "maximum": 65535})
}

/// Returns the schema of a WireGuard key in base64.
pub(crate) fn public_key(_: &mut SchemaGenerator) -> Schema {
    let points = PublicKey::low_order().into_iter().skip(1);
    let points: Vec<String> = points.map(|point| format!("'{point}'")).collect();
    let low_order = format!("!(self in [{}])", points.join(", "));
    json_schema!({
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [
            rule(
                "self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')",
                "is no WireGuard key; write the 44 characters that `wg pubkey` prints",
            ),
            rule(
                "self != 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='",
                "is the key of all zeroes; write the 44 characters that `wg pubkey` prints",
            ),
            rule(
                &low_order,
                "is a point of low order, which protects nothing; write the 44 characters that `wg pubkey` prints",
            ),
        ],
    })
}

/// The key in a Secret that is meant where none is named.
pub(crate) const PRESHARED_KEY: &str = "presharedKey";

/// Returns the schema of the name of a Secret.
pub(crate) fn secret_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 253,
        "x-kubernetes-validations": [rule(
            "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
            "is no name of a Secret; write lower-case letters, digits, '-' and '.', like spanwire-preshared-keys",
        )],
    })
}

/// Returns the schema of a key in a Secret.
pub(crate) fn secret_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "default": PRESHARED_KEY,
        "maxLength": 253,
        "x-kubernetes-validations": [rule(
            "self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')",
            "is no key in a Secret; write letters, digits, '-', '_' and '.', like laptop",
        )],
    })
}

/// Returns the schema of the Peers whose preshared key is not known: a map from the Peer.
pub(crate) fn unkeyed_peers(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST_UNKEYED_PEERS,
        "items": generator.subschema_for::<crate::UnkeyedPeer>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["peer"],
    })
}

/// Returns the schema of the Peers that a leader has tunnels to: a map from the Peer.
pub(crate) fn attached_peers(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST_ATTACHED_PEERS,
        "items": generator.subschema_for::<crate::AttachedPeer>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["peer"],
    })
}

/// Returns the schema of the nodes that a leader does not reach: a map from the node.
pub(crate) fn silent_members(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST_SILENT_MEMBERS,
        "items": generator.subschema_for::<crate::SilentMember>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["node"],
    })
}

/// Returns the schema of the leaders that a node does not use.
pub(crate) fn avoided_leaders(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST_AVOIDED_LEADERS,
        "items": generator.subschema_for::<crate::AvoidedLeader>(),
    })
}

/// Returns the schema of the name of a location.
pub(crate) fn location_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 253,
        "x-kubernetes-validations": [rule(
            "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$') && self.size() <= 63",
            "is no name of a location; write one of those that `kubectl get locations` shows",
        )],
    })
}

/// Returns the schema of bare IP addresses.
pub(crate) fn addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "type": "string",
            "maxLength": 64,
            "x-kubernetes-validations": [rule("isIP(self)", "is no IP address; write one like 10.0.0.1 or fd00::1")],
        },
    })
}

/// Returns the schema of the links of a leader: a map from the location.
pub(crate) fn links(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 1024,
        "items": generator.subschema_for::<crate::Link>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["location"],
    })
}

/// Returns the schema of conditions: a map from the type. Their texts are bounded as the API server bounds those of its own
/// objects, but for the message.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut condition = Condition::json_schema(generator).to_value();
    let fields = &mut condition["properties"];
    fields["type"]["maxLength"] = json!(316);
    fields["reason"]["maxLength"] = json!(1024);
    fields["status"]["enum"] = json!(["True", "False", "Unknown"]);
    fields["message"]["maxLength"] = json!(LONGEST_MESSAGE);
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// Returns the schema of the number of a decision.
pub(crate) fn generation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

/// Returns the file name and the text of each definition, for the chart.
///
/// # Panics
/// Never: a definition is plain data.
#[must_use]
pub fn files() -> Vec<(String, String)> {
    definitions()
        .into_iter()
        .map(|definition| {
            let name = format!("{}.yaml", definition.spec.names.plural);
            let mut value = serde_json::to_value(&definition).expect("a definition is plain data");
            value
                .as_object_mut()
                .map(|map: &mut Map<_, _>| map.remove("status"));
            (
                name,
                serde_saphyr::to_string(&value).expect("plain data has a YAML text"),
            )
        })
        .collect()
}
