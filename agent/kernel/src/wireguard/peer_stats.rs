//! What a WireGuard device counts for each of its peers.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use netlink_packet_wireguard::{WireguardPeer, WireguardPeerAttribute};
use spanwire_host::PeerStats;
use spanwire_topology::PublicKey;

use super::hex::unhex;

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

/// Returns the counters in an answer in the userspace protocol that was read at `now`; the answer has been found to be one
/// before.
pub(crate) fn of_answer(answer: &str, now: SystemTime) -> Stats {
    let mut stats = Stats::new();
    let mut peer: Option<&mut PeerStats> = None;
    let mut seconds = 0;
    for (name, value) in answer.lines().filter_map(|line| line.split_once('=')) {
        match (name, peer.as_deref_mut()) {
            ("public_key", _) => {
                peer = unhex(value).map(|key| stats.entry(PublicKey::new(*key)).or_default());
            }
            ("endpoint", Some(peer)) => peer.endpoint = value.parse().ok(),
            ("last_handshake_time_sec", Some(peer)) => {
                seconds = value.parse().unwrap_or_default();
                peer.set_handshake(seconds, 0, now);
            }
            ("last_handshake_time_nsec", Some(peer)) => {
                peer.set_handshake(seconds, value.parse().unwrap_or_default(), now);
            }
            ("rx_bytes", Some(peer)) => peer.received = value.parse().unwrap_or_default(),
            ("tx_bytes", Some(peer)) => peer.sent = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    stats
}

trait SetHandshake {
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
    fn an_answer_counts_by_peer() {
        let answer = format!(
            "listen_port=7\nrx_bytes=9\npublic_key={}\nendpoint=192.0.2.1:3\nlast_handshake_time_sec=4\n\
             last_handshake_time_nsec=5\nrx_bytes=6\ntx_bytes=7\npublic_key={}\nlast_handshake_time_sec=0\n\
             last_handshake_time_nsec=0\nerrno=0\n\n",
            "01".repeat(32),
            "02".repeat(32),
        );
        let expected = [
            (PublicKey::new([1; 32]), stats()),
            (PublicKey::new([2; 32]), PeerStats::default()),
        ];
        assert_eq!(of_answer(&answer, now()), expected.into());
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
