//! Which addresses of Calico's blocks are whose (`crd.projectcalico.org/v1`).
//!
//! Calico itself routes by it: Felix sends what is for a block to the node that has the block, and what is for an address in it that
//! another node has to that one (`NonAffineAllocations` of libcalico-go, `lib/backend/model/block.go`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use spanwire_topology::{NodeName, Prefix};

use super::{NetworkObject, NodeNetworks, Text, foreign_kind, text};

/// What stands before the name of the node that has the block. Other blocks are for the addresses of services.
const HOST: &str = "host:";
/// No block is larger: `blockSize` of an IPPool is /20 at the most, with IPv6 /116.
const MOST_BITS: u8 = 12;

/// A block, with who has each of its addresses.
#[derive(Clone, Debug, Deserialize)]
pub struct IpamBlock {
    /// Its name.
    pub metadata: ObjectMeta,
    /// The block.
    pub spec: IpamBlockSpec,
}

/// What is used of the spec of an IPAMBlock.
#[derive(Clone, Debug, Deserialize)]
pub struct IpamBlockSpec {
    /// The block.
    #[serde(deserialize_with = "text")]
    pub cidr: Prefix,
    /// Which node has it, as `host:NAME`; none where the node has given it up and others have addresses of it.
    #[serde(default)]
    pub affinity: Option<String>,
    /// It is being deleted.
    #[serde(default)]
    pub deleted: bool,
    /// For each address in its order, where in `attributes` it stands who has it; null where it is free.
    pub allocations: Vec<Option<usize>>,
    /// Who has addresses.
    pub attributes: Vec<IpamAttributes>,
}

/// Who has an address.
#[derive(Clone, Debug, Deserialize)]
pub struct IpamAttributes {
    /// The pod, and its node.
    #[serde(default)]
    pub secondary: Option<IpamOwner>,
}

/// What is used of who has an address.
#[derive(Clone, Debug, Deserialize)]
pub struct IpamOwner {
    /// The node, by the name that Calico gives it. What is reserved on Windows has none.
    #[serde(default)]
    node: Option<Text<NodeName>>,
}

foreign_kind!(
    IpamBlock,
    "IPAMBlock",
    "crd.projectcalico.org",
    "v1",
    "ipamblocks"
);

impl IpamBlock {
    /// The API version and the kind of these objects.
    pub const OBJECT_KIND: (&str, &str) = ("crd.projectcalico.org/v1", "IPAMBlock");
}

impl NetworkObject for IpamBlock {
    /// Addresses that nodes have of it, but for the node that has the block.
    fn networks(&self) -> Vec<NodeNetworks> {
        let spec = &self.spec;
        let has_nodes = spec
            .affinity
            .as_deref()
            .is_none_or(|affinity| affinity.is_empty() || affinity.starts_with(HOST));
        let size = spec.cidr.family().bits() - spec.cidr.length();
        if spec.deleted || !has_nodes || size > MOST_BITS {
            return Vec::new();
        }
        let affine = spec
            .affinity
            .as_deref()
            .and_then(|affinity| affinity.strip_prefix(HOST));
        let mut of_nodes: BTreeMap<&NodeName, BTreeSet<Prefix>> = BTreeMap::new();
        for (address, allocation) in spec.cidr.hosts().zip(&spec.allocations) {
            let owner = allocation.and_then(|place| spec.attributes.get(place)?.secondary.as_ref());
            let Some(Text(node)) = owner.and_then(|owner| owner.node.as_ref()) else {
                continue;
            };
            if affine != Some(node.as_str()) {
                of_nodes.entry(node).or_default().insert(address);
            }
        }
        let networks = of_nodes.into_iter();
        networks
            .map(|(node, networks)| NodeNetworks {
                node: node.clone(),
                networks,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As `kubectl get ipamblocks.crd.projectcalico.org -o json` prints one of Calico 3.28, with /29 as the size of blocks: a1 has the
    /// block and the address of its VXLAN device, a1 and b2 have pods, and one address is reserved.
    const OBJECT: &str = include_str!("../../../tests/data/ipamblock.json");

    fn with(field: &str, value: Value) -> Result<Vec<String>, String> {
        let said = |error: serde_json::Error| error.to_string();
        let mut object: Value = serde_json::from_str(OBJECT).map_err(said)?;
        object["spec"][field] = value;
        let read: IpamBlock = serde_json::from_value(object).map_err(said)?;
        let text = |said: &NodeNetworks| {
            let networks: Vec<String> = said.networks.iter().map(ToString::to_string).collect();
            format!("{} {}", said.node, networks.join(" "))
        };
        Ok(read.networks().iter().map(text).collect())
    }

    #[test]
    fn an_address_of_another_node_than_has_the_block_is_borrowed() {
        let borrowed = ["b2 10.245.1.3/32 10.245.1.6/32"];
        assert_eq!(with("deleted", json!(false)).unwrap(), borrowed);
        assert_eq!(
            with("affinity", json!("host:b2")).unwrap(),
            ["a1 10.245.1.0/32 10.245.1.2/32"]
        );
        assert_eq!(with("allocations", json!([0, null])).unwrap(), [""; 0]);
    }

    #[test]
    fn of_a_block_that_no_node_has_all_addresses_are() {
        for none in [Value::Null, json!("")] {
            assert_eq!(
                with("affinity", none).unwrap(),
                ["a1 10.245.1.0/32 10.245.1.2/32", "b2 10.245.1.3/32 10.245.1.6/32"]
            );
        }
        assert_eq!(with("affinity", json!("virtual:load-balancer")).unwrap(), [""; 0]);
        assert_eq!(with("deleted", json!(true)).unwrap(), [""; 0]);
    }

    #[test]
    fn of_ipv6_the_addresses_are_counted_from_the_first_too() {
        assert_eq!(
            with("cidr", json!("fd00:10:245::1:40/122")).unwrap(),
            ["b2 fd00:10:245::1:43/128 fd00:10:245::1:46/128"]
        );
    }

    #[test]
    fn what_lies_behind_the_block_or_points_nowhere_says_nothing() {
        assert_eq!(
            with("cidr", json!("10.245.1.0/30")).unwrap(),
            ["b2 10.245.1.3/32"]
        );
        assert_eq!(
            with("cidr", json!("10.245.0.0/16")).unwrap(),
            [""; 0],
            "no block is so large"
        );
        assert_eq!(with("attributes", json!([])).unwrap(), [""; 0]);
        assert_eq!(with("allocations", json!([7, 2])).unwrap(), ["b2 10.245.1.1/32"]);
    }

    #[test]
    fn one_that_cannot_be_read_says_what_is_wrong() {
        let attributes = json!([{"secondary": {"node": "B 2"}}]);
        for (field, value, said) in [
            ("cidr", json!("10.245.1.1/29"), "write 10.245.1.0/29"),
            ("allocations", json!([-1]), "-1"),
            ("allocations", Value::Null, "sequence"),
            ("attributes", attributes, "'B'"),
        ] {
            let problem = with(field, value).unwrap_err();
            assert!(problem.contains(said), "{field}: {problem}");
        }
    }
}
