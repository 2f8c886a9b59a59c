//! A datagram into the tunnel, which gives WireGuard a reason to shake hands and the other side one to answer.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use spanwire_topology::PublicKey;

/// The discard service (RFC 863); the other kernel drops the datagram, or answers 'port unreachable'.
const DISCARD: u16 = 9;

/// An empty datagram to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stimulus {
    /// The peer that it is for.
    pub peer: PublicKey,
    /// The node's own overlay address: every leader accepts it, that of a standby leader too.
    pub source: SocketAddr,
    /// The peer's overlay address.
    pub destination: SocketAddr,
}

impl Stimulus {
    /// Returns the datagram to the overlay address of a peer, from one of the node's own of the same family, or, where
    /// there is none, from what the kernel chooses.
    #[must_use]
    pub fn new(peer: PublicKey, own: &BTreeSet<IpAddr>, overlay: IpAddr) -> Self {
        let any = match overlay {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let source = own.iter().copied().find(|own| own.is_ipv4() == overlay.is_ipv4());
        Self {
            peer,
            source: SocketAddr::new(source.unwrap_or(any), 0),
            destination: SocketAddr::new(overlay, DISCARD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_the_own_overlay_address_of_the_same_family() {
        let own = ["10.4.0.1", "fd00::1"].map(|text| text.parse().unwrap()).into();
        let stimulus = |own, to: &str| Stimulus::new(PublicKey::new([1; 32]), own, to.parse().unwrap());
        let ends = |stimulus: Stimulus| (stimulus.source.to_string(), stimulus.destination.to_string());
        let expected = |source: &str, to: &str| (source.to_owned(), to.to_owned());
        assert_eq!(
            ends(stimulus(&own, "10.4.0.2")),
            expected("10.4.0.1:0", "10.4.0.2:9")
        );
        assert_eq!(
            ends(stimulus(&own, "fd00::2")),
            expected("[fd00::1]:0", "[fd00::2]:9")
        );
        let none = BTreeSet::new();
        assert_eq!(
            ends(stimulus(&none, "10.4.0.2")),
            expected("0.0.0.0:0", "10.4.0.2:9")
        );
    }
}
