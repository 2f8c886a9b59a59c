//! Blocks of Calico's IPAM (`crd.projectcalico.org/v1`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use spanwire_topology::{NodeName, PodSource, Prefix};

use super::{NetworkObject, NodeNetworks, SourceObject, foreign_kind, text};

/// The state of a block that its node has. `pending` is one that it is about to get, `pendingDeletion` one that it gives up, of
/// which it has no pod any more.
const CONFIRMED: &str = "confirmed";
/// The type of the affinity of a host, and of every one before Calico 3.30, which has others: for the addresses of services.
const HOST: &str = "host";

/// That a node has a block, which it takes the addresses of its pods from. A node may have several.
#[derive(Clone, Debug, Deserialize)]
pub struct BlockAffinity {
    /// Its name.
    pub metadata: ObjectMeta,
    /// Which block, and which node.
    pub spec: BlockAffinitySpec,
}

/// What is used of the spec of a BlockAffinity.
#[derive(Clone, Debug, Deserialize)]
pub struct BlockAffinitySpec {
    /// The block.
    #[serde(deserialize_with = "text")]
    pub cidr: Prefix,
    /// The node, by the name that Calico gives it: that of the Node, unless `CALICO_NODENAME` says otherwise.
    #[serde(deserialize_with = "text")]
    pub node: NodeName,
    /// How far it has come.
    pub state: String,
    /// Whether it is being deleted: a text, as older releases of Calico wrote it.
    #[serde(default)]
    pub deleted: String,
    /// What has the block; a host where it is not said.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
}

foreign_kind!(
    BlockAffinity,
    "BlockAffinity",
    "crd.projectcalico.org",
    "v1",
    "blockaffinities"
);

impl SourceObject for BlockAffinity {
    const SOURCE: PodSource = PodSource::Calico;
}

impl NetworkObject for BlockAffinity {
    fn networks(&self) -> Vec<NodeNetworks> {
        let spec = &self.spec;
        if spec
            .kind
            .as_deref()
            .is_some_and(|kind| !kind.is_empty() && kind != HOST)
        {
            return Vec::new();
        }
        let held = spec.state == CONFIRMED && spec.deleted != "true";
        vec![NodeNetworks {
            node: spec.node.clone(),
            networks: held.then_some(spec.cidr).into_iter().collect(),
        }]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As `kubectl get blockaffinities.crd.projectcalico.org -o json` prints one of Calico 3.28.
    const OBJECT: &str = include_str!("../../../tests/data/blockaffinity.json");

    fn with(field: &str, value: Value) -> Result<Vec<NodeNetworks>, String> {
        let said = |error: serde_json::Error| error.to_string();
        let mut object: Value = serde_json::from_str(OBJECT).map_err(said)?;
        object["spec"][field] = value;
        let read: BlockAffinity = serde_json::from_value(object).map_err(said)?;
        Ok(read.networks())
    }

    fn networks(field: &str, value: &str) -> Vec<String> {
        let [read] = &with(field, json!(value)).unwrap()[..] else {
            panic!("it is about one node");
        };
        assert_eq!(read.node.as_str(), "a2");
        read.networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_block_that_is_confirmed_and_not_being_deleted_is_its_nodes() {
        assert_eq!(networks("state", "confirmed"), ["10.245.17.64/26"]);
        assert_eq!(networks("deleted", "false"), ["10.245.17.64/26"]);
        assert_eq!(
            networks("cidr", "fd00:10:245:a1::40/122"),
            ["fd00:10:245:a1::40/122"]
        );
        for (field, value) in [
            ("state", "pending"),
            ("state", "pendingDeletion"),
            ("state", "of a later version"),
            ("deleted", "true"),
        ] {
            assert!(networks(field, value).is_empty(), "{field}: {value}");
        }
    }

    #[test]
    fn a_block_of_something_else_than_a_host_says_nothing_of_a_node() {
        assert_eq!(with("type", json!("virtual")), Ok(Vec::new()));
        assert_eq!(networks("type", "host"), ["10.245.17.64/26"]);
        assert_eq!(networks("type", ""), ["10.245.17.64/26"]);
    }

    #[test]
    fn one_that_cannot_be_read_says_what_is_wrong() {
        for (field, value, said) in [
            ("cidr", json!("10.245.17.65/26"), "write 10.245.17.64/26"),
            ("cidr", json!("x"), "is no IP network"),
            ("cidr", json!(null), "string"),
            ("node", json!("A2"), "'A'"),
            ("deleted", json!(true), "string"),
        ] {
            let problem = with(field, value).unwrap_err();
            assert!(problem.contains(said), "{field}: {problem}");
        }
    }
}
