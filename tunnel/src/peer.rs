//! One peer of a device: what was configured and what was seen.

use std::{net::SocketAddr, time::SystemTime};

use crate::{
    key::{PresharedKey, PublicKey},
    noise::Noise,
};

/// A peer's place in its device, and the upper 24 bits of the indices in its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// One peer. Its allowed IPs stand in the device's trie.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub public: PublicKey,
    /// The key shared with it.
    pub preshared: Option<PresharedKey>,
    /// Where its last authentic message came from, or what was configured since.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; zero is none.
    pub keepalive: u16,
    /// When the newest session was confirmed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of authentic datagrams received.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent.
    pub tx_bytes: u64,
    /// The protocol, as soon as the device has a private key.
    pub(crate) noise: Option<Noise>,
    /// A handshake is to be started, and a keepalive to be sent, when the configuration of this peer is complete.
    pub(crate) wants: Wants,
}

/// What a change of configuration leaves to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) handshake: bool,
    pub(crate) keepalive: bool,
}

impl Peer {
    pub(crate) fn new(public: PublicKey) -> Self {
        Self {
            public,
            preshared: None,
            endpoint: None,
            keepalive: 0,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            noise: None,
            wants: Wants::default(),
        }
    }
}
