//! By which address CNIs know a node, as their agents write it on the Node.

use std::net::IpAddr;

use super::Node;

/// What Calico's agent writes, with the length of the network.
const CALICO: [&str; 2] = ["projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address"];

/// What flannel writes.
const FLANNEL: [&str; 2] = [
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ipv6",
];

/// A CNI that looks for the node's address by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seeker {
    /// calico-node, with `IP=autodetect`.
    Calico,
    /// flannel, without `--iface`, also that of k3s.
    Flannel,
}

/// By which address a CNI knows a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddressOfCni {
    /// Who has found it.
    pub by: Seeker,
    /// The annotation that says so.
    pub annotation: &'static str,
    /// The address.
    pub address: IpAddr,
}

/// Returns by which addresses CNIs know a node, other than those that the Node itself has. What cannot be read is theirs to mend.
#[must_use]
pub fn addresses_of_cnis(node: &Node) -> Vec<NodeAddressOfCni> {
    let Some(annotations) = &node.metadata.annotations else {
        return Vec::new();
    };
    let calicos = CALICO.map(|annotation| (Seeker::Calico, annotation));
    let flannels = FLANNEL.map(|annotation| (Seeker::Flannel, annotation));
    let read = |(by, annotation): (Seeker, &'static str)| {
        let value = annotations.get(annotation)?;
        let address = value.split_once('/').map_or(&**value, |(address, _)| address);
        let address = address.parse().ok()?;
        Some(NodeAddressOfCni {
            by,
            annotation,
            address,
        })
    };
    let own = |address: IpAddr| {
        let mut known = node.status.addresses.iter();
        known.any(|known| known.address.parse() == Ok(address))
    };
    let found = calicos.into_iter().chain(flannels).filter_map(read);
    found.filter(|found| !own(found.address)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_of_calico_and_flannel_are_read_and_what_the_node_has_is_passed_over() {
        let found = |annotations: serde_json::Value| {
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": "a1", "annotations": annotations},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.11"}, {"type": "Hostname", "address": "a1"}]},
            }))
            .unwrap();
            let found = addresses_of_cnis(&node).into_iter();
            let text = |found: NodeAddressOfCni| format!("{:?} {}", found.by, found.address);
            found.map(text).collect::<Vec<_>>()
        };
        let calico = json!({
            "projectcalico.org/IPv4Address": "10.4.0.11/16", "projectcalico.org/IPv6Address": "fd00:4::11/64",
            "projectcalico.org/IPv4VXLANTunnelAddr": "10.245.0.0",
        });
        assert_eq!(found(calico), ["Calico 10.4.0.11", "Calico fd00:4::11"]);
        let flannel = json!({
            "flannel.alpha.coreos.com/public-ip": "10.4.0.11", "flannel.alpha.coreos.com/public-ipv6": "fd00:4::11",
            "flannel.alpha.coreos.com/backend-type": "host-gw",
        });
        assert_eq!(found(flannel), ["Flannel 10.4.0.11", "Flannel fd00:4::11"]);
        let own = json!({
            "projectcalico.org/IPv4Address": "192.168.1.11/24", "flannel.alpha.coreos.com/public-ip": "192.168.1.11",
        });
        assert_eq!(found(own), [""; 0]);
        let unread = json!({"projectcalico.org/IPv4Address": "?", "flannel.alpha.coreos.com/public-ip": ""});
        assert_eq!(found(unread), [""; 0]);
    }
}
