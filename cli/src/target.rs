//! What is named on the command line, as kubectl names it, and its addresses.

use std::net::IpAddr;

use spanwire_topology::Mesh;

/// What the kinds of the group are named with in full.
const OF_GROUP: &str = ".spanwire.dev";

/// What a name on the command line may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(IpAddr),
    /// A pod, with its namespace where that is said with it.
    Pod(Option<String>, String),
    /// A service, the same.
    Service(Option<String>, String),
    /// A node.
    Node(String),
    /// A location: its first active leader.
    Location(String),
    /// A Peer.
    Peer(String),
    /// A node, a location or a Peer, whichever has the name.
    Any(String),
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let unknown = || {
            "is none of: an address, NODE, node/NAME, pod/NAME, pod/NAMESPACE/NAME, service/NAME, \
             service/NAMESPACE/NAME, location/NAME, peer/NAME"
                .to_owned()
        };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(unknown());
        }
        let own = |name: &str| name.to_owned();
        let kind = parts[0].to_lowercase();
        Ok(match (kind.as_str(), &parts[1..]) {
            (_, []) => Self::Any(own(text)),
            ("pod" | "pods" | "po", [name]) => Self::Pod(None, own(name)),
            ("pod" | "pods" | "po", [namespace, name]) => Self::Pod(Some(own(namespace)), own(name)),
            ("service" | "services" | "svc", [name]) => Self::Service(None, own(name)),
            ("service" | "services" | "svc", [namespace, name]) => {
                Self::Service(Some(own(namespace)), own(name))
            }
            ("node" | "nodes" | "no", [name]) => Self::Node(own(name)),
            // As `-o name` writes them, too.
            (kind, [name]) => match kind.strip_suffix(OF_GROUP).unwrap_or(kind) {
                "location" | "locations" | "loc" => Self::Location(own(name)),
                "peer" | "peers" | "swp" => Self::Peer(own(name)),
                "meshnode" | "meshnodes" | "swn" => Self::Node(own(name)),
                _ => return Err(unknown()),
            },
            _ => return Err(unknown()),
        })
    }
}

/// Returns an address of a node, a location or a Peer; `v6` picks the family where there is a choice.
///
/// # Errors
/// Where the mesh has nothing of this name, or it has no address.
pub fn address(mesh: &Mesh, target: &Target, v6: bool) -> Result<IpAddr, String> {
    let member = |name: &str| {
        let members = mesh
            .locations
            .values()
            .flat_map(|location| location.members.iter());
        members.into_iter().find(|(node, _)| node.as_str() == name)
    };
    let of_node = |name: &str| {
        let (_, member) = member(name)?;
        let pods = member.prefixes.iter().map(|prefix| prefix.address());
        Some(member.addresses.iter().copied().chain(pods).collect::<Vec<_>>())
    };
    let of_location = |name: &str| {
        let (_, location) = mesh.locations.iter().find(|(known, _)| known.as_str() == name)?;
        Some(
            location
                .active()
                .next()
                .and_then(|leader| of_node(leader.as_str()))
                .unwrap_or_default(),
        )
    };
    let of_peer = |name: &str| {
        let (_, peer) = mesh.peers.iter().find(|(known, _)| known.as_str() == name)?;
        Some(
            peer.allowed_ips
                .iter()
                .map(|prefix| prefix.address())
                .collect::<Vec<_>>(),
        )
    };
    let (name, found) = match target {
        Target::Address(address) => return Ok(*address),
        Target::Pod(_, name) | Target::Service(_, name) => {
            return Err(format!("{name}: only a cluster knows its address"));
        }
        Target::Node(name) => (name, of_node(name)),
        Target::Location(name) => (name, of_location(name)),
        Target::Peer(name) => (name, of_peer(name)),
        Target::Any(name) => (
            name,
            of_node(name)
                .or_else(|| of_location(name))
                .or_else(|| of_peer(name)),
        ),
    };
    let found = found.ok_or_else(|| {
        format!("the mesh has nothing of the name {name}; `kubectl get locations,meshnodes,peers` shows what it has")
    })?;
    let of_family = found.iter().find(|address| address.is_ipv6() == v6);
    of_family
        .or(found.first())
        .copied()
        .ok_or_else(|| format!("the mesh routes no address of {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_a_name_or_a_kind_with_a_name() {
        let of = |text: &str| text.parse::<Target>();
        assert_eq!(of("10.0.0.1"), Ok(Target::Address("10.0.0.1".parse().unwrap())));
        assert_eq!(of("fd00::1"), Ok(Target::Address("fd00::1".parse().unwrap())));
        assert_eq!(of("a1"), Ok(Target::Any("a1".to_owned())));
        let (namespace, name) = (|| Some("n".to_owned()), || "x".to_owned());
        for text in ["pod/x", "pods/x", "po/x", "Pod/x"] {
            assert_eq!(of(text), Ok(Target::Pod(None, name())), "{text}");
        }
        assert_eq!(of("pod/n/x"), Ok(Target::Pod(namespace(), name())));
        for text in ["svc/x", "service/x", "services/x"] {
            assert_eq!(of(text), Ok(Target::Service(None, name())), "{text}");
        }
        assert_eq!(of("svc/n/x"), Ok(Target::Service(namespace(), name())));
        for text in ["node/x", "nodes/x", "no/x", "swn/x", "meshnode.spanwire.dev/x"] {
            assert_eq!(of(text), Ok(Target::Node(name())), "{text}");
        }
        for text in ["location/x", "loc/x", "location.spanwire.dev/x"] {
            assert_eq!(of(text), Ok(Target::Location(name())), "{text}");
        }
        for text in ["peer/x", "swp/x", "peer.spanwire.dev/x"] {
            assert_eq!(of(text), Ok(Target::Peer(name())), "{text}");
        }
        for bad in [
            "",
            "gizmo/x",
            "node/x/y",
            "a/b/c/d",
            "pod/",
            "/x",
            "pod//x",
            "pod.spanwire.dev/x",
        ] {
            assert!(of(bad).unwrap_err().contains("node/NAME"), "{bad}");
        }
    }
}
