//! Names that the API server sees, each defined once: the group and its version, labels, field managers, Leases. Keys of
//! annotations stand in [`annotations`](crate::annotations).
//!
//! The derive of the resources takes text alone; a test holds it to [`GROUP`] and [`VERSION`].

use spanwire_topology::NodeName;

/// The group of the resources.
pub const GROUP: &str = "spanwire.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// Both, as `apiVersion` names them.
pub const API_VERSION: &str = "spanwire.dev/v1alpha1";

/// The field manager of what the operator writes, and its name in Events.
pub const OPERATOR: &str = "spanwire-operator";
/// The field manager of what agents write.
pub const AGENT: &str = "spanwire-agent";

/// The Lease of the operator that leads.
pub const OPERATOR_LEASE: &str = "spanwire-operator";
/// The ConfigMap in which the operator remembers what it generated.
pub const OPERATOR_MEMORY: &str = "spanwire-operator";
/// Where it remembers there the pool of IPv6 overlay addresses.
pub const OVERLAY6: &str = "overlay6";
/// What the name of the Lease of a leader's agent begins with; the name of its node follows.
pub const LEADER_LEASE_PREFIX: &str = "spanwire-leader-";

/// The Secret that agents may read, as the chart has it, and its user may have it otherwise.
pub const PRESHARED_KEYS: &str = "spanwire-preshared-keys";

/// The label of a LocationSlice with the name of its location, and of nothing else.
pub const LOCATION_LABEL: &str = "spanwire.dev/location";
/// The label of the head of a location with the namespace of the installation that published it. Only operators may write
/// LocationSlices, so it says which installation has the mesh.
pub const INSTALLATION_LABEL: &str = "spanwire.dev/installation";
/// The label beside it with the name of the installation among those of its namespace. The Lease of the operators has both.
pub const INSTALLATION_NAME_LABEL: &str = "spanwire.dev/installation-name";
/// The label of a Location that the operator created, and deletes again when no node mentions it and no user changed it.
pub const MANAGED_LABEL: &str = "spanwire.dev/managed";
/// The label of a Peer that `kubectl spanwire connect` created, and deletes again, with what stands for the machine that it runs on.
pub const CONNECTED_LABEL: &str = "spanwire.dev/connected-from";

/// Returns the name of the Lease that the agent of a leader renews.
#[must_use]
pub fn leader_lease(node: &NodeName) -> String {
    format!("{LEADER_LEASE_PREFIX}{node}")
}

/// Returns the node whose agent renews the Lease of this name.
#[must_use]
pub fn node_of_lease(name: &str) -> Option<NodeName> {
    name.strip_prefix(LEADER_LEASE_PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use kube::Resource;

    use super::*;
    use crate::{Location, LocationSlice, MeshNode, Peer, annotations};

    #[test]
    fn the_resources_have_the_group_and_the_version() {
        fn of<K: Resource<DynamicType = ()>>() -> [String; 3] {
            [K::group(&()), K::version(&()), K::api_version(&())].map(|text| text.into_owned())
        }
        let all = [
            of::<Location>(),
            of::<LocationSlice>(),
            of::<MeshNode>(),
            of::<Peer>(),
        ];
        assert!(
            all.iter().all(|names| *names == [GROUP, VERSION, API_VERSION]),
            "{all:?}"
        );
        let prefix = format!("{GROUP}/");
        assert!(
            [
                LOCATION_LABEL,
                MANAGED_LABEL,
                INSTALLATION_LABEL,
                INSTALLATION_NAME_LABEL,
                CONNECTED_LABEL,
                annotations::PREFIX
            ]
            .iter()
            .all(|key| key.starts_with(&prefix))
        );
    }

    #[test]
    fn a_lease_names_its_node() {
        let node: NodeName = "a1.example.com".parse().unwrap();
        assert_eq!(node_of_lease(&leader_lease(&node)), Some(node));
        for other in [OPERATOR_LEASE, "spanwire-leader-", "spanwire-leader-A", "a1"] {
            assert_eq!(node_of_lease(other), None, "{other}");
        }
    }
}
