//! Which Nodes are machines of clouds.

/// How `spec.providerID` begins on machines of clouds whose networks deliver by who owns an address: AWS, Azure, Google, OpenStack
/// (port security), Hetzner, DigitalOcean, Linode, IBM, Oracle, Scaleway. What runs on the machines of a site has other names
/// (`vsphere://`, `metal3://`, `k3s://`, `kind://`).
const CLOUDS: [&str; 10] = [
    "aws",
    "azure",
    "gce",
    "openstack",
    "hcloud",
    "digitalocean",
    "linode",
    "ibm",
    "oci",
    "scaleway",
];

/// Returns whether a machine is one of a cloud's whose network delivers by who owns an address.
pub(super) fn is_of_a_cloud(provider_id: &str) -> bool {
    let scheme = provider_id.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| CLOUDS.contains(&scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_are_known_by_how_they_name_machines() {
        for name in [
            "aws:///eu-central-1a/i-0123456789abcdef0",
            "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/v/virtualMachines/0",
            "gce://project/europe-west1-b/node",
            "openstack:///0123",
            "hcloud://42",
        ] {
            assert!(is_of_a_cloud(name), "{name}");
        }
        for name in [
            "",
            "aws",
            "k3s://a1",
            "kind://docker/kind/a1",
            "vsphere://42",
            "awsome://x",
        ] {
            assert!(!is_of_a_cloud(name), "{name}");
        }
    }
}
