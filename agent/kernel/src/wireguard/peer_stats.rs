//! What a WireGuard device counts for each of its peers.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use netlink_packet_wireguard::{WireguardPeer, WireguardPeerAttribute};
use spanwire_host::PeerStats;
use spanwire_topology::PublicKey;

/// The counters of a device, by peer.
pub(crate) type Stats = BTreeMap<PublicKey, PeerStats>;

/// Returns the key of the peer that a part of a netlink dump is about.
pub(crate) fn key_of(attributes: &WireguardPeer) -> Option<PublicKey> {
    attributes.iter().find_map(|attribute| {
        if let WireguardPeerAttribute::PublicKey(key) = attribute {
            Some(PublicKey::new(*key))
        } else {
            None
        }
    })
}

/// Adds the counters in one part of a netlink dump that was read at `now`. Of a peer that comes in several parts only the
/// first has any (`get_peer` in drivers/net/wireguard/netlink.c).
pub(crate) fn count(stats: &mut Stats, attributes: &WireguardPeer, now: SystemTime) {
    let Some(key) = key_of(attributes) else { return };
    let peer = stats.entry(key).or_default();
    for attribute in attributes.iter() {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the set-up is read elsewhere")]
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
            WireguardPeerAttribute::LastHandshake(at) => {
                peer.set_handshake(at.seconds, at.nano_seconds, now);
            }
            WireguardPeerAttribute::RxBytes(bytes) => peer.received = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => peer.sent = *bytes,
            _ => {}
        }
    }
}

/// Entering the time of a handshake.
pub(super) trait SetHandshake {
    /// Enters the time of the last handshake, since 1970, of which the first instant stands for never.
    fn set_handshake(&mut self, seconds: i64, nanoseconds: i64, now: SystemTime);
}

impl SetHandshake for PeerStats {
    fn set_handshake(&mut self, seconds: i64, nanoseconds: i64, now: SystemTime) {
        let at = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        let at = at.and_then(|seconds| Some(Duration::new(seconds, u32::try_from(nanoseconds).ok()?)));
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.handshake_at = at;
        // The clock may have been set back since.
        self.handshake = at.map(|at| now.saturating_sub(at));
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_wireguard::WireguardTimeSpec;

    use super::*;

    /// Ten seconds and five nanoseconds after 1970 began.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(10, 5)
    }

    fn stats() -> PeerStats {
        PeerStats {
            endpoint: Some("192.0.2.1:3".parse().unwrap()),
            handshake: Some(Duration::from_secs(6)),
            handshake_at: Some(Duration::new(4, 5)),
            received: 6,
            sent: 7,
        }
    }

    #[test]
    fn a_peer_in_parts_counts_once() {
        let key = WireguardPeerAttribute::PublicKey([1; 32]);
        let first = WireguardPeer(vec![
            key.clone(),
            WireguardPeerAttribute::Endpoint("192.0.2.1:3".parse().unwrap()),
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec {
                seconds: 4,
                nano_seconds: 5,
            }),
            WireguardPeerAttribute::RxBytes(6),
            WireguardPeerAttribute::TxBytes(7),
        ]);
        let mut found = Stats::new();
        count(&mut found, &first, now());
        count(&mut found, &WireguardPeer(vec![key]), now());
        assert_eq!(found, [(PublicKey::new([1; 32]), stats())].into());
    }

    #[test]
    fn a_handshake_after_a_clock_that_was_set_back_is_just_now() {
        let age = |seconds, nanoseconds| {
            let mut stats = PeerStats::default();
            stats.set_handshake(seconds, nanoseconds, now());
            stats.handshake
        };
        assert_eq!(age(11, 0), Some(Duration::ZERO));
        assert_eq!(age(0, 7), None);
    }
}
