//! One peer of a device: what was configured and what was seen.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    key::{PresharedKey, PublicKey},
    noise::Noise,
    path::Path,
};

/// One peer. Its allowed IPs stand in the device's trie.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub public: PublicKey,
    /// The key shared with it.
    pub preshared: Option<PresharedKey>,
    /// Where its last authentic message came from, or what was configured since.
    pub endpoint: Option<SocketAddr>,
    /// Which of this machine's addresses it is written to from.
    pub(crate) local: Local,
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
            local: Local::default(),
            keepalive: 0,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            noise: None,
            wants: Wants::default(),
        }
    }

    /// Returns how it is reached, if that is known.
    pub(crate) fn path(&self) -> Option<Path> {
        let (remote, local) = (self.endpoint?, self.local.addr);
        Some(Path { remote, local })
    }
}

/// A peer that has been sent data answers within KEEPALIVE_TIMEOUT (10 s). A peer silent for longer than that and some time on
/// the way may be out of reach from the address that it wrote to last.
const SILENCE: Duration = Duration::from_secs(12);
/// The first byte of a handshake initiation.
const INITIATION: u8 = 1;

/// Which of this machine's addresses a peer's last authentic message was sent to, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Local {
    /// None also since the endpoint was configured, and while the peer is silent.
    pub(crate) addr: Option<IpAddr>,
    heard: Option<Instant>,
}

impl Local {
    /// Records that an authentic message came.
    pub(crate) fn received(&mut self, now: Instant, addr: Option<IpAddr>) {
        let heard = Some(now);
        *self = Self { addr, heard };
    }

    /// Returns what this datagram is to be sent from. A silent peer is sent its initiations, and what follows, from
    /// wherever the kernel chooses, as the kernel's WireGuard does (`wg_expired_new_handshake`,
    /// `wg_expired_retransmit_handshake`).
    pub(crate) fn choose(&mut self, now: Instant, datagram: &[u8]) -> Option<IpAddr> {
        let silent = || {
            self.heard
                .is_none_or(|at| now.saturating_duration_since(at) >= SILENCE)
        };
        if self.addr.is_some() && datagram.first() == Some(&INITIATION) && silent() {
            self.addr = None;
        }
        self.addr
    }
}
