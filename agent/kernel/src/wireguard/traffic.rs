//! What a WireGuard device counts for each of its peers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use netlink_packet_wireguard::{WireguardPeer, WireguardPeerAttribute};
use spanwire_topology::PublicKey;

/// What the device counts for one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Where the peer was last heard, or is looked for.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was.
    pub handshake: Option<SystemTime>,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
}

/// By peer.
pub(crate) type Counted = BTreeMap<PublicKey, Traffic>;

/// Adds what one part of a netlink dump tells of a peer. Of a peer that is told in several parts only the first counts
/// anything (`get_peer` in drivers/net/wireguard/netlink.c).
pub(crate) fn count(counted: &mut Counted, attributes: &WireguardPeer) {
    let key = attributes.iter().find_map(|attribute| {
        if let WireguardPeerAttribute::PublicKey(key) = attribute {
            Some(PublicKey::new(*key))
        } else {
            None
        }
    });
    let Some(key) = key else { return };
    let traffic = counted.entry(key).or_default();
    for attribute in attributes.iter() {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the set-up is read elsewhere")]
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => traffic.endpoint = Some(*endpoint),
            WireguardPeerAttribute::LastHandshake(at) => {
                traffic.handshake = at_unix(at.seconds, at.nano_seconds);
            }
            WireguardPeerAttribute::RxBytes(bytes) => traffic.received = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => traffic.sent = *bytes,
            _ => {}
        }
    }
}

/// What an answer in the userspace protocol counts; the answer has been found to be one before.
pub(crate) fn of_answer(answer: &str) -> Counted {
    let mut counted = Counted::new();
    let mut peer: Option<&mut Traffic> = None;
    let mut seconds = 0;
    for (name, value) in answer.lines().filter_map(|line| line.split_once('=')) {
        match (name, peer.as_deref_mut()) {
            ("public_key", _) => {
                peer = super::uapi::unhex(value).map(|key| counted.entry(PublicKey::new(*key)).or_default());
            }
            ("endpoint", Some(traffic)) => traffic.endpoint = value.parse().ok(),
            ("last_handshake_time_sec", Some(traffic)) => {
                seconds = value.parse().unwrap_or_default();
                traffic.handshake = at_unix(seconds, 0);
            }
            ("last_handshake_time_nsec", Some(traffic)) => {
                traffic.handshake = at_unix(seconds, value.parse().unwrap_or_default());
            }
            ("rx_bytes", Some(traffic)) => traffic.received = value.parse().unwrap_or_default(),
            ("tx_bytes", Some(traffic)) => traffic.sent = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    counted
}

/// A time since 1970, of which the first instant stands for never.
fn at_unix(seconds: i64, nanoseconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    let nanoseconds = u32::try_from(nanoseconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use netlink_packet_wireguard::WireguardTimeSpec;

    use super::*;

    fn traffic() -> Traffic {
        Traffic {
            endpoint: Some("192.0.2.1:3".parse().unwrap()),
            handshake: Some(SystemTime::UNIX_EPOCH + Duration::new(4, 5)),
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
            (PublicKey::new([1; 32]), traffic()),
            (PublicKey::new([2; 32]), Traffic::default()),
        ];
        assert_eq!(of_answer(&answer), expected.into());
    }

    #[test]
    fn a_peer_told_in_parts_counts_once() {
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
        let mut counted = Counted::new();
        count(&mut counted, &first);
        count(&mut counted, &WireguardPeer(vec![key]));
        assert_eq!(counted, [(PublicKey::new([1; 32]), traffic())].into());
    }
}
